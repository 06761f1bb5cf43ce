"""Network, perturbation and adapter in one forward pass over all images, for training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vqseg_bundle.layers import Codes, Perturbation, PostVQFeatureAdapter, class_balance
from vqseg_bundle.networks.quantized_stage import QuantizedStage
from vqseg_bundle.networks.vq_network import Encoding, VQNetwork

__all__ = ["QuantizedMap", "VQSegOutput", "VQSegTrainingModule"]


class QuantizedMap(NamedTuple):
    """A feature map and its codes, before perturbation.

    Attributes:
        features: ``(B, D, *S_l)``, before quantisation, detached.
        indices: ``(B, *S_l)``, int64.
        codebook: ``(K, D)``, detached.
    """

    features: Tensor
    indices: Tensor
    codebook: Tensor


class VQSegOutput(NamedTuple):
    """Everything that the losses and the codebook's handlers need; labelled images first, then unlabelled ones.

    Attributes:
        labeled_logits: ``(B_l, C, *S)`` from the clean post-VQ features.
        unlabeled_logits: ``(B_u, C, *S)``, from perturbed ones if requested; ``B_u`` is 0 without an unlabelled batch.
        reconstruction: ``(B_l + B_u, in_channels, *S)`` from the same features; empty without an image decoder.
        adapted: ``(B_l + B_u, C_f, *G)``, adapted clean post-VQ features; empty without an adapter.
        features: ``(B_l + B_u, D, *S_L)``, before quantisation, detached.
        indices: ``(B_l + B_u, *S_L)``, int64, before perturbation; empty without a quantiser.
        codebook: ``(K, D)``, detached; empty without a quantiser.
        commitment_loss: scalar, the sum over the quantisers.
        entropy_loss: scalar, the sum over the quantisers.
        quantized_skips: the quantised skip connections, shallow first, then a quantised bottleneck below the codes.
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
    quantized_skips: list[QuantizedMap]


