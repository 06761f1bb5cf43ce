"""Keys of batches that more than one layer reads, besides MONAI's own."""

from __future__ import annotations

__all__ = ["FEATURES", "SOURCE"]

#: foundation-model features of the weak views, ``(B, C_f, *G)``
FEATURES = "foundation_features"
#: names of the images' files
SOURCE = "source"
