"""Whole volumes through a quantised network: its codebook is projected once a volume, not once a batch of windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monai.inferers import Inferer
from torch import Tensor

__all__ = ["CodebookInferer"]


class CodebookInferer(Inferer):
    """Let another inferer run the windows of a volume with one codebook.

    Args:
        inferer: cuts the volume, such as MONAI's SliceInferer or SlidingWindowInferer.
    """

    def __init__(self, inferer: Inferer) -> None:
        super().__init__()
        self.inferer = inferer

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run ``network`` on ``inputs``.

        Args:
            inputs: ``(B, C, *S)``.
            network: one with ``project_codebook``, whose forward takes the codebook as its second argument; any other
                is run as the inner inferer alone would.
            args: further arguments of the network.
            kwargs: the same, by name.
        """
        project = getattr(network, "project_codebook", None)
        codebook = project() if project is not None else None
        if codebook is None:
            return self.inferer(inputs, network, *args, **kwargs)

        def run_with_codebook(windows: Tensor, *more: Any, **named: Any) -> Any:
            return network(windows, codebook, *more, **named)

        # bound here: MONAI's SliceInferer keeps further arguments from the network
        return self.inferer(inputs, run_with_codebook, *args, **kwargs)
