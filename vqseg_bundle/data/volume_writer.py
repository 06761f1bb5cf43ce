"""Writes predictions on the image's own grid, single slices included."""

from __future__ import annotations

from typing import Any

from monai.config import NdarrayOrTensor
from monai.data import NibabelWriter

__all__ = ["VolumeWriter"]


class VolumeWriter(NibabelWriter):
    """MONAI's NibabelWriter, but a volume of one slice stays one: MONAI would save ``(H, W)`` for ``(H, W, 1)``."""

    def set_data_array(
        self,
        data_array: NdarrayOrTensor,
        channel_dim: int | None = 0,
        squeeze_end_dims: bool = True,
        **kwargs: Any,
    ) -> None:
        """Take the array; of a single channel the channel axis goes, where ``squeeze_end_dims``."""
        super().set_data_array(data_array, channel_dim, squeeze_end_dims=False, **kwargs)
        if squeeze_end_dims and self.data_obj.ndim > 3 and self.data_obj.shape[-1] == 1:
            self.data_obj = self.data_obj[..., 0]
