"""What training, evaluation and export need of a network with a vector quantised feature map."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vqseg_bundle.layers import VectorQuantizer
from vqseg_bundle.networks.quantized_skip import QuantizedSkip

__all__ = ["Encoding", "VQNetwork"]

_IMAGE_DECODER = "reconstruction_decoder."


class Encoding(NamedTuple):
    """An image before quantisation.

    Attributes:
        features: ``(B, D, *S_L)``, what the quantiser sees.
        skips: the encoder's maps above the deepest, shallow first.
    """

    features: Tensor
    skips: list[Tensor]


class VQNetwork(nn.Module, ABC):
    """An encoder, a quantiser, a segmentation decoder and an image decoder in the post-VQ space.

    ``forward`` is the deployed path: encoder, quantiser, segmentation decoder; it returns the logits alone and can be
    scripted. The image decoder, ``reconstruction_decoder``, is run by training only.

    Args:
        arguments: the arguments that the weights depend on, for the record beside them. Kept as an attribute, as are
            the next three.
        stride: pixels between two tokens, one number an axis.
        embedding_dim: channels of the post-VQ features, D.
        inference_width: a twelfth of the float32 maps of a window's size that a forward pass without gradient needs,
            the unit of :func:`vqseg_bundle.engines.window_batch_size`; a U-Net's is its first level's width.

    Attributes:
        quantizer: the bottleneck's quantiser, or None.
        skip_stages: what the encoder's maps pass through on their way to the segmentation decoder, one module a level,
            shallow first: a :class:`QuantizedSkip` or an identity; empty where no skip connection is quantised.
        reconstruction_decoder: the image decoder, or None.
    """

    def __init__(
        self, arguments: Mapping[str, Any], stride: Sequence[int], embedding_dim: int, inference_width: int
    ) -> None:
        super().__init__()
        self.arguments = dict(arguments)
        self.stride = list(stride)
        self.embedding_dim = embedding_dim
        self.inference_width = inference_width
        self.quantizer: VectorQuantizer | None = None
        self.skip_stages = nn.ModuleList()
        self.reconstruction_decoder: nn.Module | None = None

    @abstractmethod
    def encode(self, image: Tensor) -> Encoding:
        """Features for the quantiser and the skip connections' maps."""

    @abstractmethod
    def decode_segmentation(self, quantized: Tensor, skips: list[Tensor], size: list[int]) -> Tensor:
        """Logits ``(B, out_channels, *size)`` from post-VQ features and the encoder's maps."""

    @abstractmethod
    def decode_image(self, quantized: Tensor, size: list[int]) -> Tensor:
        """Reconstruction ``(B, in_channels, *size)`` from post-VQ features alone.

        Raises:
            ValueError: the network was built without its image decoder.
        """

    @abstractmethod
    def check_patch_size(self, patch_size: Sequence[int]) -> None:
        """Refuse patches that the network cannot be trained on.

        Args:
            patch_size: one length an axis.

        Raises:
            ValueError: the size does not fit.
        """

    def forward(self, image: Tensor, codebook: Tensor | None = None) -> Tensor:
        """Logits of the deployed path.

        Args:
            image: ``(B, in_channels, *S)``.
            codebook: what :meth:`project_codebook` returned, for callers that run many images with the same weights;
                None projects it here.
        """
        encoding = self.encode(image)
        bottleneck = encoding.features
        if self.quantizer is not None:
            bottleneck = self.quantizer(bottleneck, codebook).quantized
        skips = encoding.skips
        for level, stage in enumerate(self.skip_stages):
            skips[level] = stage(skips[level])
        return self.decode_segmentation(bottleneck, skips, list(image.shape[2:]))

    @torch.jit.export
    def project_codebook(self) -> Tensor | None:
        """The bottleneck's explicit codewords ``(K, D)``; None without quantiser."""
        return self.quantizer.project_codebook() if self.quantizer is not None else None

    def quantizers(self) -> list[VectorQuantizer]:
        """All quantisers: the bottleneck's, then those of skip connections, shallow first."""
        skips = [stage.quantizer for stage in self.skip_stages if isinstance(stage, QuantizedSkip)]
        return skips if self.quantizer is None else [self.quantizer, *skips]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights; only the image decoder may be missing on the receiving side.

        A network without image decoder drops exactly that decoder's keys. ``strict=False``, which some loaders set,
        allows one thing more: weights without image decoder for a network with one (fine-tuning a deployed model).

        Raises:
            RuntimeError: any other missing, unexpected or differently shaped entry; a lenient loader must not turn a
                wrong file into a random network.
        """
        own = self.state_dict()
        if self.reconstruction_decoder is None:
            state_dict = {key: value for key, value in state_dict.items() if not key.startswith(_IMAGE_DECODER)}
        missing = [key for key in own if key not in state_dict]
        if not strict and missing == [key for key in own if key.startswith(_IMAGE_DECODER)]:
            missing = []
        unexpected = [key for key in state_dict if key not in own]
        misfits = [key for key, value in own.items() if key in state_dict and value.shape != state_dict[key].shape]
        if missing or unexpected or misfits:
            raise RuntimeError(
                f"these weights belong to another {type(self).__name__}: "
                f"{len(missing)} entries missing {missing[:3]}, {len(unexpected)} unexpected {unexpected[:3]}, "
                f"{len(misfits)} of another shape {misfits[:3]}. Build the network with the arguments that the "
                "weights were trained with (the model.json beside them holds these)."
            )
        return super().load_state_dict(state_dict, strict, assign)

    def deployed_state_dict(self) -> dict[str, Tensor]:
        """The weights of the deployed path: all but the image decoder's."""
        return {key: value for key, value in self.state_dict().items() if not key.startswith(_IMAGE_DECODER)}
