"""The convolutional decoder of a dense prediction transformer (DPT; Ranftl et al., 2021, arXiv 2103.13413).

Reassemble: four levels of tokens, all on the patch grid, become maps at 4, 2, 1 and 1/2 times its resolution. Fusion:
from the deepest map on, each is refined, joined with the next and upsampled. As in section 3 of the paper, without
read-out token and batch normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

__all__ = ["DPTDecoder"]

_LEVELS = 4


class DPTDecoder(nn.Module):
    """Logits from four levels of patch features.

    Args:
        in_channels: width of the tokens.
        out_channels: classes.
        reassemble_channels: width of each of the four levels' maps, shallow first.
        fusion_channels: width of the fused maps.

    Shape:
        - maps: four of ``(B, in_channels, h, w)``, shallow first.
        - output: ``(B, out_channels, 8 h, 8 w)``.

    Raises:
        ValueError: ``reassemble_channels`` does not have four entries.
    """

    def __init__(
        self, in_channels: int, out_channels: int, reassemble_channels: Sequence[int], fusion_channels: int
    ) -> None:
        super().__init__()
        if len(reassemble_channels) != _LEVELS:
            raise ValueError(f"reassemble_channels must hold {_LEVELS} widths, got {len(reassemble_channels)}.")
        self.reassemble = nn.ModuleList(
            _Reassemble(in_channels, width, fusion_channels, level) for level, width in enumerate(reassemble_channels)
        )
        # deepest first, in the order they run; nothing is below the deepest for its map to be added to
        self.fusion = nn.ModuleList(_Fusion(fusion_channels, has_skip=step > 0) for step in range(_LEVELS))
        self.head = nn.Sequential(
            nn.Conv2d(fusion_channels, fusion_channels, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(fusion_channels, out_channels, kernel_size=1),
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Reassemble and fuse."""
        pyramid: list[Tensor] = []
        for level, reassemble in enumerate(self.reassemble):
            pyramid.append(reassemble(maps[level]))
        sizes = [[2 * pyramid[0].shape[2], 2 * pyramid[0].shape[3]]]
        for finer in pyramid[:-1]:
            sizes.append([finer.shape[2], finer.shape[3]])
        fused = pyramid[-1]
        for step, fusion in enumerate(self.fusion):
            fused = fusion(fused, pyramid[-1 - step], sizes[-1 - step])
        return self.head(fused)


class _Reassemble(nn.Module):
    """One level's tokens as a map: projected, resampled by the level's factor, reduced to the common width."""

    def __init__(self, in_channels: int, channels: int, out_channels: int, level: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(in_channels, channels, kernel_size=1)
        self.resample: nn.Module = nn.Identity()
        if level < 2:
            factor = 4 // 2**level
            self.resample = nn.ConvTranspose2d(channels, channels, kernel_size=factor, stride=factor)
        elif level == _LEVELS - 1:
            self.resample = nn.Conv2d(channels, channels, kernel_size=3, stride=2, padding=1)
        self.reduction = nn.Conv2d(channels, out_channels, kernel_size=3, padding=1, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.reduction(self.resample(self.projection(tokens)))


class _Fusion(nn.Module):
    """Add the refined map of a level to the deeper result, refine the sum, upsample it."""

    def __init__(self, channels: int, has_skip: bool) -> None:
        super().__init__()
        self.skip: nn.Module | None = _ResidualUnit(channels) if has_skip else None
        self.refine = _ResidualUnit(channels)
        self.projection = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, deep: Tensor, skip: Tensor, size: list[int]) -> Tensor:
        if self.skip is not None:
            deep = deep + self.skip(skip)
        deep = F.interpolate(self.refine(deep), size=size, mode="bilinear", align_corners=True)
        return self.projection(deep)


class _ResidualUnit(nn.Module):
    """Two convolutions, each after a ReLU, plus the identity (He et al., 2016, pre-activation)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))
