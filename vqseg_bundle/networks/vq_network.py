"""The interface of networks with a vector-quantised feature map, for training, evaluation and export."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vqseg_bundle.layers import VectorQuantizer
from vqseg_bundle.networks.quantized_stage import QuantizedStage

__all__ = ["Encoding", "VQNetwork"]

_IMAGE_DECODER = "reconstruction_decoder."


class Encoding(NamedTuple):
    """An image before quantisation.

    Attributes:
        features: ``(B, D, *S_L)``, the quantiser's input.
        skips: the encoder's maps above the deepest, shallow first.
    """

    features: Tensor
    skips: list[Tensor]


class VQNetwork(nn.Module, ABC):
    """An encoder, a quantiser, a segmentation decoder and an image decoder in the post-VQ space.

    ``forward`` is the deployed path (encoder, quantiser, segmentation decoder); it returns only the logits and can be
    scripted. The image decoder, ``reconstruction_decoder``, is used only in training.

    Args:
        arguments: the arguments that the weights depend on, for the record beside them. This and the next three are
            kept as attributes.
        stride: pixels between two tokens, one number per axis.
        embedding_dim: channels of the post-VQ features, D; without codes, of the deepest map.
        inference_width: a twelfth of the number of float32 maps of a window's size that a forward pass without gradient
            needs, the unit of :func:`vqseg_bundle.engines.window_batch_size`; for a U-Net, its first level's width.

    Attributes:
        quantizer: of the codes that both decoders read, or None.
        skip_stages: modules between the encoder's maps and the segmentation decoder, one per level, shallow first: a
            :class:`QuantizedStage` or an identity; empty if no skip connection is quantised.
        bottleneck_stage: what the deepest map passes through on its way to codes above it, or None.
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
        self.bottleneck_stage: QuantizedStage | None = None
        self.reconstruction_decoder: nn.Module | None = None

    @abstractmethod
    def encode(self, image: Tensor) -> Encoding:
        """Features for the quantiser and the skip connections' maps."""

    def encode_maps(self, image: Tensor) -> list[Tensor]:
        """The encoder's maps, shallow first; of networks with a ``bottleneck_stage``."""
        raise NotImplementedError

    def fuse(self, maps: list[Tensor]) -> Encoding:
        """The rest of ``encode``, from the encoder's maps; of networks with a ``bottleneck_stage``."""
        raise NotImplementedError

    @abstractmethod
    def decode_segmentation(self, quantized: Tensor, skips: list[Tensor], size: list[int]) -> Tensor:
        """Logits ``(B, out_channels, *size)`` from post-VQ features and the encoder's maps."""

    @abstractmethod
    def decode_image(self, quantized: Tensor, size: list[int]) -> Tensor:
        """Reconstruction ``(B, in_channels, *size)`` from the post-VQ features only.

        Raises:
            ValueError: the network was built without its image decoder.
        """

    @abstractmethod
    def check_patch_size(self, patch_size: Sequence[int]) -> None:
        """Check that the network can be trained on such patches.

        Args:
            patch_size: one length per axis.

        Raises:
            ValueError: the size does not fit.
        """

    def check_whole_tokens(self, patch_size: Sequence[int]) -> None:
        """Check that tokens fill such patches, so that an adapter compares them with features of the same place.

        Args:
            patch_size: one length per axis.

        Raises:
            ValueError: a length is not a multiple of :attr:`stride`.
        """
        steps = list(self.stride)
        if any(length % step for length, step in zip(patch_size, steps, strict=True)):
            nearest = [max(1, round(length / step)) * step for length, step in zip(patch_size, steps, strict=True)]
            raise ValueError(
                f"patch_size {list(patch_size)}: with a foundation model expected multiples of {steps}, the voxels of "
                "a token, which is compared with the model's features of the same place; the nearest are "
                f"{nearest}."
            )

    def forward(self, image: Tensor, codebook: Tensor | None = None) -> Tensor:
        """Logits of the deployed path.

        Args:
            image: ``(B, in_channels, *S)``.
            codebook: from :meth:`project_codebook`, for callers that run many images with the same weights; None
                computes it.
        """
        encoding = self.encode(image)
        features = encoding.features
        if self.quantizer is not None:
            features = self.quantizer(features, codebook).quantized
        return self.decode_segmentation(features, self.pass_skips(encoding.skips), list(image.shape[2:]))

    def pass_skips(self, maps: list[Tensor]) -> list[Tensor]:
        """What the segmentation decoder sees of the encoder's maps in deployment."""
        for level, stage in enumerate(self.skip_stages):
            maps[level] = stage(maps[level])
        return maps

    @torch.jit.export
    def project_codebook(self) -> Tensor | None:
        """The codewords ``(K, D)`` that both decoders read; None without a quantiser."""
        return self.quantizer.project_codebook() if self.quantizer is not None else None

    def quantizers(self) -> list[VectorQuantizer]:
        """All quantisers: :attr:`quantizer`, those of skip connections, shallow first, that of ``bottleneck_stage``."""
        skips = [stage.quantizer for stage in self.skip_stages if isinstance(stage, QuantizedStage)]
        bottleneck = [] if self.bottleneck_stage is None else [self.bottleneck_stage.quantizer]
        return skips if self.quantizer is None else [self.quantizer, *skips, *bottleneck]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights; only this network's image decoder may be missing.

        A network without an image decoder ignores that decoder's keys. ``strict=False``, which some loaders set, also
        allows weights without an image decoder for a network with one (fine-tuning a deployed model).

        Raises:
            RuntimeError: any other entry is missing, unexpected or of another shape, since a lenient loader must not
                turn a wrong file into a random network.
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
