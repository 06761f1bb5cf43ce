"""Pseudo-labels of which each class keeps only its largest connected component."""

from __future__ import annotations

import torch
from monai.transforms import KeepLargestConnectedComponent
from torch import Tensor

from vqseg_bundle.engines.pseudo_labels import PseudoLabeler, PseudoLabels

__all__ = ["LargestComponentLabeler"]


class LargestComponentLabeler:
    """Another labeller's pseudo-labels without stray islands, as in BCP (Bai et al. 2023, arXiv 2305.00673).

    In each view (a slice in 2D), the voxels of a foreground class outside its largest connected component, neighbours
    at corners included, become background: the two classes exchange their probabilities, so that a confidence threshold
    leaves out unsure voxels as before. It suits organs, which are one piece, and is wrong for what is scattered, such
    as lesions.

    Args:
        labeler: gives the pseudo-labels.
        num_classes: number of classes, background included, at least 2.

    Raises:
        ValueError: there is no foreground class.
    """

    def __init__(self, labeler: PseudoLabeler, num_classes: int) -> None:
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, background included, got {num_classes}.")
        self.labeler = labeler
        self._keep = KeepLargestConnectedComponent(applied_labels=list(range(1, num_classes)), is_onehot=False)

    def pseudo_label(self, images: Tensor, generator: torch.Generator | None = None) -> PseudoLabels:
        """Pseudo-labels of weakly augmented images.

        Args:
            images: ``(B, C, *S)``.
            generator: source of randomness of the other labeller.
        """
        found = self.labeler.pseudo_label(images, generator)
        labels = found.labels.unsqueeze(1)
        # copies, since MONAI's transform writes into its input
        kept = torch.stack([torch.as_tensor(self._keep(each.clone())) for each in labels]).to(labels)
        background, own = found.probabilities[:, :1], found.probabilities.gather(1, labels)
        exchanged = found.probabilities.scatter(1, labels, background)
        exchanged[:, :1] = own
        return PseudoLabels(exchanged.where(kept != labels, found.probabilities), found.entropy)
