"""Stops a training in the step in which loss, gradients or weights are not finite."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vqseg_bundle.common import SOURCE, NonFiniteError, all_finite, non_finite_names, process_count
from vqseg_bundle.engines.pseudo_labels import PseudoLabels

__all__ = ["StepGuard"]

logger = logging.getLogger(__name__)

#: Consecutive skipped steps before a warning: by then a loss scale of 2^16 has fallen to 2^-4.
_MANY_SKIPPED = 20
_NAMES_SHOWN = 5


class StepGuard:
    """Check each step of a trainer: the gradients before the optimiser, the weights after it.

    Each check waits for the device once. Several processes stop together.

    Args:
        network: the trained network.
        teacher: the student's average, which is inspected if a loss is not finite.
        epoch_length: iterations of a complete epoch.
        scaled: whether a loss scaler skips steps whose gradients overflow. These are not errors; only many in a row
            give a warning, once.
    """

    def __init__(self, network: nn.Module, teacher: nn.Module, epoch_length: int, scaled: bool = False) -> None:
        self.network = network
        self.teacher = teacher
        self.epoch_length = epoch_length
        self.scaled = scaled
        self._iteration = 0
        self._batches: dict[str, Mapping[str, Any]] = {}
        self._skipped = 0

    def begin(self, iteration: int, labeled: Mapping[str, Any], unlabeled: Mapping[str, Any] | None) -> None:
        """Remember the batches of a step.

        Args:
            iteration: its number, from 1.
            labeled: the labelled batch, with its files under "source" if known.
            unlabeled: the unlabelled batch, or None.
        """
        self._iteration = iteration
        self._batches = {"labelled": labeled} | ({"unlabelled": unlabeled} if unlabeled is not None else {})

    def check_gradients(self, loss: Tensor, norm: Tensor, terms: Any, pseudo: PseudoLabels | None) -> None:
        """Check the step before the optimiser takes it.

        Args:
            loss: the unscaled loss.
            norm: norm of all gradients, unscaled.
            terms: the named terms of the loss, a named tuple of scalars.
            pseudo: the pseudo-labels, or None; hard labels hide non-finite probabilities from the loss.

        Raises:
            NonFiniteError: the loss or pseudo-labels of a process, or the norm, are not finite.
        """
        mass = norm.new_zeros(()) if pseudo is None else pseudo.probabilities.sum()
        flags = torch.stack((loss.detach().float(), norm.detach().float(), mass.float())).isfinite().int()
        if process_count() > 1:
            # gradients are shared, losses are not: no process may be left waiting for the one that stops
            dist.all_reduce(flags, op=dist.ReduceOp.MIN)
        loss_is_finite, norm_is_finite, mass_is_finite = flags.tolist()
        if not loss_is_finite:
            self._stop(_describe_loss(loss, terms), "No weight has been changed by it.")
        if not mass_is_finite:
            self._stop("pseudo-labels are not finite", "No weight has been changed by it.")
        if norm_is_finite:
            self._skipped = 0
        elif self.scaled:
            self._count_skipped()
        else:
            what = f"the norm of the gradients is {norm.item()}, the loss {loss.item():.4g}"
            self._stop(what, "No weight has been changed by it.")

    def check_weights(self) -> None:
        """Check the updated weights before they reach the teacher.

        Raises:
            NonFiniteError: a weight or buffer is not finite.
        """
        if not all_finite(chain(self.network.parameters(), self.network.buffers())):
            names = ", ".join(_shorten(self._spoilt_weights()))
            self._stop(f"the step has left weights that are not finite: {names}", "They are not saved.")

    def _count_skipped(self) -> None:
        self._skipped += 1
        if self._skipped == _MANY_SKIPPED:
            logger.warning(
                "%d steps in a row were skipped, up to iteration %d: the gradients overflow half precision, however "
                "small the loss is scaled, and nothing is learnt. Set amp to false, or lower learning_rate.",
                self._skipped,
                self._iteration,
            )

    def _stop(self, what: str, kept: str) -> None:
        spoilt, weights = _spoilt_files(self._batches), self._spoilt_weights()
        sentences = [f"Training stops in iteration {self._iteration}: {what}.", kept]
        if weights and "weights" not in what:
            sentences.append(f"Weights that are not finite: {', '.join(_shorten(weights))}.")
        if spoilt:
            sentences += [f"Not finite after preprocessing: {', '.join(spoilt)}.", "Mend these files or leave them out"]
            sentences[-1] += "; `vqseg check` says what is wrong with them."
        else:
            sentences += [f"Files of the batch: {_list_files(self._batches)}.", "Look at them"]
            sentences[-1] += " (`vqseg check`); if they are sound, lower learning_rate and train anew."
        if self._iteration > self.epoch_length:
            sentences.append("What was saved last is kept; --resume true goes on from there.")
        else:
            sentences.append("No epoch was completed, so there is no model yet.")
        raise NonFiniteError(" ".join(sentences))

    def _spoilt_weights(self) -> list[str]:
        named = chain(self.network.named_parameters(), self.network.named_buffers())
        teacher = chain(self.teacher.named_parameters("teacher"), self.teacher.named_buffers("teacher"))
        return non_finite_names((name.removeprefix("module."), tensor) for name, tensor in chain(named, teacher))


def _describe_loss(loss: Tensor, terms: Any) -> str:
    if torch.isfinite(loss):
        return "the loss of another process is not finite"
    values = {name: value.item() for name, value in terms._asdict().items() if not torch.isfinite(value)}
    parts = ", ".join(f"{name} {value}" for name, value in values.items() if name != "total")
    return f"the loss is {loss.item()}" + (f" (terms: {parts})" if parts else "")


def _spoilt_files(batches: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Files whose entries in the batch are not finite, each once."""
    found = [
        f"{files[index]} ({kind})"
        for kind, batch in batches.items()
        for files in [_files(batch)]
        for index in range(len(files))
        if not all_finite(_entry(batch, index))
    ]
    return list(dict.fromkeys(found))


def _entry(batch: Mapping[str, Any], index: int) -> Iterator[Tensor]:
    return (value[index] for value in batch.values() if isinstance(value, Tensor) and value.ndim > 0)


def _files(batch: Mapping[str, Any]) -> list[str]:
    return [str(file) for file in batch.get(SOURCE, ())]


def _list_files(batches: Mapping[str, Mapping[str, Any]]) -> str:
    parts = [f"{kind} {', '.join(dict.fromkeys(_files(batch)))}" for kind, batch in batches.items() if _files(batch)]
    return "; ".join(parts) or "not known, as the batches hold no 'source'"


def _shorten(names: Sequence[str]) -> list[str]:
    more = len(names) - _NAMES_SHOWN
    return [*names[:_NAMES_SHOWN], f"and {more} more"] if more > 0 else list(names)
