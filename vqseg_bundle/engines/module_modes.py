"""Restores train and eval modes, module by module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["modes_kept"]


@contextmanager
def modes_kept(network: nn.Module) -> Iterator[None]:
    """Restore every module's mode, train or eval, at the end of the block.

    Args:
        network: its mode may change in the block.
    """
    modes = [(module, module.training) for module in network.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
