"""Frozen vision foundation models: the targets of VQ-Seg's Post-VQ Feature Adapter.

VQ-Seg (Yang et al., NeurIPS 2025, https://arxiv.org/abs/2601.10124) aligns post-VQ features with the patch features of
a frozen foundation model, DINOv2 by default (Oquab et al., 2024, https://arxiv.org/abs/2304.07193).

A :class:`FoundationModel` keeps its backbone out of ``nn.Module``'s registry: its weights are in no ``state_dict`` or
``parameters()`` of whatever holds it (hence not in checkpoints, optimizers or DDP's buckets), ``train`` and ``apply``
cannot reach them, and still ``.to(device)`` moves them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import shorten
from typing import cast

import timm
import torch
import torch.nn.functional as F  # noqa: N812
from timm.models import PretrainedCfg, load_pretrained
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

__all__ = ["DINOv2FoundationModel", "FoundationModel", "build_foundation_model"]

# Names that configs use, and timm's names for the same models.
_DINOV2_MODELS = {"dinov2_vits14": "vit_small_patch14_dinov2"}


class FoundationModel(nn.Module, ABC):
    """Patch features of a frozen image model, for 2D images or the slices of volumes.

    Preparation of the input, in float32: two channels or more than three are averaged to grey; each image (each volume
    as a whole, so that its slices keep a common scale) is min-max scaled to [0, 1], a constant one to 0; resized to a
    square of ``image_size`` (bilinear, antialiased when it shrinks); grey is repeated to three channels; the model's
    own mean and standard deviation are applied.

    The features carry no gradient. The model is in eval mode whatever mode its holder is in.

    Args:
        backbone: the image model; frozen here.
        channels: channels of its patch features. Kept as an attribute, as are the next two.
        image_size: side of the square image that the backbone takes, in pixels.
        grid: its patch grid ``(h, w)`` at that size.
        mean: three channel means for inputs in [0, 1].
        std: three channel standard deviations for inputs in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        *,
        channels: int,
        image_size: int,
        grid: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.channels = channels
        self.image_size = image_size
        self.grid = grid
        # In a tuple, because nn.Module would register it as a child were it a plain attribute.
        self._unregistered = (backbone.requires_grad_(False).eval(),)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.eval()

    @property
    def backbone(self) -> nn.Module:
        """The frozen image model."""
        return self._unregistered[0]

    @abstractmethod
    def extract_features(self, images: Tensor) -> Tensor:
        """Patch features ``(N, channels, *grid)`` of prepared images ``(N, 3, image_size, image_size)``."""

    @torch.no_grad()
    def forward(self, images: Tensor, depth: int | None = None) -> Tensor:
        """Compute patch features.

        Args:
            images: ``(B, C, H, W)``, or volumes ``(B, C, H, W, D)`` with slices along the last axis; any intensities.
            depth: volumes only: how many slices to use, from 1 to D. Slice ``k`` is the one at the center of the k-th
                of ``depth`` equal parts, ``floor((k + 0.5) * D / depth)``. Defaults to all D.

        Returns:
            Float32 features, ``(B, channels, h, w)`` for images or ``(B, channels, h, w, depth)`` for volumes.

        Raises:
            ValueError: ``images`` is neither 4 nor 5 dimensional, or ``depth`` does not fit it.
        """
        if images.ndim not in (4, 5):
            raise ValueError(f"images must be (B, C, H, W) or (B, C, H, W, D), got shape {tuple(images.shape)}.")
        if depth is not None and (images.ndim == 4 or not 1 <= depth <= images.shape[-1]):
            raise ValueError(
                f"depth must be None for 2D images and 1 to D for volumes, got {depth} for shape {tuple(images.shape)}."
            )
        # A plain tensor: MetaTensor's bookkeeping on each of the backbone's operations costs time and serves nothing.
        scaled = _scale_to_unit(images.as_subclass(torch.Tensor).float())
        if scaled.ndim == 4:
            return self.extract_features(self._prepare(scaled)).float()
        slices = _center_slices(scaled, scaled.shape[-1] if depth is None else depth)  # (B * depth, C, H, W)
        features = self.extract_features(self._prepare(slices)).float()
        return features.unflatten(0, (images.shape[0], -1)).movedim(1, -1)  # (B, channels, h, w, depth)

    def train(self, mode: bool = True) -> FoundationModel:
        """Stay in eval mode, whatever ``mode`` asks for."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FoundationModel:
        """Extend ``to``, ``cuda``, ``half`` and their kin to the unregistered backbone."""
        super()._apply(fn, recurse)
        self.backbone._apply(fn, recurse)
        return self

    def _prepare(self, scaled: Tensor) -> Tensor:
        """Resize images in [0, 1] of one or three channels and normalise them as the backbone wants."""
        size = (self.image_size, self.image_size)
        resized = F.interpolate(scaled, size=size, mode="bilinear", align_corners=False, antialias=True)
        normalized = (resized.expand(-1, 3, -1, -1) - self.mean) / self.std
        return normalized.to(next(self.backbone.parameters()).dtype)


class DINOv2FoundationModel(FoundationModel):
    """DINOv2's normalised patch tokens through timm.

    The position embedding is resized once, here, as the official code does it (bicubic, the 0.1 offset on the grid
    size, no antialiasing); timm's own resizing, which is antialiased, changes the features by about 3 % at 126 pixels.
    The variants with registers use timm's way, which is the official one for them.

    Args:
        model_name: timm's name of a DINOv2 model. Defaults to ViT-S/14.
        weights: checkpoint file under the official key names, in any floating dtype. ``None`` downloads timm's copy
            from the Hugging Face hub or takes it from the hub's cache.
        image_size: side of the square input in pixels, a multiple of the patch size 14. Defaults to 126, which gives a
            9 x 9 grid.

    Raises:
        ValueError: ``model_name`` is unknown, ``image_size`` is no multiple of the patch size, or ``weights`` is not a
            checkpoint of this model.
        FileNotFoundError: ``weights`` does not exist, or the download failed.
    """

    def __init__(
        self,
        model_name: str = "vit_small_patch14_dinov2",
        weights: str | Path | None = None,
        image_size: int = 126,
    ) -> None:
        known = timm.list_models("vit_*_dinov2")
        if model_name not in known:
            raise ValueError(f"model_name must be one of {known}, got '{model_name}'.")
        cfg = cast(PretrainedCfg, timm.get_pretrained_cfg(model_name))
        vit = cast(VisionTransformer, timm.create_model(model_name, pretrained=False, num_classes=0))
        patch = vit.patch_embed.patch_size[0]
        if image_size < patch or image_size % patch:
            raise ValueError(f"image_size must be a positive multiple of the patch size {patch}, got {image_size}.")
        if weights is None:
            _download_weights(vit, cfg)
        else:
            _load_weights(vit, cfg, Path(weights))
        _set_input_size(vit, image_size)
        grid = (image_size // patch, image_size // patch)
        super().__init__(vit, channels=vit.embed_dim, image_size=image_size, grid=grid, mean=cfg.mean, std=cfg.std)

    def extract_features(self, images: Tensor) -> Tensor:
        """Patch tokens after the final layer norm, laid out on the patch grid."""
        vit = cast(VisionTransformer, self.backbone)
        tokens = vit.forward_features(images)[:, vit.num_prefix_tokens :]  # (N, h * w, channels)
        return tokens.transpose(1, 2).unflatten(2, self.grid)


def build_foundation_model(name: str, weights: str | None = None, image_size: int = 126) -> FoundationModel | None:
    """Build the foundation model that a config names.

    Args:
        name: "none" or "dinov2_vits14".
        weights: checkpoint file; ``None`` downloads (see :class:`DINOv2FoundationModel`).
        image_size: side of the model's square input in pixels.

    Returns:
        The frozen model, or ``None`` for "none".

    Raises:
        ValueError: ``name`` is unknown, or an argument does not fit the model.
        FileNotFoundError: there is no weight file and none can be downloaded.
    """
    if name == "none":
        return None
    if name not in _DINOV2_MODELS:
        raise ValueError(f"foundation_model must be one of {['none', *_DINOV2_MODELS]}, got '{name}'.")
    return DINOv2FoundationModel(_DINOV2_MODELS[name], weights=weights, image_size=image_size)


def _scale_to_unit(images: Tensor) -> Tensor:
    """Min-max scale each image to [0, 1], as grey unless it has three channels; a constant image becomes 0."""
    if images.shape[1] != 3:
        images = images.mean(dim=1, keepdim=True)
    axes = tuple(range(1, images.ndim))
    low, high = images.amin(axes, keepdim=True), images.amax(axes, keepdim=True)
    return (images - low) / (high - low).clamp_min(torch.finfo(images.dtype).tiny)


def _center_slices(volumes: Tensor, depth: int) -> Tensor:
    """The central slices of ``depth`` equal parts of ``(B, C, H, W, D)``, as a batch ``(B * depth, C, H, W)``."""
    centers = [(2 * k + 1) * volumes.shape[-1] // (2 * depth) for k in range(depth)]
    return volumes[..., centers].movedim(-1, 1).flatten(0, 1)


def _download_weights(vit: VisionTransformer, cfg: PretrainedCfg) -> None:
    """Load timm's hub weights into ``vit``."""
    try:
        load_pretrained(vit, num_classes=0, filter_fn=checkpoint_filter_fn)
    except Exception as error:  # the hub client, its transport and the file format each bring errors of their own
        raise FileNotFoundError(
            f"No foundation_weights file is given, and the weights of {cfg.architecture} could not be downloaded "
            f"through timm ({type(error).__name__}). {_remedy(cfg)}"
        ) from error


