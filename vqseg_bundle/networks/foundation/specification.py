"""What is known of a foundation model before its weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FoundationSpec"]


@dataclass(frozen=True)
class FoundationSpec:
    """Sizes, normalisation and source of one foundation model.

    Attributes:
        name: the name in configurations.
        backbone: its name in the library that builds the model.
        image_size: side of the square input that it was trained with, in pixels.
        patch_size: side of a patch, in pixels.
        channels: channels of its patch features.
        mean: three channel means for inputs in [0, 1].
        std: three channel standard deviations for inputs in [0, 1].
        source: where to get its weight file, for error messages.
        hub: repository and file name on the Hugging Face hub, for an automatic download.
        url: address of the download if there is no ``hub``; with neither, the user has to give a file.
    """

    name: str
    backbone: str
    image_size: int
    patch_size: int
    channels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    source: str
    hub: tuple[str, str] | None = None
    url: str | None = None

    def input_size(self, image_size: int | None) -> int:
        """The side of the input to use: ``image_size``, or the native one for ``None``.

        Raises:
            ValueError: ``image_size`` is not a positive multiple of the patch size.
        """
        size = self.image_size if image_size is None else image_size
        if size < self.patch_size or size % self.patch_size:
            raise ValueError(
                f"image_size must be a positive multiple of the patch size {self.patch_size} of {self.name}, or None "
                f"for its native size {self.image_size}, got {image_size}: set the key foundation_image_size."
            )
        return size

    def grid(self, image_size: int) -> tuple[int, int]:
        """Patch grid ``(h, w)`` of a square input of ``image_size`` pixels."""
        return image_size // self.patch_size, image_size // self.patch_size
