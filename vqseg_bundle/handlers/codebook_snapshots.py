"""The codebook at a few points of a training, for pictures of how it changes (the paper's last figure)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import Tensor

from vqseg_bundle.common import replacing

__all__ = ["CodebookSnapshots"]

logger = logging.getLogger(__name__)


class CodebookSnapshots:
    """Save the projected codebook and how often each code was picked, at given shares of the training.

    ``iteration_<n>.npz`` holds "codebook", ``(K, D)`` float16, as the student's n-th step used it (that of step 1 is
    the untrained one); "counts", ``(K,)`` int64, tokens of labelled and unlabelled images per code, before
    perturbation, over the "window" iterations up to that step, this process's own; "iteration" and
    "total_iterations". A codebook of 1,024 codes of width 64 takes 130 kB. A file that cannot be written is one
    warning; the training goes on.

    Args:
        folder: where the files go, made if missing.
        total_iterations: length of the training.
        shares: points of the training, in [0, 1]; 0 is the first step.
        window: iterations before a snapshot whose tokens are counted, at least 1; none counts for two snapshots.

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
        """Work after each iteration of a trainer whose ``state.output`` holds the "student"'s output."""
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
