"""The path that a deployed network lacks: from image to codes to image."""

from __future__ import annotations

from torch import Tensor, nn

from vqseg_bundle.networks.vq_network import VQNetwork

__all__ = ["ImageReconstructor"]


class ImageReconstructor(nn.Module):
    """Encoder, quantiser and image decoder of a network, to see what its codes keep of an image.

    Args:
        network: with an image decoder; its weights are shared.

    Shape:
        - image: ``(B, in_channels, *S)``.
        - output: as the input.

    Raises:
        ValueError: the network was built without its image decoder.
    """

    def __init__(self, network: VQNetwork) -> None:
        super().__init__()
        if network.reconstruction_decoder is None:
            raise ValueError("this network was built with reconstruction=False and has no image decoder.")
        self.network = network

    def project_codebook(self) -> Tensor | None:
        """The codewords ``(K, D)``; None without a quantiser."""
        return self.network.project_codebook()

    def forward(self, image: Tensor, codebook: Tensor | None = None) -> Tensor:
        """Reconstruct.

        Args:
            image: ``(B, in_channels, *S)``.
            codebook: from :meth:`project_codebook`; None computes it.
        """
        features = self.network.encode(image).features
        if self.network.quantizer is not None:
            features = self.network.quantizer(features, codebook).quantized
        return self.network.decode_image(features, list(image.shape[2:]))
