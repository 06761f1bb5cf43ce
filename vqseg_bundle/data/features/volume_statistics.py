"""Features of a volume without a network: what its histogram, its size and its bright part look like."""

from __future__ import annotations

import math

import numpy as np
from monai.data import MetaTensor

__all__ = ["volume_statistics"]

_MOST_VOXELS = 500_000
_QUANTILES = (5, 10, 25, 50, 75, 90, 95)


def volume_statistics(image: MetaTensor) -> np.ndarray:
    """Statistics of a preprocessed volume, for choices among volumes of one kind.

    Per channel: seven quantiles, skewness and kurtosis of the intensities, and of the voxels above Otsu's threshold the
    share, the centre and the spread along the three axes, in parts of the volume's sides. Of the volume: logarithms of
    its sides in mm and of its voxels'.

    Args:
        image: ``(C, H, W, D)``, with an affine.

    Returns:
        float32 ``(16 C + 6,)``.
    """
    voxels = image.as_tensor().float().cpu().numpy()
    spacing = np.linalg.norm(image.affine.cpu().numpy()[:3, :3], axis=0)
    step = max(1, math.ceil((voxels[0].size / _MOST_VOXELS) ** (1 / 3)))
    channels = [np.concatenate(_of_channel(channel[::step, ::step, ::step])) for channel in voxels]
    sides = np.log(np.array(voxels.shape[1:]) * spacing)
    return np.concatenate([*channels, sides, np.log(spacing)]).astype(np.float32)


def _of_channel(voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # late: scikit-image is slow to import
    from skimage.filters import threshold_otsu

    deviation = voxels.std()
    scaled = (voxels - voxels.mean()) / (deviation if deviation > 0 else 1.0)
    intensities = [*np.percentile(voxels, _QUANTILES), (scaled**3).mean(), (scaled**4).mean()]
    bright = np.argwhere(voxels > threshold_otsu(voxels)) if deviation > 0 else np.empty((0, 3))
    if len(bright) == 0:
        return np.array(intensities), np.array([0.0, *[0.5] * 3, *[0.0] * 3])
    places = (bright + 0.5) / voxels.shape
    return np.array(intensities), np.array([len(bright) / voxels.size, *places.mean(axis=0), *places.std(axis=0)])
