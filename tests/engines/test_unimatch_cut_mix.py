"""UniMatch's boxes: half of the images, anywhere inside, never of the image itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vqseg_bundle.engines import UniMatchCutMix

SIZE = (32, 48)


def sources(mixer: UniMatchCutMix, size: tuple[int, ...], draws: int) -> torch.Tensor:
    """Of each voxel, the number of the image that it comes from, ``(draws, B, *S)``."""
    numbers = torch.arange(4.0).view(4, 1, *[1] * len(size)).expand(4, 1, *size)
    found = []
    for _ in range(draws):
        mixer.randomize(numbers)
        found.append(mixer.apply(numbers)[:, 0])
    return torch.stack(found)


def foreign(found: torch.Tensor) -> torch.Tensor:
    own = torch.arange(4.0).view(1, 4, *[1] * (found.ndim - 2))
    return found != own


def test_half_of_the_images_receive_a_box_of_one_other_image() -> None:
    found = sources(UniMatchCutMix(batch_size=4).set_random_state(0), SIZE, 2000)
    mixed = foreign(found).flatten(2)
    assert abs(mixed.any(dim=2).float().mean() - 0.5) < 0.02
    shares = mixed.float().mean(dim=2)[mixed.any(dim=2)]
    # sides are rounded down to whole pixels, at most one pixel of each
    assert shares.max() <= 0.4
    assert shares.min() > 0.01
    partners = torch.stack([(found == index).flatten(2).any(dim=2) for index in range(4)], dim=2).sum(dim=2)
    assert partners.max() == 2


def test_the_boxes_favour_no_corner() -> None:
    mixed = foreign(sources(UniMatchCutMix(batch_size=4, prob=1.0).set_random_state(1), SIZE, 2500)).float()
    rate = mixed.mean(dim=(0, 1)).numpy()
    quarters = [
        rate[rows, columns].mean() for rows in (slice(16), slice(16, 32)) for columns in (slice(24), slice(24, 48))
    ]
    assert np.ptp(quarters) < 0.02
    assert 0.17 < rate.mean() < 0.23  # areas are drawn from 0.02 to 0.4, and refused where no side fits
    assert rate[16, 24] > 2 * rate[0, 0] > 0


def test_volumes_are_cut_through_the_whole_depth() -> None:
    mixed = foreign(sources(UniMatchCutMix(batch_size=4, prob=1.0).set_random_state(2), (8, 8, 5), 50))
    assert (mixed == mixed[..., :1]).all()


def test_one_draw_holds_for_every_tensor_and_a_batch_of_one_stays() -> None:
    mixer = UniMatchCutMix(batch_size=3, prob=1.0).set_random_state(3)
    images = torch.rand(3, 2, 16, 16)
    mixer.randomize(images)
    assert torch.equal(mixer.apply(images)[:, :1], mixer.apply(images[:, :1]))
    single = UniMatchCutMix(batch_size=1, prob=1.0)
    single.randomize(images[:1])
    assert torch.equal(single.apply(images[:1]), images[:1])
    with pytest.raises(ValueError, match=r"expected a batch of 3, got 2\."):
        mixer.apply(images[:2])
    with pytest.raises(ValueError, match=r"prob of a box must lie in \[0, 1\], got 2\."):
        UniMatchCutMix(batch_size=2, prob=2)
