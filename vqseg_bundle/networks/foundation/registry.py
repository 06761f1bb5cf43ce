"""The foundation models that configurations can name."""

from __future__ import annotations

from pathlib import Path

from vqseg_bundle.networks.foundation import catalog
from vqseg_bundle.networks.foundation.model import FoundationModel
from vqseg_bundle.networks.foundation.sam import SAMFoundationModel
from vqseg_bundle.networks.foundation.specification import FoundationSpec
from vqseg_bundle.networks.foundation.timm_families import (
    BiomedCLIPFoundationModel,
    CLIPFoundationModel,
    DINOv2FoundationModel,
    DINOv2RegistersFoundationModel,
    DINOv3FoundationModel,
    MAEFoundationModel,
    RadDINOFoundationModel,
)
from vqseg_bundle.networks.foundation.timm_model import TimmFoundationModel

__all__ = ["FOUNDATION_SPECS", "build_foundation_model"]

_FAMILIES: list[tuple[type[TimmFoundationModel] | type[SAMFoundationModel], list[FoundationSpec]]] = [
    (DINOv2FoundationModel, catalog.DINOV2),
    (DINOv2RegistersFoundationModel, catalog.DINOV2_REGISTERS),
    (DINOv3FoundationModel, catalog.DINOV3),
    (CLIPFoundationModel, catalog.CLIP),
    (MAEFoundationModel, catalog.MAE),
    (SAMFoundationModel, catalog.SAM),
    (RadDINOFoundationModel, [catalog.RAD_DINO]),
    (BiomedCLIPFoundationModel, [catalog.BIOMEDCLIP]),
]
_MODELS = {spec.name: (family, spec) for family, specs in _FAMILIES for spec in specs}

FOUNDATION_SPECS: dict[str, FoundationSpec] = {name: spec for name, (_, spec) in _MODELS.items()}
"""Specification of each model, by its name in configurations."""


def build_foundation_model(
    name: str, weights: str | Path | None = None, image_size: int | None = None
) -> FoundationModel | None:
    """Build the foundation model that a configuration names.

    Args:
        name: "none", or a name in :data:`FOUNDATION_SPECS`.
        weights: checkpoint file; None downloads it, if its authors offer that.
        image_size: side of the model's square input in pixels, a multiple of its patch size. None means the size that
            it was trained with.

    Returns:
        The frozen model, or ``None`` for "none".

    Raises:
        ValueError: ``name`` is unknown, or an argument does not fit the model.
        FileNotFoundError: there is no weight file and none can be downloaded.
    """
    if name == "none":
        return None
    if name not in _MODELS:
        raise ValueError(f"foundation_model must be one of {['none', *_MODELS]}, got '{name}'.")
    family, spec = _MODELS[name]
    return family(spec, weights, image_size)
