"""Keys of batches that several layers read, and numbers that are not finite: found cheaply, and named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = [
    "FEATURES",
    "SOURCE",
    "NonFiniteError",
    "all_finite",
    "exact_dtype",
    "is_memory_full",
    "named_tensors",
    "non_finite_names",
]

#: foundation-model features of the weak views, ``(B, C_f, *G)``
FEATURES = "foundation_features"
#: names of the images' files
SOURCE = "source"


class NonFiniteError(ArithmeticError):
    """A loss, gradient or weight is not finite; the message says which, and what to do."""


def exact_dtype(device: torch.device) -> torch.dtype:
    """The widest floating-point type of a device: float64, but float32 on Apple's MPS, which has no other."""
    import torch  # here, so that commands that need none of it start at once

    return torch.float32 if device.type == "mps" else torch.float64


def is_memory_full(error: BaseException) -> bool:
    """Whether an error says that the memory of the device does not suffice."""
    import torch  # here, so that commands that need none of it start at once

    # PyTorch has no type for it on a CPU
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error)


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all numbers are finite; waits for a GPU once.

    Args:
        tensors: all on one device; those that are not floating point are skipped.
    """
    import torch  # here, so that commands that need none of it start at once

    floating = [tensor.detach() for tensor in tensors if tensor.is_floating_point() and tensor.numel() > 0]
    if not floating:
        return True
    # norms take few kernels and a tenth of the time; the second look is only for squares that overflow
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(floating)])
    return bool(norms.isfinite().all()) or all(bool(tensor.isfinite().all()) for tensor in floating)


def non_finite_names(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names of the tensors with a non-finite number.

    Args:
        named: such as ``module.named_parameters()``.
    """
    return [name for name, tensor in named if not all_finite([tensor])]


def named_tensors(content: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in a ``state_dict``, named by the keys that lead there, joined by dots.

    Args:
        content: a tensor, or mappings, lists and tuples of tensors; anything else is skipped.
        name: prefix of the names.
    """
    import torch

    if isinstance(content, torch.Tensor):
        yield name, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from named_tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            yield from named_tensors(value, f"{name}.{index}" if name else str(index))
