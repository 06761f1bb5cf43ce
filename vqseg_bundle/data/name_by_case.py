"""Names what is saved after the case, not after the image file."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey

from .volume_writer import SOURCE_KEY

__all__ = ["NameByCased"]


class NameByCased(MapTransform):
    """Give predictions their case's id as file name, for SaveImaged; where they come from stays beside it.

    Two images may share a file name, and an image may lie outside the dataset's folder; case ids are unique, so
    predictions neither overwrite each other nor leave the output folder. Without a "case" the name stays.

    Args:
        keys: MetaTensors to name.
        allow_missing_keys: skip keys that are not there.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Set the file name in the meta data of every key."""
        output = dict(data)
        for key in self.key_iterator(output):
            if "case" in output:
                named = output[key].clone()
                source = named.meta.get(ImageMetaKey.FILENAME_OR_OBJ, "")
                name = {ImageMetaKey.FILENAME_OR_OBJ: f"{output['case']}.nii.gz", SOURCE_KEY: source}
                named.meta = {**named.meta, **name}
                output[key] = named
        return output
