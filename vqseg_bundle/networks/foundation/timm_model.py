"""Foundation models from timm's vision transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import timm
import torch
import torch.nn.functional as F  # noqa: N812
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from vqseg_bundle.networks.foundation.model import FoundationModel
from vqseg_bundle.networks.foundation.specification import FoundationSpec
from vqseg_bundle.networks.foundation.weights import FOUNDATION_KEY, foreign_checkpoint, load_into, read_state

__all__ = ["TimmFoundationModel"]


class TimmFoundationModel(FoundationModel):
    """Patch tokens of one of timm's vision transformers, after its final layer norm.

    Families differ in the names in their files (:meth:`convert_names`) and in how their own code resizes the position
    embedding for another input size (:meth:`resize_positions`); the embedding is resized once, here.

    Args:
        spec: the model, with timm's architecture name as ``spec.backbone``.
        weights: checkpoint file as published by its authors, or timm's copy, in any floating dtype; None downloads it.
        image_size: side of the square input in pixels, a multiple of the patch size. Defaults to the native size.

    Raises:
        ValueError: ``image_size`` is not a multiple of the patch size, or ``weights`` is not a checkpoint of this
            model.
        FileNotFoundError: ``weights`` does not exist, or the download failed.
    """

    def __init__(self, spec: FoundationSpec, weights: str | Path | None = None, image_size: int | None = None) -> None:
        size = spec.input_size(image_size)
        vit = cast(VisionTransformer, timm.create_model(spec.backbone, pretrained=False, num_classes=0))
        self.load_weights(vit, spec, weights)
        self._set_input_size(vit, size)
        super().__init__(
            vit, channels=spec.channels, image_size=size, grid=spec.grid(size), mean=spec.mean, std=spec.std
        )

    @staticmethod
    def convert_names(state: Mapping[str, Tensor], vit: VisionTransformer) -> dict[str, Tensor]:
        """A file's tensors under timm's names; a KeyError names the missing key that identifies such files."""
        return checkpoint_filter_fn(dict(state), vit)

    @staticmethod
    def resize_positions(positions: Tensor, grid: int) -> Tensor:
        """Resize positions ``(1, channels, side, side)`` to ``(1, channels, grid, grid)``: bicubic, antialiased."""
        return F.interpolate(positions, size=(grid, grid), mode="bicubic", antialias=True)

    @classmethod
    def load_weights(
        cls, vit: VisionTransformer, spec: FoundationSpec, weights: str | Path | None, key: str = FOUNDATION_KEY
    ) -> None:
        """Load a file of this family into one of timm's vision transformers, frozen or not.

        Args:
            vit: timm's ``spec.backbone`` at its native input size.
            spec: the model.
            weights: see the class.
            key: the configuration's key for ``weights``, for error messages.

        Raises:
            ValueError: ``weights`` is not a checkpoint of this model.
            FileNotFoundError: ``weights`` does not exist, or the download failed.
        """
        state = read_state(spec, weights, key)
        _refuse_other_sizes(state, vit, spec, weights, key)
        try:
            converted = cls.convert_names(state, vit)
        except (KeyError, RuntimeError) as error:
            reason = f"It lacks {error}." if isinstance(error, KeyError) else str(error)
            raise foreign_checkpoint(spec, weights, reason, key) from error
        load_into(vit, converted, spec, weights, key=key)

    def extract_features(self, images: Tensor) -> Tensor:
        """Patch tokens after the final layer norm, laid out on the patch grid."""
        vit = cast(VisionTransformer, self.backbone)
        tokens = vit.forward_features(images)[:, vit.num_prefix_tokens :]  # (N, h * w, channels)
        return tokens.transpose(1, 2).unflatten(2, self.grid)

    def _set_input_size(self, vit: VisionTransformer, image_size: int) -> None:
        """Set the input size, with the family's resizing of the positions instead of timm's."""
        original, side = cast(Any, vit.pos_embed), vit.patch_embed.grid_size[0]
        vit.set_input_size((image_size, image_size))
        grid = vit.patch_embed.grid_size[0]
        if original is None or grid == side:
            return
        prefix, patches = original.detach().split([original.shape[1] - side**2, side**2], dim=1)
        patches = patches.transpose(1, 2).unflatten(2, (side, side))  # (1, channels, side, side)
        patches = self.resize_positions(patches, grid).flatten(2).transpose(1, 2)  # (1, grid * grid, channels)
        vit.pos_embed = nn.Parameter(torch.cat([prefix, patches], dim=1))


def _refuse_other_sizes(
    state: Mapping[str, Tensor], vit: VisionTransformer, spec: FoundationSpec, weights: str | Path | None, key: str
) -> None:
    """Refuse files of another patch or input size, whose embeddings timm would resample."""
    shapes = {tuple(value.shape) for value in state.values()}
    patch = tuple(vit.patch_embed.proj.weight.shape)
    if patch not in shapes:
        raise foreign_checkpoint(spec, weights, f"No tensor has the shape {patch} of its patch embedding.", key)
    if vit.pos_embed is None:
        return
    cells = vit.patch_embed.num_patches
    if not any(shape[-2:] in {(cells, spec.channels), (cells + 1, spec.channels)} for shape in shapes):
        raise foreign_checkpoint(
            spec, weights, f"No tensor holds the {cells} positions of its {spec.image_size} input.", key
        )
