"""The published VQ-Seg code, imported at run time from the user's own checkout; nothing of it is copied here.

https://github.com/script-Yang/VQ-Seg
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

__all__ = [
    "ReferenceCodeError",
    "check_reference_code",
    "prepare_published_step",
    "published_entropy",
    "published_network",
    "published_perturbation",
    "published_quantizer",
]

_URL = "https://github.com/script-Yang/VQ-Seg"
_QUANTISER_MODULE = "model.semseg.dpt"
_QUANTISER_NAMES = ("VectorQuantizer", "get_entropy_loss", "DPT")
_NETWORK_MODULE = "my_model"
_NETWORK_NAMES = ("MyModel",)


class ReferenceCodeError(ValueError):
    """A folder does not contain the published code, or it cannot be imported; the message says what to do."""


def check_reference_code(directory: str) -> None:
    """Import its measured parts.

    Raises:
        ReferenceCodeError: a module, a name or an imported package is missing.
    """
    _import(directory, _QUANTISER_MODULE, _QUANTISER_NAMES)
    _import(directory, _NETWORK_MODULE, _NETWORK_NAMES)


def published_quantizer(directory: str, codebook: Tensor) -> nn.Module:
    """Its quantiser with the given codewords and the identity as projection; input ``(..., D)``.

    Args:
        directory: the checkout.
        codebook: ``(K, D)``.
    """
    quantizer = _import(directory, _QUANTISER_MODULE, _QUANTISER_NAMES).VectorQuantizer(*codebook.shape)
    quantizer = quantizer.to(codebook.device)
    with torch.no_grad():
        quantizer.codebook.weight.copy_(codebook)
        quantizer.embedding_proj.weight.copy_(torch.eye(codebook.shape[1]))
        quantizer.embedding_proj.bias.zero_()
    return quantizer


def published_perturbation(directory: str, quantizer: nn.Module, strength: float) -> Callable[[Tensor], Tensor]:
    """Its QPM on indices ``(B, N)`` at temperature 1, without the network of which it is a method.

    Args:
        directory: the checkout.
        quantizer: from :func:`published_quantizer`.
        strength: eps.
    """
    network_class = _import(directory, _QUANTISER_MODULE, _QUANTISER_NAMES).DPT
    stand_in = SimpleNamespace(vq=quantizer, qpm_eps=strength)

    def perturb(indices: Tensor) -> Tensor:
        return network_class.qpm(stand_in, indices, epo=strength, temperature=1.0)

    return perturb


def published_entropy(directory: str) -> Callable[[Tensor, Tensor, float], Tensor]:
    """Its code-use entropy of tokens ``(N, D)`` and codewords ``(K, D)`` at an inverse temperature."""
    return _import(directory, _QUANTISER_MODULE, _QUANTISER_NAMES).get_entropy_loss


def published_network(directory: str, classes: int, size: str = "small") -> nn.Module:
    """Its network with random weights: DINOv2 encoder ("small" is ViT-S/14), 16,384 codes, DPT head."""
    return _import(directory, _NETWORK_MODULE, _NETWORK_NAMES).MyModel(size, nclass=classes)


def prepare_published_step(directory: str, classes: int, size: int, device: str) -> Callable[[], None]:
    """One step of the published training on random images: 4 labelled, 4 unlabelled in two strong views.

    Args:
        directory: the checkout.
        classes: number of classes.
        size: height and width of the images, a multiple of 14.
        device: "cpu" or "cuda".
    """
    torch.manual_seed(0)
    student = published_network(directory, classes).to(device).train()
    teacher = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.996)).eval()
    optimizer = torch.optim.AdamW((each for each in student.parameters() if each.requires_grad), lr=2e-4)
    labeled, weak = torch.randn(4, 3, size, size, device=device), torch.randn(4, 3, size, size, device=device)
    strong = torch.cat((weak + 0.1, weak - 0.1))
    labels = torch.randint(classes, (4, size, size), device=device)

    def step() -> None:
        with torch.no_grad():
            confidence, pseudo = teacher(weak).softmax(dim=1).max(dim=1)
        logits, labeled_alignment, labeled_usage = student(labeled, use_pfa=True, use_usage=True)
        strong_logits, alignment, usage = student(strong, use_qpm=True, use_pfa=True, use_usage=True)
        unlabeled = F.cross_entropy(strong_logits, torch.cat((pseudo, pseudo)), reduction="none")
        kept = torch.cat((confidence, confidence)) >= 0.95
        segmentation = 2.5 * F.cross_entropy(logits, labels) + 0.5 * (unlabeled * kept).mean()
        loss = segmentation + 0.1 * (labeled_alignment + alignment + labeled_usage + usage)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        teacher.update_parameters(student)

    return step


def _import(directory: str, name: str, wanted: tuple[str, ...]) -> Any:
    root = Path(directory).expanduser().resolve()
    path = root.joinpath(*name.split(".")).with_suffix(".py")
    if not path.is_file():
        raise ReferenceCodeError(
            f"--reference-code {directory}: expected a checkout of the published VQ-Seg code, found no "
            f"{path.relative_to(root)} in it. Clone {_URL} and name its folder."
        )
    module = _import_from(root, name, directory)
    if Path(module.__file__ or "").resolve() != path:
        raise ReferenceCodeError(
            f"--reference-code {directory}: Python imports {name} from {module.__file__} instead. Start with a "
            "PYTHONPATH that holds no other module of that name."
        )
    missing = [each for each in wanted if not hasattr(module, each)]
    if missing:
        raise ReferenceCodeError(
            f"--reference-code {directory}: {path.relative_to(root)} has no {', '.join(missing)}. Name a checkout of "
            f"{_URL} as published."
        )
    return module


def _import_from(root: Path, name: str, directory: str) -> ModuleType:
    sys.path.insert(0, str(root))
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ReferenceCodeError(
            f"--reference-code {directory}: importing {name} failed ({error}). Install what it imports, "
            "for example with: pip install einops"
        ) from error
    finally:
        sys.path.remove(str(root))
