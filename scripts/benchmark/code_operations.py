"""Operations on codes: QPM against a loop over codes, the code-use entropy against the plain formula."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from scripts.benchmark.contenders import Case, Comparison, Contender, Plan
from scripts.benchmark.reference_code import published_entropy, published_perturbation, published_quantizer
from scripts.benchmark.searches import CODEBOOK_KINDS, make_codebook, make_indices, make_tokens, our_search
from vqseg_bundle.layers import QuantizedPerturbation, code_use_entropy

__all__ = ["ENTROPY", "LARGE_PERTURBATION", "PERTURBATION", "SCALING", "loop_over_codes", "plain_entropy"]

_STRENGTH = 0.7
_TEMPERATURE = 1.0
_INITIAL = next(iter(CODEBOOK_KINDS))


@torch.no_grad()
def loop_over_codes(indices: Tensor, codebook: Tensor, strength: float) -> Tensor:
    """QPM at temperature 1, literally by its equation: one row of distances and one draw per distinct code.

    Args:
        indices: ``(B, N)``, int64.
        codebook: ``(K, D)``.
        strength: eps.
    """
    moved = torch.rand(indices.shape, device=indices.device) < strength
    output = indices.clone()
    for code in indices[moved].unique().tolist():
        distances = (codebook - codebook[code]).square().sum(dim=1)
        distances[code] = torch.inf
        tokens = moved & (indices == code)
        output[tokens] = torch.softmax(-distances, dim=0).multinomial(int(tokens.sum()), replacement=True)
    return output


def plain_entropy(tokens: Tensor, codebook: Tensor, temperature: float) -> Tensor:
    """Mean entropy of the soft assignments minus the entropy of their mean, literally by the formula.

    Args:
        tokens: ``(N, D)``.
        codebook: ``(K, D)``.
        temperature: T > 0, in units of squared distance.
    """
    norms = tokens.square().sum(dim=1, keepdim=True) + codebook.square().sum(dim=1)
    log_p = torch.log_softmax((2.0 * tokens @ codebook.t() - norms) / temperature, dim=1)
    p = log_p.exp()
    mean = p.mean(dim=0)
    return torch.special.xlogy(mean, mean).sum() - (p * log_p).sum(dim=1).mean()


def _our_loop(kind: str, tokens: int, codes: int, width: int, device: str) -> Callable[[], Tensor]:
    indices, codebook = make_indices(tokens, codes, device), make_codebook(codes, width, device, kind)
    return partial(loop_over_codes, indices, codebook, _STRENGTH)


def _published_loop(
    kind: str, directory: str, tokens: int, codes: int, width: int, device: str
) -> Callable[[], Tensor]:
    quantizer = published_quantizer(directory, make_codebook(codes, width, device, kind))
    perturb = published_perturbation(directory, quantizer, _STRENGTH)
    return partial(torch.no_grad()(perturb), make_indices(tokens, codes, device))


def _our_perturbation(
    kind: str, temperature: float | str, tokens: int, codes: int, width: int, device: str
) -> Callable[[], Tensor]:
    indices, codebook = make_indices(tokens, codes, device), make_codebook(codes, width, device, kind)
    return partial(QuantizedPerturbation(_STRENGTH, temperature).perturb_indices, indices, codebook)


def _rows_product(kind: str, tokens: int, codes: int, width: int, device: str) -> Callable[[], Tensor]:
    codebook = make_codebook(codes, width, device, kind)
    distinct = make_indices(tokens, codes, device).unique()
    rows = codebook[distinct[: round(_STRENGTH * len(distinct))]]
    return partial(torch.mm, rows, codebook.t())


def _compare_perturbations(plan: Plan, tokens: int, codes: int, width: int, kind: str, once: bool) -> Comparison:
    loop, name = partial(_our_loop, kind), "loop over the distinct codes"
    if plan.reference_code:
        loop, name = partial(_published_loop, kind, plan.reference_code), "published loop"
    matrix = 4.0 * _STRENGTH * tokens * codes
    sizes = (tokens, codes, width, plan.device)
    contenders = (
        Contender(name, partial(loop, *sizes), once=once),
        Contender("ours, T = 1", partial(_our_perturbation, kind, 1.0, *sizes)),
        Contender('ours, T = "auto"', partial(_our_perturbation, kind, "auto", *sizes)),
        Contender("torch.mm of the moved codes' rows", partial(_rows_product, kind, *sizes), matrix),
    )
    setting = {"N": tokens, "D": width, "K": codes, "eps": _STRENGTH, "codebook": kind}
    return Comparison(setting, contenders, baseline=name)


def _build_perturbation(large: bool, plan: Plan) -> list[Comparison]:
    sizes = (64 if large else 16, 256, 16) if plan.quick else (8192 if large else 1024, 16384, 384)
    return [_compare_perturbations(plan, *sizes, kind, once=large) for kind in CODEBOOK_KINDS]


def _entropy(
    term: Callable[[Tensor, Tensor, float], Tensor], tokens: int, codes: int, width: int, device: str
) -> Callable[[], Tensor]:
    features = make_tokens(tokens, width, device).requires_grad_()
    codebook = make_codebook(codes, width, device).requires_grad_()

    def work() -> Tensor:
        value = term(features, codebook, _TEMPERATURE)
        torch.autograd.grad(value, (features, codebook))
        return value.detach()

    return work


def _published_entropy(directory: str, tokens: int, codes: int, width: int, device: str) -> Callable[[], Tensor]:
    return _entropy(published_entropy(directory), tokens, codes, width, device)


def _build_entropy(plan: Plan) -> list[Comparison]:
    tokens, codes, width = (64, 256, 16) if plan.quick else (8192, 16384, 384)
    sizes, matrices = (tokens, codes, width, plan.device), 6.0 * 4.0 * tokens * codes
    contenders = [
        Contender("plain formula", partial(_entropy, plain_entropy, *sizes), matrices),
        Contender("ours", partial(_entropy, code_use_entropy, *sizes)),
    ]
    if plan.reference_code:
        published = partial(_published_entropy, plan.reference_code, *sizes)
        contenders.append(Contender("published code", published, matrices))
    setting = {"N": tokens, "D": width, "K": codes, "T": _TEMPERATURE}
    return [Comparison(setting, tuple(contenders), "plain formula")]


def _build_scaling(plan: Plan) -> list[Comparison]:
    counts = (32, 64) if plan.quick else (1024, 4096, 16384, 65536)
    tokens, codes, width = (32, 64, 8) if plan.quick else (8192, 16384, 128)
    operations: dict[str, Callable] = {
        "search": our_search,
        "QPM": partial(_our_perturbation, _INITIAL, "auto"),
        "entropy term": partial(_entropy, code_use_entropy),
    }
    sizes = [(count, codes) for count in counts] + [(tokens, count) for count in counts]
    return [
        Comparison(
            {"N": n, "K": k, "D": width},
            tuple(Contender(name, partial(prepare, n, k, width, plan.device)) for name, prepare in operations.items()),
        )
        for n, k in dict.fromkeys(sizes)
    ]


PERTURBATION = Case(
    "Quantised perturbation (QPM)",
    "N indices, drawn uniformly. The baseline is the loop, one row of distances and one draw a distinct code: the "
    "published code's, or where that is not given one of our own that does the same. The codebook at initialisation "
    "has codewords of squared norm about 1, the spread one of about 30.",
    partial(_build_perturbation, False),
)
LARGE_PERTURBATION = Case(
    "Quantised perturbation (QPM), many tokens",
    "As above; the loop runs once, in the process that reads its memory.",
    partial(_build_perturbation, True),
)
ENTROPY = Case(
    "Code-use entropy",
    "Value and gradients to tokens and codebook. The plain formula keeps N x K matrices for its backward pass.",
    _build_entropy,
)
SCALING = Case(
    "Over the number of tokens and codes",
    "Ours alone; the entropy term forward and backward. QPM's work grows with the distinct codes, of which there are "
    "at most K.",
    _build_scaling,
)