class VQSegTrainingModule(nn.Module):
    """One pass of the student over a labelled and an unlabelled batch.

    Both batches go through the encoder together and are quantised with one codebook, projected once. Only the
    unlabelled images' features are perturbed (the paper's L_l and L_u); quantised skip connections are perturbed like
    the bottleneck, each by a separate draw. The adapter sees the clean features of both: a randomly replaced token
    should not resemble its patch.

    Args:
        network: the student.
        perturbation: perturbs the unlabelled images' post-VQ features (:class:`~vqseg_bundle.layers.Perturbation`), or
            the bottleneck of a network without a quantiser; None disables it.
        adapter: adapts post-VQ features to a foundation model's; None disables it.
        perturb_skips: also perturb the other skip connections' maps, which have no codes, each by a separate draw, as
            UniMatch does.
        bottleneck_perturbation: perturbs the unlabelled images' quantised bottleneck below the codes, where the network
            has one; None disables it.
        balance_codes: weigh the tokens in the code-use entropy by :func:`~vqseg_bundle.layers.class_balance`, so that
            each class, not only the background, has its share of the codes.

    Raises:
        ValueError: the perturbation needs codes, which the network or its skip connections do not have.
    """

    def __init__(
        self,
        network: VQNetwork,
        perturbation: Perturbation | None = None,
        adapter: PostVQFeatureAdapter | None = None,
        perturb_skips: bool = False,
        bottleneck_perturbation: Perturbation | None = None,
        balance_codes: bool = False,
    ) -> None:
        needs_codes = perturbation is not None and perturbation.needs_codes
        if needs_codes and network.quantizer is None:
            raise ValueError(
                "perturbation must work without codes (FeatureDropout), or be None, for a network without quantiser "
                f"(num_embeddings None), got {type(perturbation).__name__}."
            )
        if perturb_skips and (perturbation is None or needs_codes):
            raise ValueError(
                "perturb_skips needs a perturbation that works without codes (FeatureDropout), got "
                f"{type(perturbation).__name__}: the maps of the skip connections have none."
            )
        super().__init__()
        self.network = network
        self.perturbation = perturbation
        self.adapter = adapter
        self.perturb_skips = perturb_skips
        self.bottleneck_perturbation = bottleneck_perturbation
        self.balance_codes = balance_codes

    def forward(
        self,
        labeled: Tensor,
        unlabeled: Tensor | None = None,
        grid: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        perturbed: Sequence[bool] | None = None,
        classes: Tensor | None = None,
    ) -> VQSegOutput:
        """Run both batches.

        Args:
            labeled: ``(B_l, in_channels, *S)``.
            unlabeled: ``(B_u, in_channels, *S)`` of the same size, or None.
            grid: the foundation model's patch grid; None skips the adapter.
            generator: randomness of the perturbation.
            perturbed: ``B_u`` flags, whether to perturb each unlabelled image; None perturbs all.
            classes: labels, then pseudo-labels, ``(B_l + B_u, *S)``, int64; read only with ``balance_codes``.

        Raises:
            ValueError: there are not as many flags as unlabelled images, or ``balance_codes`` has no ``classes``.
        """
        images = labeled if unlabeled is None else torch.cat((labeled, unlabeled))
        size = list(images.shape[2:])
        runs = _runs(len(labeled), len(images), perturbed)
        encoding, passed = self._encode(images, runs, generator)
        empty, adapted = images.new_empty(0), images.new_empty(0)
        clean = encoding.features
        indices, codebook = empty, empty
        codes: Codes | None = None
        commitment = entropy = images.new_zeros(())
        if self.network.quantizer is not None:
            codebook = self.network.quantizer.project_codebook()
            weights = self._token_weights(classes, list(encoding.features.shape[2:]))
            clean, indices, commitment, entropy = self.network.quantizer(encoding.features, codebook, weights)
            codes = Codes(indices, codebook.detach())
        if self.adapter is not None and grid is not None:
            adapted = self.adapter(_without_padding(clean, size, self.network.stride), grid)
        decoded = self._perturb(clean, codes, self.perturbation, runs, generator)
        skips = self._pass_skips(encoding.skips, runs, generator, passed)
        logits = self.network.decode_segmentation(decoded, skips.maps, size)
        has_image_decoder = self.network.reconstruction_decoder is not None
        return VQSegOutput(
            labeled_logits=logits[: len(labeled)],
            unlabeled_logits=logits[len(labeled) :],
            reconstruction=self.network.decode_image(decoded, size) if has_image_decoder else empty,
            adapted=adapted,
            features=encoding.features.detach(),
            indices=indices,
            codebook=codebook.detach(),
            commitment_loss=commitment + skips.commitment_loss,
            entropy_loss=entropy + skips.entropy_loss,
            quantized_skips=skips.quantized,
        )

    def _token_weights(self, classes: Tensor | None, grid: list[int]) -> Tensor | None:
        if not self.balance_codes:
            return None
        if classes is None:
            raise ValueError("balance_codes needs the classes of the images, got None.")
        return class_balance(classes, grid, self.network.stride, self.network.arguments["out_channels"])

    def _encode(self, images: Tensor, runs: list[_Run], generator: torch.Generator | None) -> tuple[Encoding, _Passed]:
        """The network's ``encode``, with what training wants of a quantised bottleneck below the codes."""
        passed = _Passed([], [], images.new_zeros(()), images.new_zeros(()))
        stage = self.network.bottleneck_stage
        if stage is None:
            return self.network.encode(images), passed
        maps = self.network.encode_maps(images)
        passed = self._pass_stage(stage, maps[-1], self.bottleneck_perturbation, runs, generator, passed)
        return self.network.fuse([*maps[:-1], *passed.maps]), passed

    def _pass_skips(
        self, maps: list[Tensor], runs: list[_Run], generator: torch.Generator | None, passed: _Passed
    ) -> _Passed:
        """The encoder's maps for the segmentation decoder, and the outputs of their quantisers."""
        bottleneck = passed.quantized
        passed = passed._replace(maps=[], quantized=[])
        for level, skip in enumerate(maps):
            stage = self.network.skip_stages[level] if len(self.network.skip_stages) > 0 else None
            if isinstance(stage, QuantizedStage):
                passed = self._pass_stage(stage, skip, self.perturbation, runs, generator, passed)
            else:
                perturbation = self.perturbation if self.perturb_skips else None
                passed.maps.append(self._perturb(skip, None, perturbation, runs, generator))
        return passed._replace(quantized=[*passed.quantized, *bottleneck])

    def _pass_stage(
        self,
        stage: QuantizedStage,
        map_: Tensor,
        perturbation: Perturbation | None,
        runs: list[_Run],
        generator: torch.Generator | None,
        passed: _Passed,
    ) -> _Passed:
        """One more map, quantised and perturbed."""
        features, codebook = stage.projection(map_), stage.quantizer.project_codebook()
        clean, indices, commitment, entropy = stage.quantizer(features, codebook)
        codes = Codes(indices, codebook.detach())
        decoded = stage.expansion(self._perturb(clean, codes, perturbation, runs, generator))
        return _Passed(
            [*passed.maps, decoded],
            [*passed.quantized, QuantizedMap(features.detach(), *codes)],
            passed.commitment_loss + commitment,
            passed.entropy_loss + entropy,
        )

    def _perturb(
        self,
        clean: Tensor,
        codes: Codes | None,
        perturbation: Perturbation | None,
        runs: list[_Run],
        generator: torch.Generator | None,
    ) -> Tensor:
        """A map with some images perturbed."""
        if perturbation is None or not any(run.perturbed for run in runs):
            return clean
        parts: list[Tensor] = []
        for images, perturbed in runs:
            part = clean[images]
            if perturbed:
                chosen = None if codes is None else codes._replace(indices=codes.indices[images])
                part = perturbation(part, chosen, generator)
            parts.append(part)
        return torch.cat(parts)


class _Passed(NamedTuple):
    """Maps on their way to a decoder, and what their quantisers say."""

    maps: list[Tensor]
    quantized: list[QuantizedMap]
    commitment_loss: Tensor
    entropy_loss: Tensor


class _Run(NamedTuple):
    """Consecutive images of the batch that are all perturbed, or all not."""

    images: slice
    perturbed: bool


def _without_padding(tokens: Tensor, size: list[int], stride: list[int]) -> Tensor:
    """The tokens within the images, which is all that the foundation model has seen."""
    for axis, (length, step) in enumerate(zip(size, stride, strict=True), start=2):
        tokens = tokens.narrow(axis, 0, -(-length // step))
    return tokens


def _runs(labeled: int, count: int, perturbed: Sequence[bool] | None) -> list[_Run]:
    unlabeled = [True] * (count - labeled) if perturbed is None else list(perturbed)
    if len(unlabeled) != count - labeled:
        raise ValueError(f"perturbed must hold {count - labeled} flags, one an unlabelled image, got {len(unlabeled)}.")
    runs: list[_Run] = []
    for flag, members in groupby([False] * labeled + unlabeled):
        start = runs[-1].images.stop if runs else 0
        runs.append(_Run(slice(start, start + len(list(members))), flag))
    return runs
