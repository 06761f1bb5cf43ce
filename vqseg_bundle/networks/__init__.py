"""The VQ-Seg network and what training wraps around it."""

from vqseg_bundle.networks.foundation import DINOv2FoundationModel, FoundationModel, build_foundation_model
from vqseg_bundle.networks.training_module import VQSegOutput, VQSegTrainingModule
from vqseg_bundle.networks.unet import UNetDecoder, UNetEncoder
from vqseg_bundle.networks.vqseg_net import Encoding, VQSegNet

__all__ = [
    "DINOv2FoundationModel",
    "Encoding",
    "FoundationModel",
    "UNetDecoder",
    "UNetEncoder",
    "VQSegNet",
    "VQSegOutput",
    "VQSegTrainingModule",
    "build_foundation_model",
]