def _load_weights(vit: VisionTransformer, cfg: PretrainedCfg, path: Path) -> None:
    """Load a checkpoint file with official DINOv2 keys into ``vit``."""
    if not path.is_file():
        raise FileNotFoundError(f"foundation_weights: there is no file '{path}'. {_remedy(cfg)}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        # timm converts DINOv2's names only if it sees this key, which some copies of the official files drop.
        state = checkpoint_filter_fn({"mask_token": torch.empty(0), **state}, vit)
    except Exception as error:  # a damaged or foreign file fails in as many ways as there are formats
        raise ValueError(
            f"foundation_weights: '{path}' is damaged or not a checkpoint ({type(error).__name__}). {_remedy(cfg)}"
        ) from error
    try:
        vit.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"foundation_weights: '{path}' is not a checkpoint of {cfg.architecture}. {_remedy(cfg)} "
            f"{shorten(str(error), 300)}"
        ) from error


def _remedy(cfg: PretrainedCfg) -> str:
    """What a user can do about missing or wrong weights."""
    return (
        f"Download {cfg.url} and pass the file by the key foundation_weights, "
        "or turn the feature adapter off by foundation_model 'none'."
    )


def _set_input_size(vit: VisionTransformer, image_size: int) -> None:
    """Fix the input size; resize the position embedding as the official ``interpolate_pos_encoding`` does."""
    original = cast(nn.Parameter, vit.pos_embed).detach()
    side = vit.patch_embed.grid_size[0]
    vit.set_input_size((image_size, image_size))
    grid = vit.patch_embed.grid_size[0]
    if vit.num_reg_tokens or grid == side:
        return
    patches = original[:, 1:].transpose(1, 2).unflatten(2, (side, side))  # (1, channels, side, side)
    patches = F.interpolate(patches, scale_factor=(grid + 0.1) / side, mode="bicubic")  # (1, channels, grid, grid)
    vit.pos_embed = nn.Parameter(torch.cat([original[:, :1], patches.flatten(2).transpose(1, 2)], dim=1))
