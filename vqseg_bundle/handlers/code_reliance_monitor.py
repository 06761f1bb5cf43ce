"""How much a training's predictions depend on the codes, epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from vqseg_bundle.common import process_count

__all__ = ["CodeRelianceMonitor"]


class CodeRelianceMonitor:
    """Measure, at the end of each epoch, on the images of its last iteration.

    ``engine.state.metrics`` gets "code_reliance" and "skip_reliance", means over all processes; nothing if that
    iteration has a single image. Place it before the handlers that log the metrics.

    Args:
        measure: takes ``images=`` and returns scalars ``codes`` and ``skips`` (``vqseg_bundle.networks.code_reliance``
            with its network).
    """

    def __init__(self, measure: Callable[..., Any]) -> None:
        self.measure = measure

    def attach(self, engine: Engine) -> None:
        """Attach to a semi-supervised trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._measure)

    def _measure(self, engine: Engine) -> None:
        output: Any = engine.state.output
        # equally many on each process
        if len(output["images"]) < 2:
            return
        found = self.measure(images=output["images"])
        for name, value in (("code_reliance", found.codes), ("skip_reliance", found.skips)):
            total = idist.all_reduce(value.to(idist.device())) if process_count() > 1 else value
            engine.state.metrics[name] = float(total) / process_count()
