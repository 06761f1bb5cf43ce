"""The mean of several predictions of one volume: by several networks, of mirrored copies, or both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, combinations
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor

__all__ = ["AveragedInferer"]


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
        ValueError: an axis is negative or given twice.
    """

    def __init__(
        self, inferer: Inferer, networks: Sequence[Callable[..., Any]] = (), mirror_axes: Sequence[int] = ()
    ) -> None:
        super().__init__()
        if len(set(mirror_axes)) < len(mirror_axes) or any(axis < 0 for axis in mirror_axes):
            raise ValueError(f"mirror_axes must be different axes, counted from 0, got {list(mirror_axes)}.")
        self.inferer = inferer
        self.networks = tuple(networks)
        subsets = chain.from_iterable(combinations(mirror_axes, count) for count in range(len(mirror_axes) + 1))
        self._flips = [[axis + 2 for axis in subset] for subset in subsets]

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run all networks on all mirrored copies of ``inputs``, one after the other.

        Args:
            inputs: ``(B, C, *S)``.
            network: the first network.
            args: further arguments of the inner inferer's call.
            kwargs: further keyword arguments.
        """
        if not self.networks and len(self._flips) == 1:
            return self.inferer(inputs, network, *args, **kwargs)
        total = inputs.new_zeros(())
        for member in (network, *self.networks):
            for axes in self._flips:
                logits = self.inferer(torch.flip(inputs, axes), member, *args, **kwargs)
                total = total + torch.flip(logits.float().softmax(dim=1), axes)
        return (total / (len(self._flips) * (1 + len(self.networks)))).log()
