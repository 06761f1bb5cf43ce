from __future__ import annotations

import math

import pytest
import torch
from support.loss_parts import LOG2, logits_of

from vqseg_bundle.losses import SegmentationLoss


def test_cross_entropy_by_hand():
    loss = SegmentationLoss()(logits_of(0.25, 0.5, 0.9), torch.tensor([[[1, 0, 1]]]))
    assert loss.item() == pytest.approx((math.log(4) + LOG2 - math.log(0.9)) / 3, rel=1e-6)


def test_masked_cross_entropy_is_averaged_over_all_voxels():
    mask = torch.tensor([[[True, False, False]]])
    loss = SegmentationLoss()(logits_of(0.25, 0.5, 0.9), torch.tensor([[[1, 0, 1]]]), mask)
    assert loss.item() == pytest.approx(math.log(4) / 3, rel=1e-6)


def test_dice_term_by_hand():
    """Foreground: 1 - 2 (0.25 + 0.9) / ((0.25 + 0.5 + 0.9) + 2)."""
    logits, target = logits_of(0.25, 0.5, 0.9), torch.tensor([[[1, 0, 1]]])
    cross_entropy = SegmentationLoss()(logits, target)
    loss = SegmentationLoss(lambda_dice=0.5)(logits, target)
    assert (loss - cross_entropy).item() == pytest.approx(0.5 * (1 - 2.3 / 3.65), rel=1e-4)


def test_masked_dice_leaves_out_the_masked_voxels():
    """Kept: the first and the second; 1 - 2 * 0.25 / ((0.25 + 0.5) + 1)."""
    logits, target = logits_of(0.25, 0.5, 0.9), torch.tensor([[[1, 0, 1]]])
    mask = torch.tensor([[[True, True, False]]])
    dice = SegmentationLoss(lambda_dice=1.0)(logits, target, mask) - SegmentationLoss()(logits, target, mask)
    assert dice.item() == pytest.approx(1 - 0.5 / 1.75, rel=1e-4)


def test_dice_pools_the_batch_so_that_an_empty_slice_costs_nothing_of_its_own():
    """Two slices, the second without the structure: 1 - 2 * 0.5 / (0.5 + 0.25 + 1), not the mean of two losses."""
    logits = torch.cat((logits_of(0.5), logits_of(0.25)))
    target = torch.tensor([[[1]], [[0]]])
    dice = SegmentationLoss(lambda_dice=1.0)(logits, target) - SegmentationLoss()(logits, target)
    assert dice.item() == pytest.approx(1 - 1.0 / 1.75, rel=1e-4)


def test_masked_voxels_get_no_gradient():
    logits = logits_of(0.25, 0.5, 0.9).requires_grad_()
    mask = torch.tensor([[[True, True, False]]])
    SegmentationLoss(lambda_dice=1.0)(logits, torch.tensor([[[1, 0, 1]]]), mask).backward()
    assert (logits.grad[..., :2] != 0).all()
    assert (logits.grad[..., 2] == 0).all()


def test_half_precision_logits_are_summed_in_float32():
    loss = SegmentationLoss(lambda_dice=1.0)(logits_of(0.5, 0.5).bfloat16(), torch.tensor([[[1, 0]]]))
    assert loss.dtype is torch.float32


def test_volumes_are_taken_too():
    logits = torch.zeros(2, 4, 3, 3, 2)
    target = torch.randint(4, (2, 3, 3, 2))
    assert SegmentationLoss()(logits, target).item() == pytest.approx(math.log(4), rel=1e-6)


@pytest.mark.parametrize("name", ["lambda_dice", "lambda_cross_entropy"])
def test_negative_weights_of_segmentation_are_refused(name):
    with pytest.raises(ValueError, match=rf"{name} must not be negative, got -0.5"):
        SegmentationLoss(**{name: -0.5})


def test_a_segmentation_loss_without_terms_is_refused():
    with pytest.raises(ValueError, match="lambda_dice and lambda_cross_entropy must not both be 0"):
        SegmentationLoss(lambda_dice=0.0, lambda_cross_entropy=0.0)


def test_dice_alone_with_background_and_squares_by_hand():
    """Class 1: 1 - 2 * 1.15 / (0.0625 + 0.25 + 0.81 + 2); class 0: 1 - 2 * 0.5 / (0.5625 + 0.25 + 0.01 + 1)."""
    logits, target = logits_of(0.25, 0.5, 0.9), torch.tensor([[[1, 0, 1]]])
    loss = SegmentationLoss(1.0, lambda_cross_entropy=0.0, include_background=True, squared_dice=True)
    assert loss(logits, target).item() == pytest.approx(((1 - 2.3 / 3.1225) + (1 - 1.0 / 1.8225)) / 2, rel=1e-4)


def test_masked_voxels_are_no_background_in_dice():
    """The masked voxels 1 and 3 do not count for class 0 either: 1 - 2 * 0.5 / (0.5 + 1)."""
    logits, target = logits_of(0.25, 0.5, 0.9), torch.tensor([[[1, 0, 1]]])
    mask = torch.tensor([[[False, True, False]]])
    loss = SegmentationLoss(1.0, lambda_cross_entropy=0.0, include_background=True)(logits, target, mask)
    class_0, class_1 = 1 - 1.0 / 1.5, 1 - 1e-5 / 0.5
    assert loss.item() == pytest.approx((class_0 + class_1) / 2, rel=1e-4)
