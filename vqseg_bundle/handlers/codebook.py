"""The codebook during training: its use, its maintenance, and snapshots for pictures."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from torch import Tensor, nn

from vqseg_bundle.common import derive_seed, process_count, process_rank, replacing

__all__ = ["CodebookMaintenance", "CodebookSnapshots", "CodebookUsage", "codebook_perplexity"]
logger = logging.getLogger(__name__)


def codebook_perplexity(counts: Tensor) -> float:
    r"""Perplexity of code use, :math:`\exp(-\sum_k p_k \log p_k)`: K if all codes are used equally, 1 if only one is.

    From tokens per code, ``(K,)``; 0 without tokens.
    """
    total = counts.sum().item()
    if total == 0:
        return 0.0
    share = counts.cpu().double() / total
    return torch.special.entr(share).sum().exp().item()


class CodebookUsage:
    """Count a quantiser's codes during each epoch of an engine.

    At the end of an epoch ``engine.state.metrics`` gets "codebook_usage" (share of the codes used at least once) and
    "codebook_perplexity", over all processes. Works with any inferer, since it hooks into the quantiser.

    Args:
        quantizer: the quantiser; None (a network without one) disables the handler.
        training: count only passes with gradient, not those in which a student labels images for itself.

    Attributes:
        counts: tokens per code in the current or last epoch, ``(K,)``, int64.
    """

    def __init__(self, quantizer: nn.Module | None, training: bool = False) -> None:
        self.quantizer: Any = quantizer
        self.training = training
        self.counts = torch.zeros(0, dtype=torch.int64)
        self._hook: Any = None

    def attach(self, engine: Engine) -> None:
        """Attach to ``engine``."""
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
        if self.training and not torch.is_grad_enabled():
            return
        indices = output.indices.flatten()
        if self.counts.device != indices.device:
            self.counts = self.counts.to(indices.device)
        self.counts += torch.bincount(indices, minlength=len(self.counts))

    def _report(self, engine: Engine) -> None:
        self._remove_hook()
        counts: Any = self.counts
        if process_count() > 1:
            counts = idist.all_reduce(counts.to(idist.device()))
        engine.state.metrics["codebook_usage"] = (counts > 0).sum().item() / len(counts)
        engine.state.metrics["codebook_perplexity"] = codebook_perplexity(counts)

    def _abandon(self, engine: Engine, error: Exception) -> None:
        self._remove_hook()
        raise error

    def _remove_hook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None


class CodebookMaintenance:
    """Update each codebook after each step, and revive unused codes.

    A code is dead if no token of any process has used it for ``patience`` iterations. Every ``interval`` iterations, at
    most ``max_share`` of the codebook is revived on random tokens of the current batches of all processes. In the last
    part of the training nothing is revived, so that the teacher's average converges to the student's final codebook.

    Args:
        quantizers: the student's quantisers, with equal numbers of codes, that of the codes first; an empty list
            disables the handler.
        total_iterations: length of the training.
        patience: iterations without a token after which a code is dead; 0 disables revival.
        interval: iterations between two revivals.
        max_share: the largest share of the codebook revived at once, in (0, 1].
        stop_share: share of the training after which revival stops, in [0, 1].
        seed: with the iteration, the seed of its draw; the same on every process.

    Raises:
        ValueError: ``max_share`` outside (0, 1], ``stop_share`` outside [0, 1], or a count is negative.
    """

    def __init__(
        self,
        quantizers: Sequence[nn.Module],
        total_iterations: int,
        patience: int = 100,
        interval: int = 10,
        max_share: float = 0.1,
        stop_share: float = 0.8,
        seed: int = 0,
    ) -> None:
        if not 0.0 < max_share <= 1.0:
            raise ValueError(f"max_share must lie in (0, 1], got {max_share}.")
        if not 0.0 <= stop_share <= 1.0:
            raise ValueError(f"stop_share must lie in [0, 1], got {stop_share}.")
        if patience < 0 or interval < 1:
            raise ValueError(f"patience must be at least 0 and interval at least 1, got {patience} and {interval}.")
        self.quantizers: list[Any] = list(quantizers)
        self.patience = patience
        self.interval = interval
        self.max_share = max_share
        self.last_revival = round(stop_share * total_iterations)
        self.seed = seed
        self.idle = torch.zeros(0, 0, dtype=torch.int64)

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        if self.quantizers:
            engine.add_event_handler(Events.STARTED, self._start)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._maintain)

    def _start(self, engine: Engine) -> None:
        first = self.quantizers[0]
        shape = (len(self.quantizers), first.num_embeddings)
        # a federated training starts once per round, and goes on
        if engine.state.iteration == 0 or self.idle.shape != shape:
            self.idle = torch.zeros(shape, dtype=torch.int64, device=next(first.buffers()).device)

    def state_dict(self) -> dict[str, Tensor]:
        """Idle iterations of each code of each quantiser, for the resume checkpoint."""
        return {"idle": self.idle}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state from :meth:`state_dict`; call it after the engine has started."""
        self.idle = state["idle"].view_as(self.idle).to(self.idle.device)

    def _maintain(self, engine: Engine) -> None:
        output: Any = engine.state.output
        student = output["student"]
        maps = [student, *student.quantized_skips]
        for quantizer, quantized in zip(self.quantizers, maps, strict=True):
            quantizer.update(quantized.features, quantized.indices)
        codes = self.idle.shape[1]
        used = torch.stack([torch.bincount(quantized.indices.flatten(), minlength=codes) for quantized in maps])
        if process_count() > 1:
            dist.all_reduce(used)
        self.idle = torch.where(used > 0, 0, self.idle + 1)
        iteration = engine.state.iteration
        if self.patience > 0 and iteration % self.interval == 0 and iteration <= self.last_revival:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, iteration))
            for quantizer, quantized, idle in zip(self.quantizers, maps, self.idle, strict=True):
                self._revive(quantizer, quantized.features, idle, generator)

    def _revive(self, quantizer: Any, features: Tensor, idle: Tensor, generator: torch.Generator) -> None:
        dead = (idle >= self.patience).nonzero().squeeze(1)
        tokens = features.movedim(1, -1).flatten(0, -2).float()  # equally many on each process
        world = process_count()
        count = min(len(dead), max(1, round(self.max_share * len(idle))), world * len(tokens))
        if count == 0:
            return
        order = torch.randperm(len(dead), generator=generator)[:count]
        chosen = torch.randperm(world * len(tokens), generator=generator)[:count]
        process, token = chosen // len(tokens), chosen % len(tokens)
        own = (process == process_rank()).unsqueeze(1).to(tokens.device)
        places = torch.where(own, tokens[token.to(tokens.device)], 0.0)
        if world > 1:
            dist.all_reduce(places)
        codes = dead[order.to(dead.device)]
        quantizer.revive(codes, places)
        idle[codes] = 0  # a view of self.idle


