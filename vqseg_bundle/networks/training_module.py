"""What training wraps: the network, the perturbation and the adapter, in one forward pass over both batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vqseg_bundle.layers import PostVQFeatureAdapter, QuantizedPerturbation, lookup
from vqseg_bundle.networks.vqseg_net import VQSegNet

__all__ = ["VQSegOutput", "VQSegTrainingModule"]


class VQSegOutput(NamedTuple):
    """Everything the losses and the codebook's handlers need; labelled images first, then unlabelled ones.

    Attributes:
        labeled_logits: ``(B_l, C, *S)`` from the clean post-VQ features.
        unlabeled_logits: ``(B_u, C, *S)`` from the perturbed ones; ``B_u`` is 0 without an unlabelled batch.
        reconstruction: ``(B_l + B_u, in_channels, *S)`` from the same features; empty without image decoder.
        adapted: ``(B_l + B_u, C_f, *G)``, adapted clean post-VQ features; empty without adapter.
        features: ``(B_l + B_u, D, *S_L)``, before quantisation, detached.
        indices: ``(B_l + B_u, *S_L)``, int64, before perturbation; empty without quantiser.
        codebook: ``(K, D)``, detached; empty without quantiser.
        commitment_loss: scalar.
        entropy_loss: scalar.
    """

    labeled_logits: Tensor
    unlabeled_logits: Tensor
    reconstruction: Tensor
    adapted: Tensor
    features: Tensor
    indices: Tensor
    codebook: Tensor
    commitment_loss: Tensor
    entropy_loss: Tensor


class VQSegTrainingModule(nn.Module):
    """One pass of the student over a labelled and an unlabelled batch.

    Both batches go through the encoder together and are quantised with one codebook, projected once. Indices of the
    unlabelled images pass through the perturbation; those of the labelled ones do not (the paper's L_l and L_u). The
    adapter sees the clean features of both: a randomly replaced token has no business resembling its patch.

    Args:
        network: the student.
        perturbation: perturbs the unlabelled images' indices; None leaves them.
        adapter: adapts post-VQ features to a foundation model's; None leaves ``adapted`` empty.
    """

    def __init__(
        self,
        network: VQSegNet,
        perturbation: QuantizedPerturbation | None = None,
        adapter: PostVQFeatureAdapter | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.perturbation = perturbation
        self.adapter = adapter

    def forward(
        self,
        labeled: Tensor,
        unlabeled: Tensor | None = None,
        grid: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> VQSegOutput:
        """Run both batches.

        Args:
            labeled: ``(B_l, in_channels, *S)``.
            unlabeled: ``(B_u, in_channels, *S)`` of the same size, or None.
            grid: the foundation model's patch grid; None skips the adapter.
            generator: randomness of the perturbation.
        """
        images = labeled if unlabeled is None else torch.cat((labeled, unlabeled))
        size = list(images.shape[2:])
        encoding = self.network.encode(images)
        empty = images.new_empty(0)
        clean = decoded = encoding.features
        indices, codebook = empty, empty
        commitment = entropy = images.new_zeros(())
        if self.network.quantizer is not None:
            codebook = self.network.quantizer.project_codebook()
            clean, indices, commitment, entropy = self.network.quantizer(encoding.features, codebook)
            decoded = self._perturb(clean, indices, codebook.detach(), len(labeled), generator)
        logits = self.network.decode_segmentation(decoded, encoding.skips, size)
        has_image_decoder = self.network.reconstruction_decoder is not None
        return VQSegOutput(
            labeled_logits=logits[: len(labeled)],
            unlabeled_logits=logits[len(labeled) :],
            reconstruction=self.network.decode_image(decoded, size) if has_image_decoder else empty,
            adapted=self.adapter(clean, grid) if self.adapter is not None and grid is not None else empty,
            features=encoding.features.detach(),
            indices=indices,
            codebook=codebook.detach(),
            commitment_loss=commitment,
            entropy_loss=entropy,
        )

    def _perturb(
        self, clean: Tensor, indices: Tensor, codebook: Tensor, labeled: int, generator: torch.Generator | None
    ) -> Tensor:
        if self.perturbation is None or labeled == len(clean):
            return clean
        perturbed = lookup(self.perturbation(indices[labeled:], codebook, generator), codebook)
        # the value of the new codeword, the gradient of the token it replaces
        tokens = clean[labeled:]
        return torch.cat((clean[:labeled], perturbed.to(clean.dtype) + (tokens - tokens.detach())))
