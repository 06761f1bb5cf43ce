"""Keeps the student's codebooks alive during training: moving averages and new places for dead codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from torch import Tensor, nn

from vqseg_bundle.common import process_count, process_rank

__all__ = ["CodebookMaintenance"]


class CodebookMaintenance:
    """Update each codebook after each step and give codes that nobody picks a new place.

    A code is dead when no token of any process picked it for ``patience`` iterations. Every ``interval`` iterations at
    most ``max_share`` of the codebook is revived on tokens of the current batches of all processes, drawn at random.
    Nothing is revived over the last part of the training, so that the teacher's average settles on what the student
    ends with.

    Args:
        quantizers: the student's quantisers, of as many codes each, the bottleneck's first; none does nothing.
        total_iterations: length of the training.
        patience: iterations without a token after which a code counts as dead; 0 revives nothing.
        interval: iterations between two revivals.
        max_share: the largest share of the codebook revived at once, in (0, 1].
        stop_share: share of the training after which nothing is revived any more, in [0, 1].
        seed: seed of the draw; the same on every process.

    Raises:
        ValueError: ``max_share`` outside (0, 1], ``stop_share`` outside [0, 1] or a negative count.
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
        self.generator = torch.Generator().manual_seed(seed)
        self.idle = torch.zeros(0, 0, dtype=torch.int64)

    def attach(self, engine: Engine) -> None:
        """Work after each iteration of the trainer."""
        if self.quantizers:
            engine.add_event_handler(Events.STARTED, self._start)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._maintain)

    def _start(self, engine: Engine) -> None:
        first = self.quantizers[0]
        shape = (len(self.quantizers), first.num_embeddings)
        self.idle = torch.zeros(shape, dtype=torch.int64, device=next(first.buffers()).device)

    def state_dict(self) -> dict[str, Tensor]:
        """How long each code of each quantiser has been idle, and the state of the draw; for the resume checkpoint."""
        return {"idle": self.idle, "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`state_dict` returned; call it after the engine has started."""
        self.idle = state["idle"].view_as(self.idle).to(self.idle.device)
        self.generator.set_state(state["generator"])

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
            for quantizer, quantized, idle in zip(self.quantizers, maps, self.idle, strict=True):
                self._revive(quantizer, quantized.features, idle)

    def _revive(self, quantizer: Any, features: Tensor, idle: Tensor) -> None:
        dead = (idle >= self.patience).nonzero().squeeze(1)
        tokens = features.movedim(1, -1).flatten(0, -2).float()  # as many on each process
        world = process_count()
        count = min(len(dead), max(1, round(self.max_share * len(idle))), world * len(tokens))
        if count == 0:
            return
        order = torch.randperm(len(dead), generator=self.generator)[:count]
        chosen = torch.randperm(world * len(tokens), generator=self.generator)[:count]
        process, token = chosen // len(tokens), chosen % len(tokens)
        own = (process == process_rank()).unsqueeze(1).to(tokens.device)
        places = torch.where(own, tokens[token.to(tokens.device)], 0.0)
        if world > 1:
            dist.all_reduce(places)
        codes = dead[order.to(dead.device)]
        quantizer.revive(codes, places)
        idle[codes] = 0  # a view of self.idle
