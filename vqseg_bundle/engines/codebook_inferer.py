"""Inference on whole volumes that projects a network's codebook once per volume, not once per batch of windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from monai.inferers import Inferer, SliceInferer, SlidingWindowInferer
from torch import Tensor

__all__ = ["CodebookInferer", "window_inferer"]


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


def window_inferer(spatial_dims: int, window: Sequence[int], batch_size: int, overlap: float = 0.25) -> CodebookInferer:
    """Inference by slices across the third axis for a 2D network, by sliding windows for a 3D one.

    Args:
        spatial_dims: dimensions of the network, 2 or 3.
        window: voxels of a window, one number per dimension.
        batch_size: slices or windows that go through the network at once.
        overlap: share of a window that the next one overlaps, weighted by a Gaussian.
    """
    common: dict[str, Any] = {"sw_batch_size": batch_size, "overlap": overlap, "mode": "gaussian"}
    if spatial_dims == 2:
        return CodebookInferer(SliceInferer(roi_size=list(window), spatial_dim=2, **common))
    return CodebookInferer(SlidingWindowInferer(roi_size=list(window), **common))
