"""The VQ-Seg networks and their training wrappers.

What needs timm, which takes a second to import, is imported when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vqseg_bundle.common import import_with_extra
from vqseg_bundle.networks.decoder_reliance import CodeExchange, CodeReliance, SkipsCut, code_reliance, soft_overlap
from vqseg_bundle.networks.dpt import DPTDecoder
from vqseg_bundle.networks.image_reconstructor import ImageReconstructor
from vqseg_bundle.networks.quantized_stage import QuantizedStage
from vqseg_bundle.networks.registry import build_network, describe_network
from vqseg_bundle.networks.training_module import QuantizedMap, VQSegOutput, VQSegTrainingModule
from vqseg_bundle.networks.unet import UNetDecoder, UNetEncoder
from vqseg_bundle.networks.vq_network import Encoding, VQNetwork
from vqseg_bundle.networks.vqseg_net import VQSegNet

if TYPE_CHECKING:
    from vqseg_bundle.networks.dinov2_dpt_net import DINOv2DPTNet
    from vqseg_bundle.networks.dinov2_encoder import DINOv2Encoder
    from vqseg_bundle.networks.foundation import DINOv2FoundationModel, FoundationModel, build_foundation_model

__all__ = [
    "CodeExchange",
    "CodeReliance",
    "DINOv2DPTNet",
    "DINOv2Encoder",
    "DINOv2FoundationModel",
    "DPTDecoder",
    "Encoding",
    "FoundationModel",
    "ImageReconstructor",
    "QuantizedMap",
    "QuantizedStage",
    "SkipsCut",
    "UNetDecoder",
    "UNetEncoder",
    "VQNetwork",
    "VQSegNet",
    "VQSegOutput",
    "VQSegTrainingModule",
    "build_foundation_model",
    "build_network",
    "code_reliance",
    "describe_network",
    "soft_overlap",
]

_LATE = {
    "DINOv2DPTNet": "dinov2_dpt_net",
    "DINOv2Encoder": "dinov2_encoder",
    "DINOv2FoundationModel": "foundation",
    "FoundationModel": "foundation",
    "build_foundation_model": "foundation",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_with_extra(f"{__name__}.{_LATE[name]}", "foundation"), name)
