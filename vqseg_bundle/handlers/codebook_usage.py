"""How much of the codebook an engine uses: gathered from outside, the layer itself keeps no statistics."""

from __future__ import annotations

from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from vqseg_bundle.common import process_count

__all__ = ["CodebookUsage", "codebook_perplexity"]


def codebook_perplexity(counts: Tensor) -> float:
    r"""Perplexity of code use, :math:`\exp(-\sum_k p_k \log p_k)`: K when all codes serve alike, 1 when one does all.

    Args:
        counts: tokens per code, ``(K,)``.

    Returns:
        a number in [1, K]; 0 without any token.
    """
    total = counts.sum().item()
    if total == 0:
        return 0.0
    share = counts.double() / total
    return torch.special.entr(share).sum().exp().item()


class CodebookUsage:
    """Count the codes that a quantiser picks during each epoch of an engine.

    At the end of an epoch ``engine.state.metrics`` gets "codebook_usage" (share of the codes picked at least once) and
    "codebook_perplexity", over all processes. Works with any inferer, since it listens to the quantiser itself.

    Args:
        quantizer: the quantiser to listen to; None (a network without one) reports nothing.

    Attributes:
        counts: tokens per code in the running or last epoch, ``(K,)``, int64.
    """

    def __init__(self, quantizer: nn.Module | None) -> None:
        self.quantizer: Any = quantizer
        self.counts = torch.zeros(0, dtype=torch.int64)
        self._hook: Any = None

    def attach(self, engine: Engine) -> None:
        """Listen during the epochs of ``engine``."""
        if self.quantizer is None:
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._listen)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._report)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._abandon)

    def _listen(self, engine: Engine) -> None:
        self._remove_hook()
        self.counts = torch.zeros(self.quantizer.num_embeddings, dtype=torch.int64)
        self._hook = self.quantizer.register_forward_hook(self._count)

    def _count(self, module: nn.Module, inputs: Any, output: Any) -> None:
        indices = output.indices.flatten()
        if self.counts.device != indices.device:
            self.counts = self.counts.to(indices.device)
        self.counts += torch.bincount(indices, minlength=len(self.counts))

    def _report(self, engine: Engine) -> None:
        self._remove_hook()
        counts: Any = self.counts
        if process_count() > 1:
            counts = idist.all_reduce(counts.to(idist.device()))
        engine.state.metrics["codebook_usage"] = (counts > 0).double().mean().item()
        engine.state.metrics["codebook_perplexity"] = codebook_perplexity(counts)

    def _abandon(self, engine: Engine, error: Exception) -> None:
        self._remove_hook()
        raise error

    def _remove_hook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
