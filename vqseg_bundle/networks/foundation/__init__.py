"""Frozen vision foundation models: one interface, and a registry of those that configurations can name."""

from vqseg_bundle.networks.foundation.model import FoundationModel
from vqseg_bundle.networks.foundation.registry import FOUNDATION_SPECS, build_foundation_model
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

__all__ = [
    "FOUNDATION_SPECS",
    "BiomedCLIPFoundationModel",
    "CLIPFoundationModel",
    "DINOv2FoundationModel",
    "DINOv2RegistersFoundationModel",
    "DINOv3FoundationModel",
    "FoundationModel",
    "FoundationSpec",
    "MAEFoundationModel",
    "RadDINOFoundationModel",
    "SAMFoundationModel",
    "TimmFoundationModel",
    "build_foundation_model",
]