class CodebookSnapshots:
    """Save the projected codebook and the use of its codes, at given shares of the training.

    ``iteration_<n>.npz`` contains "codebook", ``(K, D)`` float16, as used in the student's n-th step (in step 1,
    untrained); "counts", ``(K,)`` int64, tokens of labelled and unlabelled images per code, before perturbation, over
    the "window" iterations up to that step, of this process; "iteration" and "total_iterations". A codebook of 1,024
    codes of width 64 takes 130 kB. If a file cannot be written, there is one warning, and training continues.

    Args:
        folder: folder of the files, created if missing.
        total_iterations: length of the training.
        shares: points of the training, in [0, 1]; 0 is the first step.
        window: iterations before a snapshot whose tokens are counted, at least 1; no iteration counts for two
            snapshots.

    Raises:
        ValueError: a share outside [0, 1] or ``window`` below 1.
    """

    def __init__(
        self,
        folder: str | Path,
        total_iterations: int,
        shares: Sequence[float] = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0),
        window: int = 50,
    ) -> None:
        if not all(0.0 <= share <= 1.0 for share in shares):
            raise ValueError(f"shares must lie in [0, 1], got {list(shares)}.")
        if window < 1:
            raise ValueError(f"window must be at least 1 iteration, got {window}.")
        self.folder = Path(folder)
        self.total_iterations = total_iterations
        self.points = sorted({max(1, round(share * total_iterations)) for share in shares})
        self.window = window
        self._counts = torch.zeros(0, dtype=torch.int64)
        self._steps = 0
        self._warned = False

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer whose ``state.output`` has the "student"'s output."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._look)

    def _look(self, engine: Engine) -> None:
        iteration = engine.state.iteration
        point = next((point for point in self.points if point >= iteration), None)
        if point is None or point - iteration >= self.window:
            return
        output: Any = engine.state.output
        student = output["student"]
        counts = torch.bincount(student.indices.flatten(), minlength=len(student.codebook))
        self._counts = counts if self._steps == 0 else self._counts + counts
        self._steps += 1
        if point == iteration:
            self._save(iteration, student.codebook)
            self._steps = 0

    def _save(self, iteration: int, codebook: Tensor) -> None:
        try:
            self._write(self.folder / f"iteration_{iteration:06d}.npz", iteration, codebook)
        except OSError as error:
            if not self._warned:
                logger.warning("The training goes on without snapshots of the codebook in %s: %s", self.folder, error)
            self._warned = True

    def _write(self, path: Path, iteration: int, codebook: Tensor) -> None:
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez_compressed(
                file,
                codebook=codebook.to(torch.float16).cpu().numpy(),
                counts=self._counts.cpu().numpy(),
                window=self._steps,
                iteration=iteration,
                total_iterations=self.total_iterations,
            )
