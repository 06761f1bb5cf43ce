"""The unlabelled batch as the student sees it: all streams in one batch, each mixed separately."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from monai.networks.utils import one_hot
from monai.transforms import CutMix
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

from vqseg_bundle.common import FEATURES
from vqseg_bundle.engines.copy_paste import CopyPaste
from vqseg_bundle.engines.pseudo_labels import PseudoLabels
from vqseg_bundle.engines.unlabeled_streams import STRONG, UnlabeledStream

__all__ = ["UnlabeledViews", "arrange_streams", "endless_batches", "mix_features", "needed_views"]


def needed_views(batch: Mapping[str, Any], streams: Sequence[UnlabeledStream]) -> list[str]:
    """Keys of an unlabelled batch that the streams need: the weak view's and each stream's, once.

    Raises:
        ValueError: the batch lacks one.
    """
    names = list(dict.fromkeys([str(Keys.IMAGE), *(stream.view for stream in streams)]))
    missing = [name for name in names if name not in batch]
    if missing:
        raise ValueError(
            f"the unlabelled batches must hold {', '.join(names)} for unlabeled_streams, {', '.join(missing)} is "
            f"missing from {', '.join(map(str, batch))}; add the transforms that make it."
        )
    return names


def mix_features(mix: Callable[[Tensor], Tensor], features: Tensor, image_size: Sequence[int]) -> Tensor:
    """Give each patch the features of the image that the mixed batch shows at the patch's centre.

    MONAI's ``CutMix.apply`` has its box in image pixels, so it cannot be applied to a map of another size. Applied to
    images filled with their own index, it tells which image each pixel comes from.

    Args:
        mix: pastes regions of some images of a batch ``(B, 1, *image_size)`` into others: ``CutMix.apply`` with the
            parameters used for the images.
        features: of the images before mixing, ``(B, C, *G)``.
        image_size: spatial size of the images, with as many axes as G.

    Returns:
        ``(B, C, *G)``.
    """
    batch, grid = len(features), features.shape[2:]
    numbers = torch.arange(batch, dtype=torch.float32, device=features.device)
    spread = numbers.view(-1, *[1] * (len(grid) + 1)).expand(batch, 1, *image_size)
    source = F.interpolate(mix(spread), size=grid, mode="nearest-exact").round().long()  # (B, 1, *G)
    return torch.gather(features, 0, source.expand(-1, *features.shape[1:]))


class UnlabeledViews(NamedTuple):
    """All streams of an unlabelled batch of B images, one after the other; N is the number of streams times B.

    Attributes:
        weak: ``(N, C, *S)``, weak views, mixed like their streams.
        images: ``(N, C, *S)``, the student's input.
        pseudo: pseudo-labels of these N images.
        perturbed: N flags, whether to perturb the features of an image.
        features: ``(N, C_f, *G)``, foundation-model features of the weak views from the batch, mixed likewise; empty if
            the batch has none.
    """

    weak: Tensor
    images: Tensor
    pseudo: PseudoLabels
    perturbed: list[bool]
    features: Tensor


def arrange_streams(
    views: Mapping[str, Tensor],
    pseudo: PseudoLabels,
    streams: Sequence[UnlabeledStream],
    mixer: CutMix | CopyPaste | None,
    labeled: Mapping[str, Tensor] | None = None,
) -> UnlabeledViews:
    """Combine all streams into one batch.

    Args:
        views: ``(B, C, *S)`` each, by batch key: "image" (the weak view) and the streams' views; optionally features
            ``(B, C_f, *G)`` of the weak view under "foundation_features".
        pseudo: pseudo-labels of the weak view.
        streams: at least one.
        mixer: mixes each stream with ``mixed`` by a separate draw, or None.
        labeled: the labelled batch, for a mixer that uses it, with "image", "strong" and "label" ``(B_l, *S)``.
    """
    parts = [_one_stream(views, pseudo, stream, mixer, labeled) for stream in streams]
    return UnlabeledViews(
        weak=torch.cat([part.weak for part in parts]),
        images=torch.cat([part.images for part in parts]),
        pseudo=PseudoLabels(
            torch.cat([part.pseudo.probabilities for part in parts]), torch.cat([part.pseudo.entropy for part in parts])
        ),
        perturbed=[flag for part in parts for flag in part.perturbed],
        features=torch.cat([part.features for part in parts]),
    )


def endless_batches(batches: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Repeat the batches endlessly.

    Args:
        batches: an iterable that can be iterated repeatedly.

    Raises:
        ValueError: it yields no batch.
    """
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise ValueError("unlabeled_data_loader gave no batch; pass None to train without unlabelled data.")


def _one_stream(
    views: Mapping[str, Tensor],
    pseudo: PseudoLabels,
    stream: UnlabeledStream,
    mixer: CutMix | CopyPaste | None,
    labeled: Mapping[str, Tensor] | None,
) -> UnlabeledViews:
    weak, view = views[Keys.IMAGE], views[stream.view]
    features = views[FEATURES] if FEATURES in views else weak.new_empty(0)
    parts = UnlabeledViews(weak, view, pseudo, [stream.perturbed] * len(weak), features)
    if mixer is None or not stream.mixed:
        return parts
    if isinstance(mixer, CopyPaste):
        if labeled is None or len(labeled[Keys.LABEL]) == 0:  # a client without labels
            return parts
        mixer.draw(len(weak), len(labeled[Keys.LABEL]), weak.ndim - 2)
        parts = _with_labeled(parts, labeled, strong=stream.view != str(Keys.IMAGE))
    else:
        mixer.batch_size = len(weak)
        mixer.randomize(weak)
    return _mixed(parts, mixer)


def _with_labeled(parts: UnlabeledViews, labeled: Mapping[str, Tensor], strong: bool) -> UnlabeledViews:
    """Append the labelled images, of which their labels are certain; where these are "ignore", nothing is.

    Strong views go with strong ones, so that a patch does not stand out by its look.
    """
    probabilities, entropy, features = *parts.pseudo, parts.features
    classes = probabilities.shape[1]
    certain = one_hot(labeled[Keys.LABEL].unsqueeze(1), classes + 1, dtype=probabilities.dtype)[:, :classes]
    if entropy.numel() > 0:
        entropy = torch.cat((entropy, entropy.new_zeros(labeled[Keys.LABEL].shape)))
    if features.numel() > 0:
        features = torch.cat((features, labeled[FEATURES]))
    return parts._replace(
        weak=torch.cat((parts.weak, labeled[Keys.IMAGE])),
        images=torch.cat((parts.images, labeled[STRONG if strong and STRONG in labeled else Keys.IMAGE])),
        pseudo=PseudoLabels(torch.cat((probabilities, certain)), entropy),
        features=features,
    )


def _mixed(parts: UnlabeledViews, mixer: CutMix | CopyPaste) -> UnlabeledViews:
    probabilities, entropy, features = *parts.pseudo, parts.features
    if entropy.numel() > 0:
        entropy = mixer.apply(entropy.unsqueeze(1)).squeeze(1)
    if features.numel() > 0:
        features = mix_features(mixer.apply, features, parts.weak.shape[2:])
    return parts._replace(
        weak=mixer.apply(parts.weak),
        images=mixer.apply(parts.images),
        # each voxel comes from one image of the batch: mixed probabilities have the mixed labels and confidences
        pseudo=PseudoLabels(mixer.apply(probabilities), entropy),
        features=features,
    )
