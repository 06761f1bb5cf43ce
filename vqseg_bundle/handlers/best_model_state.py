"""Lets a resumed training remember the best validation score it has saved weights for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ignite.handlers import Checkpoint
from monai.handlers import CheckpointSaver

from vqseg_bundle.handlers.checkpoint_file import CheckpointWriter, read_checkpoint

__all__ = ["BestModelState"]

logger = logging.getLogger(__name__)


class BestModelState:
    """The state of the saver of the best model, as something that the resume checkpoint can hold.

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
        """Go on from what :meth:`state_dict` returned, unless the weights that it tells of can no longer be read."""
        for index, checkpoint in enumerate(self._checkpoints):
            reason = _why_unusable(checkpoint)
            if reason:
                logger.warning("%s Its score is forgotten: the next validation writes it anew.", reason)
            else:
                checkpoint.load_state_dict(state[str(index)])


def _why_unusable(checkpoint: Checkpoint) -> str:
    writer = checkpoint.save_handler
    if not isinstance(writer, CheckpointWriter) or writer.filename is None:
        return ""
    try:
        read_checkpoint(writer.dirname / writer.filename)
    except ValueError as error:
        return str(error)
    return ""
