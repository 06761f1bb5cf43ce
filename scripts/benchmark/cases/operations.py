"""Our operations on many tokens: 65,536 of a 3D feature map, and over a range of N and K."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from scripts.benchmark.comparison import CaseDefinition, Comparison, Contender, Plan, product_seconds
from scripts.benchmark.inputs import make_codebook, make_indices, make_tokens
from scripts.benchmark.peers import lucidrains_search, missing_package, monai_search
from vqseg_bundle.layers import Codes, QuantizedPerturbation, VectorQuantizer, code_use_entropy, nearest_code

__all__ = ["OPERATIONS", "SCALING", "VOLUME"]

_STRENGTH = 0.7


def _search(tokens: int, codes: int, width: int, device: str) -> Callable[[], Tensor]:
    return partial(nearest_code, make_tokens(tokens, width, device), make_codebook(codes, width, device))


def _perturbation(tokens: int, codes: int, width: int, device: str) -> Callable[[], Tensor]:
    indices, codebook = make_indices(tokens, codes, device), make_codebook(codes, width, device)
    return partial(QuantizedPerturbation(_STRENGTH).perturb_indices, indices, codebook)


def _entropy(tokens: int, codes: int, width: int, device: str) -> Callable[[], Tensor]:
    features = make_tokens(tokens, width, device).requires_grad_()
    codebook = make_codebook(codes, width, device).requires_grad_()

    def work() -> Tensor:
        value = code_use_entropy(features, codebook)
        torch.autograd.grad(value, (features, codebook))
        return value.detach()

    return work


#: Our operations with their rough times in units of the product N x D x K.
OPERATIONS = {"search": (_search, 1.3), "QPM": (_perturbation, 3.0), "entropy term": (_entropy, 6.0)}


def _all_together(shape: tuple[int, int, int], codes: int, width: int, device: str) -> Callable[[], Tensor]:
    quantizer = VectorQuantizer(3, codes, width, entropy_temperature=1.0).to(device).train()
    perturbation = QuantizedPerturbation(_STRENGTH)
    tokens = shape[0] * shape[1] * shape[2]
    features = make_tokens(tokens, width, device).t().reshape(1, width, *shape).contiguous().requires_grad_()
    parameters = [features, *quantizer.parameters()]

    def work() -> Tensor:
        codebook = quantizer.project_codebook()
        output = quantizer(features, codebook)
        decoded = perturbation(output.quantized, Codes(output.indices, codebook.detach()))
        loss = decoded.square().mean() + output.commitment_loss + output.entropy_loss
        torch.autograd.grad(loss, parameters)
        return loss.detach()

    return work


def _build_volume(plan: Plan) -> list[Comparison]:
    shape, codes, width = ((4, 4, 4), 256, 8) if plan.quick else ((64, 32, 32), 16384, 128)
    tokens = shape[0] * shape[1] * shape[2]
    sizes, matrix = (tokens, codes, width, plan.device), 4.0 * tokens * codes
    seconds = product_seconds(tokens, codes, width)
    peers = (("MONAI", monai_search, ""), ("vector-quantize-pytorch", lucidrains_search, "vector_quantize_pytorch"))
    contenders = [
        Contender(
            "ours, forward and backward",
            partial(_all_together, shape, codes, width, plan.device),
            10 * seconds,
            once=True,
        )
    ]
    contenders += [
        Contender(
            f"{name}, search alone",
            partial(prepare, *sizes),
            5 * seconds,
            4.1 * matrix,
            once=True,
            unavailable=missing_package(package) if package else "",
        )
        for name, prepare, package in peers
    ]
    setting = {"features": f"(1, {width}, {', '.join(map(str, shape))})", "tokens": tokens, "K": codes}
    return [Comparison(setting, tuple(contenders))]


def _build_scaling(plan: Plan) -> list[Comparison]:
    counts = (32, 64) if plan.quick else (1024, 4096, 16384, 65536)
    (tokens, codes, width) = (32, 64, 8) if plan.quick else (8192, 16384, 128)
    sizes = [(count, codes) for count in counts] + [(tokens, count) for count in counts]
    return [
        Comparison(
            {"N": n, "K": k, "D": width},
            tuple(
                Contender(name, partial(prepare, n, k, width, plan.device), product_seconds(n, k, width, products))
                for name, (prepare, products) in OPERATIONS.items()
            ),
        )
        for n, k in dict.fromkeys(sizes)
    ]


VOLUME = CaseDefinition(
    "Many tokens of a 3D feature map",
    "Quantiser, QPM and code-use entropy together, forward and backward to features and mapping; one run, in the "
    "process that reads its memory. The other libraries' searches alone stand beside it.",
    _build_volume,
)
SCALING = CaseDefinition(
    "Over the number of tokens and codes",
    "Ours alone; the entropy term forward and backward. QPM's work grows with the distinct codes, of which there are "
    "at most K.",
    _build_scaling,
)
