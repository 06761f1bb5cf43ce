"""Keeps the student's codebook alive during training: moving averages and new places for dead codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ignite.distributed as idist
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from torch import Tensor, nn

__all__ = ["CodebookMaintenance"]


class CodebookMaintenance:
    """Update the codebook after each step and give codes that nobody picks a new place.

    A code is dead when no token of any process picked it for ``patience`` iterations. Every ``interval`` iterations at
    most ``max_share`` of the codebook is revived on tokens of the current batches of all processes, drawn at random.
    Nothing is revived over the last part of the training, so that the teacher's average settles on what the student
    ends with.

    Args:
        quantizer: the student's quantiser; None (a network without one) does nothing.
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
        quantizer: nn.Module | None,
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
        self.quantizer: Any = quantizer
        self.patience = patience
        self.interval = interval
        self.max_share = max_share
        self.last_revival = round(stop_share * total_iterations)
        self.generator = torch.Generator().manual_seed(seed)
        self.idle = torch.zeros(0, dtype=torch.int64)

    def attach(self, engine: Engine) -> None:
        """Work after each iteration of the trainer."""
        if self.quantizer is not None:
            engine.add_event_handler(Events.STARTED, self._start)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._maintain)

    def _start(self, engine: Engine) -> None:
        device = next(self.quantizer.buffers()).device
        self.idle = torch.zeros(self.quantizer.num_embeddings, dtype=torch.int64, device=device)

    def state_dict(self) -> dict[str, Tensor]:
        """How long each code has been idle, and the state of the draw; for the resume checkpoint."""
        return {"idle": self.idle, "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`state_dict` returned; call it after the engine has started."""
        self.idle = state["idle"].to(self.idle.device)
        self.generator.set_state(state["generator"])

    def _maintain(self, engine: Engine) -> None:
        output: Any = engine.state.output
        student = output["student"]
        self.quantizer.update(student.features, student.indices)
        used = torch.bincount(student.indices.flatten(), minlength=len(self.idle))
        if idist.get_world_size() > 1:
            dist.all_reduce(used)
        self.idle = torch.where(used > 0, 0, self.idle + 1)
        iteration = engine.state.iteration
        if self.patience > 0 and iteration % self.interval == 0 and iteration <= self.last_revival:
            self._revive(student.features)

    def _revive(self, features: Tensor) -> None:
        dead = (self.idle >= self.patience).nonzero().squeeze(1)
        tokens = features.movedim(1, -1).flatten(0, -2).float()  # as many on each process
        world = idist.get_world_size()
        count = min(len(dead), max(1, round(self.max_share * len(self.idle))), world * len(tokens))
        if count == 0:
            return
        order = torch.randperm(len(dead), generator=self.generator)[:count]
        chosen = torch.randperm(world * len(tokens), generator=self.generator)[:count]
        process, token = chosen // len(tokens), chosen % len(tokens)
        own = (process == idist.get_rank()).unsqueeze(1).to(tokens.device)
        places = torch.where(own, tokens[token.to(tokens.device)], 0.0)
        if world > 1:
            dist.all_reduce(places)
        codes = dead[order.to(dead.device)]
        self.quantizer.revive(codes, places)
        self.idle[codes] = 0
