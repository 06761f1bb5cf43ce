"""Keeps the name of the file that an image comes from, which a batch of plain tensors has lost."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey

from vqseg_bundle.common import SOURCE

__all__ = ["KeepSourced"]


class KeepSourced(MapTransform):
    """Put the file name of an image's meta data beside it, as a text that batches collate to a list.

    Put it before the transform that takes the meta data off.

    Args:
        keys: the image; of several the last one counts.
        name: key of the text; it is empty where nothing is known.
        allow_missing_keys: skip keys that are not there.
    """

    def __init__(self, keys: KeysCollection, name: str = SOURCE, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.name = name

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the text."""
        output = dict(data)
        for key in self.key_iterator(output):
            meta = getattr(output[key], "meta", {})
            output[self.name] = str(meta.get(ImageMetaKey.FILENAME_OR_OBJ, ""))
        return output
