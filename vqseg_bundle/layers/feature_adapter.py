"""Post-VQ Feature Adapter (PFA) of VQ-Seg (Yang et al., NeurIPS 2025, https://arxiv.org/abs/2601.10124).

The adapter maps the quantised feature map to the patch grid and channels of a frozen foundation model, so that the
patch-wise InfoNCE loss (:mod:`vqseg_bundle.losses.alignment`) can compare the two.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F  # noqa: N812
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

__all__ = ["PostVQFeatureAdapter"]

_INTERPOLATION = {2: "bilinear", 3: "trilinear"}


class PostVQFeatureAdapter(nn.Module):
    """Resize post-VQ features to a foundation model's patch grid and project them to its channels.

    Linear resizing (``align_corners=False``) followed by a 1x1 convolution, as in the paper's definition of PFA.

    Args:
        spatial_dims: number of spatial dimensions, 2 or 3.
        in_channels: channels of the quantised map, D.
        out_channels: channels of the foundation model's features, C_f.

    Shape:
        - Input: ``(B, D, *S)``, S being the spatial size.
        - Output: ``(B, C_f, *grid)``, in the input's dtype (under autocast, in autocast's).

    Raises:
        ValueError: ``spatial_dims`` is not 2 or 3, or a channel count is below 1.

    Examples:
        >>> import torch
        >>> adapter = PostVQFeatureAdapter(spatial_dims=2, in_channels=64, out_channels=384)
        >>> adapter(torch.randn(2, 64, 8, 8), grid=(9, 9)).shape
        torch.Size([2, 384, 9, 9])
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        if spatial_dims not in _INTERPOLATION:
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.projection = Conv[Conv.CONV, spatial_dims](in_channels, out_channels, kernel_size=1)

    def forward(self, quantized: Tensor, grid: Sequence[int]) -> Tensor:
        """Adapt post-VQ features to ``grid``.

        Args:
            quantized: post-VQ feature map, ``(B, D, *S)``.
            grid: the foundation model's patch grid, one positive size per spatial dimension.

        Returns:
            Adapted features, ``(B, C_f, *grid)``.

        Raises:
            ValueError: ``quantized`` or ``grid`` does not fit ``spatial_dims`` or ``in_channels``.
        """
        if quantized.ndim != self.spatial_dims + 2 or quantized.shape[1] != self.in_channels:
            raise ValueError(
                f"quantized must have {self.in_channels} channels and {self.spatial_dims} spatial dimensions, "
                f"got shape {tuple(quantized.shape)}."
            )
        size = [int(length) for length in grid]
        if len(size) != self.spatial_dims or min(size) < 1:
            raise ValueError(f"grid must hold {self.spatial_dims} positive sizes, got {tuple(size)}.")
        resized = F.interpolate(quantized, size=size, mode=_INTERPOLATION[self.spatial_dims], align_corners=False)
        return self.projection(resized)  # (B, D, *grid) -> (B, C_f, *grid)
