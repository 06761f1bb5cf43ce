"""QPM against a loop over the distinct codes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from scripts.benchmark.comparison import CaseDefinition, Comparison, Contender, Plan, product_seconds
from scripts.benchmark.inputs import CODEBOOK_KINDS, make_codebook, make_indices
from scripts.benchmark.reference_code import published_perturbation, published_quantizer
from vqseg_bundle.layers import QuantizedPerturbation

__all__ = ["LARGE_PERTURBATION", "PERTURBATION", "loop_over_codes"]

_STRENGTH = 0.7
_LOOP_SECONDS_A_CODE = 0.018  # rough, at K 16,384 and D 384


@torch.no_grad()
def loop_over_codes(indices: Tensor, codebook: Tensor, strength: float) -> Tensor:
    """QPM at temperature 1 as its equation reads: one row of distances and one draw for each distinct code.

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


def _our_loop(tokens: int, codes: int, width: int, kind: str, device: str) -> Callable[[], Tensor]:
    indices, codebook = make_indices(tokens, codes, device), make_codebook(codes, width, device, kind)
    return partial(loop_over_codes, indices, codebook, _STRENGTH)


def _published(directory: str, tokens: int, codes: int, width: int, kind: str, device: str) -> Callable[[], Tensor]:
    quantizer = published_quantizer(directory, make_codebook(codes, width, device, kind))
    perturb = published_perturbation(directory, quantizer, _STRENGTH)
    return partial(torch.no_grad()(perturb), make_indices(tokens, codes, device))


def _ours(
    temperature: float | str, tokens: int, codes: int, width: int, kind: str, device: str
) -> Callable[[], Tensor]:
    indices, codebook = make_indices(tokens, codes, device), make_codebook(codes, width, device, kind)
    return partial(QuantizedPerturbation(_STRENGTH, temperature).perturb_indices, indices, codebook)


def _rows_product(tokens: int, codes: int, width: int, kind: str, device: str) -> Callable[[], Tensor]:
    codebook = make_codebook(codes, width, device, kind)
    distinct = make_indices(tokens, codes, device).unique()
    rows = codebook[distinct[: round(_STRENGTH * len(distinct))]]
    return partial(torch.mm, rows, codebook.t())


def _comparison(plan: Plan, tokens: int, codes: int, width: int, kind: str, loop_once: bool) -> Comparison:
    sizes = (tokens, codes, width, kind, plan.device)
    moved = round(_STRENGTH * tokens)
    rows_seconds = product_seconds(moved, codes, width)
    loop, name = partial(_our_loop, *sizes), "loop over the distinct codes"
    if plan.reference_code:
        loop, name = partial(_published, plan.reference_code, *sizes), "published loop"
    loop_seconds = moved * _LOOP_SECONDS_A_CODE * codes * width / (16384 * 384)
    contenders = (
        Contender(name, loop, loop_seconds, once=loop_once),
        Contender("ours, T = 1", partial(_ours, 1.0, *sizes), 3 * rows_seconds),
        Contender('ours, T = "auto"', partial(_ours, "auto", *sizes), 3 * rows_seconds),
        Contender(
            "torch.mm of the moved codes' rows", partial(_rows_product, *sizes), rows_seconds, 4.0 * moved * codes
        ),
    )
    setting = {"N": tokens, "D": width, "K": codes, "eps": _STRENGTH, "codebook": kind}
    return Comparison(setting, contenders, baseline=name)


def _build(plan: Plan) -> list[Comparison]:
    sizes = (16, 256, 16) if plan.quick else (1024, 16384, 384)
    return [_comparison(plan, *sizes, kind, False) for kind in CODEBOOK_KINDS]


def _build_large(plan: Plan) -> list[Comparison]:
    sizes = (64, 256, 16) if plan.quick else (8192, 16384, 384)
    return [_comparison(plan, *sizes, kind, True) for kind in CODEBOOK_KINDS]


_NOTE = (
    "N indices, drawn uniformly. The baseline is the loop, one row of distances and one draw a distinct code: the "
    "published code's, or where that is not given one of our own that does the same. The codebook at initialisation "
    "has codewords of squared norm about 1, the spread one of about 30."
)

PERTURBATION = CaseDefinition("Quantised perturbation (QPM)", _NOTE, _build)
LARGE_PERTURBATION = CaseDefinition(
    "Quantised perturbation (QPM), many tokens",
    "As above; the loop runs once, in the process that reads its memory.",
    _build_large,
)
