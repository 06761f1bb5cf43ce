"""Code-use entropy, forward and backward, against the plain formula."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from scripts.benchmark.comparison import CaseDefinition, Comparison, Contender, Plan, product_seconds
from scripts.benchmark.inputs import make_codebook, make_tokens
from scripts.benchmark.reference_code import published_entropy
from vqseg_bundle.layers import code_use_entropy

__all__ = ["ENTROPY", "plain_entropy"]

_BASELINE = "plain formula"
_TEMPERATURE = 1.0


def plain_entropy(tokens: Tensor, codebook: Tensor, temperature: float) -> Tensor:
    """Mean entropy of the soft assignments minus the entropy of their mean, written down as it reads.

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


def _backward(
    term: Callable[[Tensor, Tensor, float], Tensor], tokens: int, codes: int, width: int, device: str
) -> Callable[[], Tensor]:
    features = make_tokens(tokens, width, device).requires_grad_()
    codebook = make_codebook(codes, width, device).requires_grad_()

    def work() -> Tensor:
        value = term(features, codebook, _TEMPERATURE)
        torch.autograd.grad(value, (features, codebook))
        return value.detach()

    return work


def _published(directory: str, tokens: int, codes: int, width: int, device: str) -> Callable[[], Tensor]:
    return _backward(published_entropy(directory), tokens, codes, width, device)


def _build(plan: Plan) -> list[Comparison]:
    tokens, codes, width = (64, 256, 16) if plan.quick else (8192, 16384, 384)
    sizes = (tokens, codes, width, plan.device)
    seconds, matrices = product_seconds(tokens, codes, width, 5.0), 6.0 * 4.0 * tokens * codes
    contenders = [
        Contender(_BASELINE, partial(_backward, plain_entropy, *sizes), seconds, matrices),
        Contender("ours", partial(_backward, code_use_entropy, *sizes), seconds),
    ]
    if plan.reference_code:
        published = partial(_published, plan.reference_code, *sizes)
        contenders.append(Contender("published code", published, seconds, matrices))
    setting = {"N": tokens, "D": width, "K": codes, "T": _TEMPERATURE}
    return [Comparison(setting, tuple(contenders), _BASELINE)]


ENTROPY = CaseDefinition(
    "Code-use entropy",
    "Value and gradients to tokens and codebook. The plain formula keeps N x K matrices for its backward pass.",
    _build,
)
