"""Inferers around MONAI's: one codebook per volume, the mean over networks and mirrored copies, and its entropy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, combinations
from typing import Any

import torch
from monai.inferers import Inferer, SliceInferer, SlidingWindowInferer
from torch import Tensor

__all__ = ["AveragedInferer", "CodebookInferer", "voxel_entropy", "window_inferer"]


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


class AveragedInferer(Inferer):
    r"""Average class probabilities over networks and mirrored copies of the volume.

    With M networks and A mirrored axes the output is

    .. math:: \log \frac{1}{M 2^A} \sum_{m} \sum_{F} F^{-1} \mathrm{softmax}(f_m(F x)),

    where F runs over the flips along every subset of the axes, the empty one included: logits whose softmax is the mean
    of the parts' probabilities. With one network and no axis the inner inferer's logits are returned unchanged.

    Args:
        inferer: runs one network on one volume, such as :class:`~vqseg_bundle.engines.CodebookInferer`.
        networks: further networks, in addition to the one passed in the call.
        mirror_axes: spatial axes to mirror along, counted from 0. Wrong for labels that have a side, such as "left
            kidney", along the axis from left to right.

    Raises:
        ValueError: an axis is not 0, 1 or 2, or given twice.
    """

    def __init__(
        self, inferer: Inferer, networks: Sequence[Callable[..., Any]] = (), mirror_axes: Sequence[int] = ()
    ) -> None:
        super().__init__()
        if len(set(mirror_axes)) < len(mirror_axes) or not set(mirror_axes) <= {0, 1, 2}:
            raise ValueError(f"mirror_axes must be different axes out of 0, 1 and 2, got {list(mirror_axes)}.")
        self.inferer = inferer
        self.networks = tuple(networks)
        subsets = chain.from_iterable(combinations(mirror_axes, count) for count in range(len(mirror_axes) + 1))
        self._flips = [[axis + 2 for axis in subset] for subset in subsets]

    @property
    def averages(self) -> bool:
        """Whether there is more than one network or an axis to mirror."""
        return bool(self.networks) or len(self._flips) > 1

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run all networks on all mirrored copies of ``inputs``, one after the other.

        Args:
            inputs: ``(B, C, *S)``.
            network: the first network.
            args: further arguments of the inner inferer's call.
            kwargs: further keyword arguments.
        """
        if not self.averages:
            return self.inferer(inputs, network, *args, **kwargs)
        total = inputs.new_zeros(())
        for member in (network, *self.networks):
            for axes in self._flips:
                logits = self.inferer(torch.flip(inputs, axes), member, *args, **kwargs)
                total = total + torch.flip(logits.float().softmax(dim=1), axes)
        mean = total / (len(self._flips) * (1 + len(self.networks)))
        # resampling the logarithm of zero would make NaN
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()


def voxel_entropy(logits: Tensor) -> Tensor:
    r"""How unsure a prediction is of each voxel: :math:`-\sum_c p_c \ln p_c` of the class probabilities p, in nats.

    Args:
        logits: ``(C, *S)``.

    Returns:
        ``(1, *S)``, from 0 to :math:`\ln C`.
    """
    return torch.special.entr(logits.softmax(dim=0)).sum(dim=0, keepdim=True)
