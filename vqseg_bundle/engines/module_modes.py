"""Train and eval modes that come back as they were, module by module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["modes_kept"]


@contextmanager
def modes_kept(network: nn.Module) -> Iterator[None]:
    """Put every module back into its own mode, train or eval, at the end.

    Args:
        network: whose mode changes within.
    """
    modes = [(module, module.training) for module in network.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
