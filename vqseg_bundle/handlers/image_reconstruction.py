"""Reconstructs the images of an evaluation, for its report."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer
from monai.utils import CommonKeys
from torch import nn

__all__ = ["ImageReconstruction"]


class ImageReconstruction:
    """Ignite handler that adds "reconstruction" to an evaluator's output, before its postprocessing.

    Args:
        network: takes images ``(B, C, *S)`` and returns such.
        inferer: cuts the volumes, as for the predictions.
    """

    def __init__(self, network: nn.Module, inferer: Inferer) -> None:
        self.network = network
        self.inferer = inferer

    def attach(self, engine: Engine) -> None:
        """Register the handler with a MONAI evaluator."""
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._reconstruct)

    def _reconstruct(self, engine: Engine) -> None:
        output: Any = engine.state.output
        with torch.inference_mode():
            reconstruction = self.inferer(output[CommonKeys.IMAGE], self.network)
        # a copy made outside inference mode, which postprocessing may change
        output["reconstruction"] = reconstruction.clone()
