"""Inference on whole volumes that projects a network's codebook once per volume, not once per batch of windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monai.inferers import Inferer
from torch import Tensor

__all__ = ["CodebookInferer"]


class CodebookInferer(Inferer):
    """Run another inferer with one codebook for all windows of a volume.

    Args:
        inferer: divides the volume, such as MONAI's SliceInferer or SlidingWindowInferer.
    """

    def __init__(self, inferer: Inferer) -> None:
        super().__init__()
        self.inferer = inferer

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run ``network`` on ``inputs``.

        Args:
            inputs: ``(B, C, *S)``.
            network: if it has ``project_codebook``, its forward takes the codebook as second argument; any other
                network is passed to the inner inferer directly.
            args: further arguments of the network.
            kwargs: further keyword arguments of the network.
        """
        project = getattr(network, "project_codebook", None)
        codebook = project() if project is not None else None
        if codebook is None:
            return self.inferer(inputs, network, *args, **kwargs)

        def run_with_codebook(windows: Tensor, *more: Any, **named: Any) -> Any:
            return network(windows, codebook, *more, **named)

        # bound here: MONAI's SliceInferer does not pass further arguments to the network
        return self.inferer(inputs, run_with_codebook, *args, **kwargs)
