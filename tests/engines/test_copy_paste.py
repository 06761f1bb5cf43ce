"""Boxes exchanged between unlabelled and labelled images, and what the student is asked for there."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from vqseg_bundle.common import FEATURES
from vqseg_bundle.engines import STRONG, CopyPaste, PseudoLabels, UnlabeledStream
from vqseg_bundle.engines.unlabeled_views import arrange_streams


def copier(share: float = 2 / 3, seed: int = 0) -> CopyPaste:
    mixer = CopyPaste(share)
    mixer.set_random_state(seed=seed)
    return mixer


@pytest.mark.parametrize(("size", "sides"), [((12, 9), (8, 6)), ((6, 9, 12), (4, 6, 8))])
def test_a_box_of_two_thirds_of_each_axis_comes_from_the_partner(size, sides):
    """Images are constant: 0 to 3 unlabelled, 10 and 11 labelled."""
    images = torch.tensor([0.0, 1.0, 2.0, 3.0, 10.0, 11.0]).view(6, 1, *[1] * len(size)).expand(6, 1, *size)
    mixer, background = copier(), []
    for _ in range(50):
        mixer.draw(4, 2, len(size))
        mixed = mixer.apply(images)
        assert mixed.shape == (4, 1, *size)
        for number, image in enumerate(mixed[:, 0]):
            assert set(image.unique().tolist()) in ({float(number), 10.0}, {float(number), 11.0})
            counts = sorted([(image < 10).sum().item(), (image >= 10).sum().item()])
            box = torch.tensor(sides).prod().item()
            assert counts == sorted([box, image.numel() - box])
            background.append((image >= 10).sum().item() == box)
    # a fair coin chose the background 200 times
    assert 70 <= sum(background) <= 130


def test_labels_are_certain_where_the_labelled_image_shows():
    """Image, strong view, probabilities and entropy are all functions of where a voxel came from."""
    size = (12, 12)
    unlabeled = torch.rand(4, 1, *size)
    labeled = {"image": torch.rand(2, 1, *size) + 10, "label": torch.randint(0, 3, (2, *size))}
    labeled[STRONG] = labeled["image"] + 100
    pseudo = PseudoLabels(F.softmax(torch.rand(4, 3, *size), dim=1), torch.rand(4, *size) + 0.5)
    views = {"image": unlabeled, STRONG: unlabeled + 100}
    found = arrange_streams(views, pseudo, [UnlabeledStream()], copier(), labeled)
    torch.testing.assert_close(found.images, found.weak + 100)
    of_weak = arrange_streams(views, pseudo, [UnlabeledStream("image")], copier(), labeled)
    assert torch.equal(of_weak.images, of_weak.weak)  # no strong patch in a weak view
    torch.testing.assert_close(found.pseudo.probabilities.sum(1), torch.ones(4, *size))
    from_label = found.weak[:, 0] >= 10
    assert 0.2 < from_label.float().mean() < 0.8
    for image in range(4):
        own = ~from_label[image]
        assert torch.equal(found.weak[image, 0][own], unlabeled[image, 0][own])
        assert torch.equal(found.pseudo.probabilities[image][:, own], pseudo.probabilities[image][:, own])
        assert torch.equal(found.pseudo.entropy[image][own], pseudo.entropy[image][own])
        partner = [torch.equal(found.weak[image, 0][~own], labeled["image"][i, 0][~own]) for i in range(2)].index(True)
        assert torch.equal(found.pseudo.labels[image][~own], labeled["label"][partner][~own])
        assert found.pseudo.confidence[image][~own].eq(1).all()
        assert found.pseudo.entropy[image][~own].eq(0).all()


def test_nothing_is_certain_where_nobody_has_labelled():
    unlabeled, labeled = torch.zeros(2, 1, 9, 9), {"image": torch.ones(2, 1, 9, 9), "label": torch.full((2, 9, 9), 3)}
    labeled["label"][:, :4] = 1
    pseudo = PseudoLabels(torch.full((2, 3, 9, 9), 1 / 3), torch.empty(0))
    views = {"image": unlabeled, STRONG: unlabeled}
    found = arrange_streams(views, pseudo, [UnlabeledStream()], copier(), labeled)
    pasted = found.weak[:, 0] == 1
    rows = torch.arange(9).view(1, 9, 1).expand_as(pasted)
    assert found.pseudo.confidence[pasted & (rows < 4)].eq(1).all()
    assert found.pseudo.confidence[pasted & (rows >= 4)].eq(0).all()
    assert found.pseudo.labels[pasted & (rows < 4)].eq(1).all()
    assert found.pseudo.labels[pasted & (rows >= 4)].eq(3).all()  # no class
    torch.testing.assert_close(found.pseudo.confidence[~pasted], torch.full((int((~pasted).sum()),), 1 / 3))


def test_features_come_from_the_image_that_shows_at_a_patch_s_centre():
    """Features and images are constant and alike: 0 to 3 unlabelled, 10 and 11 labelled."""
    constant = torch.tensor([0.0, 1.0, 2.0, 3.0, 10.0, 11.0]).view(6, 1, 1, 1)
    images, features = constant.expand(6, 1, 12, 12), constant.expand(6, 2, 4, 4)
    views = {"image": images[:4], STRONG: images[:4], FEATURES: features[:4]}
    labels = torch.zeros(2, 12, 12, dtype=torch.long)
    labeled = {"image": images[4:], STRONG: images[4:], FEATURES: features[4:], "label": labels}
    pseudo = PseudoLabels(torch.full((4, 2, 12, 12), 0.5), torch.empty(0))
    found = arrange_streams(views, pseudo, [UnlabeledStream()], copier(), labeled)
    assert torch.equal(found.features, found.weak[:, :, 1::3, 1::3].expand(4, 2, 4, 4))
    assert found.features.max() >= 10 > found.features.min()


def test_every_labelled_image_is_used_as_often():
    mixer, seen = copier(), torch.zeros(2)
    images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 6, 6)
    for _ in range(20):
        mixer.draw(4, 2, 2)
        for number in (4, 5):
            seen[number - 4] += (mixer.apply(images) == number).flatten(1).any(1).sum()
    assert seen.tolist() == [40, 40]


def test_without_labels_nothing_is_mixed():
    views = {"image": torch.rand(2, 1, 8, 8), STRONG: torch.rand(2, 1, 8, 8)}
    pseudo = PseudoLabels(torch.full((2, 2, 8, 8), 0.5), torch.empty(0))
    empty = {"image": torch.empty(0, 1, 8, 8), "label": torch.empty(0, 8, 8, dtype=torch.long)}
    found = arrange_streams(views, pseudo, [UnlabeledStream()], copier(), empty)
    assert torch.equal(found.images, views[STRONG])


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_box_of_nothing_or_all_is_refused(share):
    with pytest.raises(ValueError, match=rf"share of a copied box must lie in \(0, 1\), got {share}"):
        CopyPaste(share)
