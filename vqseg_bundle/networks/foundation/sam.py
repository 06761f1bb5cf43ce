"""Foundation models from the image encoders of Segment Anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from vqseg_bundle.networks.foundation.model import FoundationModel
from vqseg_bundle.networks.foundation.specification import FoundationSpec
from vqseg_bundle.networks.foundation.weights import load_into, read_state

if TYPE_CHECKING:
    from segment_anything.modeling import ImageEncoderViT

__all__ = ["SAMFoundationModel"]

_PREFIX = "image_encoder."


class SAMFoundationModel(FoundationModel):
    """The image embedding of SAM's image encoder (Kirillov et al., 2023, https://arxiv.org/abs/2304.02643).

    MedSAM (Ma et al., 2024, https://arxiv.org/abs/2304.12306) is the same network with its own weights; its input is
    the image in [0, 1], hence mean 0 and standard deviation 1 in its specification.

    Images are stretched to a square, as in MedSAM; SAM itself scales the longer side and pads the other. At other sizes
    than the native one, the absolute positions are resized bilinearly, as in SAMed (https://arxiv.org/abs/2304.13785);
    the encoder itself resizes the relative ones linearly, with the same result as SAMed's.

    Args:
        spec: the model, ``spec.backbone`` being its name in segment-anything's registry.
        weights: checkpoint file of the whole SAM, of which only the image encoder is used; None downloads it.
        image_size: side of the square input in pixels, a multiple of 16. Defaults to 1024.

    Raises:
        ValueError: ``image_size`` is not a multiple of the patch size, ``weights`` is not a checkpoint of this model,
            or the package segment-anything is not installed.
        FileNotFoundError: ``weights`` does not exist, or the download failed.
    """

    def __init__(self, spec: FoundationSpec, weights: str | Path | None = None, image_size: int | None = None) -> None:
        size = spec.input_size(image_size)
        encoder = _empty_encoder(spec)
        state = read_state(spec, weights)
        state = {key.removeprefix(_PREFIX): value.float() for key, value in state.items() if key.startswith(_PREFIX)}
        load_into(encoder, state, spec, weights, assign=True)
        _resize_positions(encoder, spec.grid(size))
        super().__init__(
            encoder, channels=spec.channels, image_size=size, grid=spec.grid(size), mean=spec.mean, std=spec.std
        )

    def extract_features(self, images: Tensor) -> Tensor:
        """The image embedding."""
        return self.backbone(images)


def _empty_encoder(spec: FoundationSpec) -> ImageEncoderViT:
    """The encoder without memory for its weights, which come from the file."""
    try:  # here, so that deployed code imports without the package
        from segment_anything import sam_model_registry
    except ImportError as error:
        raise ValueError(
            f"foundation_model {spec.name} needs the package segment-anything, which is not installed: "
            "pip install segment-anything, or choose another foundation_model."
        ) from error
    with torch.device("meta"):
        return cast("ImageEncoderViT", sam_model_registry[spec.backbone]().image_encoder)


def _resize_positions(encoder: ImageEncoderViT, grid: tuple[int, int]) -> None:
    """Resize the absolute positions ``(1, h, w, channels)``."""
    positions = cast(Tensor, encoder.pos_embed).detach()
    if positions.shape[1:3] == grid:
        return
    resized = F.interpolate(positions.permute(0, 3, 1, 2), size=grid, mode="bilinear", align_corners=False)
    encoder.pos_embed = nn.Parameter(resized.permute(0, 2, 3, 1))
