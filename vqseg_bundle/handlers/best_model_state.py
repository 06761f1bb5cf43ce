"""Lets a resumed training remember the best validation score it has saved weights for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai.handlers import CheckpointSaver

__all__ = ["BestModelState"]


class BestModelState:
    """The state of MONAI's saver of the best model, as something that the resume checkpoint can hold.

    Without it the first validation after resuming would replace better weights.

    Args:
        handlers: an evaluator's handlers, with at most one CheckpointSaver that saves by key metric; None entries
            (disabled ones) are passed over.
    """

    def __init__(self, handlers: Sequence[Any]) -> None:
        # MONAI can put this state into the weights' file only, which must stay a plain state dict
        savers = [handler for handler in handlers if isinstance(handler, CheckpointSaver)]
        self._checkpoints = [saver._key_metric_checkpoint for saver in savers if saver._key_metric_checkpoint]

    def state_dict(self) -> dict[str, Any]:
        """The saver's list of saved files with their scores; empty without such a saver."""
        return {str(index): checkpoint.state_dict() for index, checkpoint in enumerate(self._checkpoints)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        for index, checkpoint in enumerate(self._checkpoints):
            checkpoint.load_state_dict(state[str(index)])
