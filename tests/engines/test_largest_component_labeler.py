"""Pseudo-labels without stray islands."""

from __future__ import annotations

import pytest
import torch

from vqseg_bundle.engines import LargestComponentLabeler, PseudoLabels

#: two classes beside the background: class 1 in pieces of three and one, class 2 in two that touch at a corner
MAP = torch.tensor([[1, 1, 0, 2], [1, 0, 2, 0], [0, 0, 0, 0], [0, 0, 0, 1]])
CLEAN = torch.tensor([[1, 1, 0, 2], [1, 0, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


class Fixed:
    """Gives the map with probability 0.8, and keeps what it was asked."""

    def __init__(self, labels: torch.Tensor) -> None:
        self.probabilities = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1) * 0.7 + 0.1
        self.asked: list[object] = []

    def pseudo_label(self, images, generator=None):
        self.asked += [images, generator]
        return PseudoLabels(self.probabilities, torch.full(self.probabilities.shape[:1], 0.5))


def test_each_class_keeps_its_largest_component_in_each_image():
    fixed = Fixed(torch.stack((MAP, MAP.flip(0), torch.zeros_like(MAP))))
    before = fixed.probabilities.clone()
    images, generator = torch.zeros(3, 1, 4, 4), torch.Generator()
    found = LargestComponentLabeler(fixed, 3).pseudo_label(images, generator)
    assert torch.equal(found.labels, torch.stack((CLEAN, CLEAN.flip(0), torch.zeros_like(MAP))))
    removed = found.labels != torch.stack((MAP, MAP.flip(0), torch.zeros_like(MAP)))
    assert removed.sum() == 2
    assert found.confidence[removed].tolist() == pytest.approx([0.8, 0.8]), "as sure as before"
    assert (found.probabilities.sum(dim=1) - 1).abs().max() < 1e-6
    assert torch.equal(found.probabilities.movedim(1, -1)[~removed], before.movedim(1, -1)[~removed])
    assert torch.equal(fixed.probabilities, before)
    assert fixed.asked == [images, generator]
    assert torch.equal(found.entropy, torch.full((3,), 0.5))


def test_a_volume_s_component_is_that_of_the_volume():
    volume = torch.stack((MAP, torch.zeros_like(MAP)), dim=-1)[None]
    found = LargestComponentLabeler(Fixed(volume), 3).pseudo_label(torch.zeros(1, 1, 4, 4, 2))
    assert torch.equal(found.labels[0, ..., 0], CLEAN)


def test_without_a_foreground_class_it_is_refused():
    with pytest.raises(ValueError, match="num_classes must be at least 2, background included, got 1"):
        LargestComponentLabeler(Fixed(MAP[None]), 1)
