from __future__ import annotations

import pytest
import torch

from vqseg_bundle.layers import class_balance


def test_every_class_weighs_the_same() -> None:
    """Of 16 tokens 12 are of class 0, 3 of class 1, 1 of class 3: a third of the weight each, with mean 1."""
    classes = torch.zeros(1, 4, 4, dtype=torch.int64)
    classes[0, 0, :3] = 1
    classes[0, 3, 3] = 3
    weights = class_balance(classes, [4, 4], [1, 1], 5)
    flat = classes.flatten()
    assert weights.mean().item() == pytest.approx(1, abs=1e-6)
    for index, count in ((0, 12), (1, 3), (3, 1)):
        assert weights[flat == index].tolist() == pytest.approx([16 / 3 / count] * count, rel=1e-5)


def test_ignored_tokens_weigh_one_and_change_no_other() -> None:
    classes = torch.tensor([[[0, 0, 0, 1]]])
    beside = torch.tensor([[[0, 3, 0, 0, 3, 1]]])
    weights = class_balance(beside, [1, 6], [1, 1], 3)
    torch.testing.assert_close(weights[[0, 2, 3, 5]], class_balance(classes, [1, 4], [1, 1], 3))
    assert weights[[1, 4]].tolist() == [1.0, 1.0]
    assert class_balance(torch.full((1, 1, 2), 3), [1, 2], [1, 1], 3).tolist() == [1.0, 1.0]


def test_a_token_has_the_class_at_its_centre() -> None:
    classes = torch.zeros(1, 8, 8, 4, dtype=torch.int64)
    classes[0, 6, 2, 1] = 1  # index 2 of each four along the first axes is the token's centre, 1 of each two
    weights = class_balance(classes, [2, 2, 2], [4, 4, 2], 2).view(2, 2, 2)
    assert weights[1, 0, 0].item() == pytest.approx(4, rel=1e-5)
    assert weights.sum().item() == pytest.approx(8, rel=1e-5)


def test_tokens_of_padding_have_the_class_of_the_last_voxel_and_move_no_other() -> None:
    """Five voxels at stride 2, padded to eight: centres 1, 3, and 5 and 7, which there are not."""
    classes = torch.tensor([[0, 0, 0, 1, 0]])[None]
    weights = class_balance(classes, [1, 4], [1, 2], 2)
    torch.testing.assert_close(weights, torch.tensor([2 / 3, 2.0, 2 / 3, 2 / 3]))


def test_a_few_tokens_do_not_outweigh_all_others() -> None:
    classes = torch.zeros(1, 100, 100, dtype=torch.int64)
    classes[0, 50, 50] = 1  # a share of 0.0001, which counts as 0.001
    weights = class_balance(classes, [100, 100], [1, 1], 2).view(100, 100)
    assert (weights[50, 50] / weights[0, 0]).item() == pytest.approx(0.9999 / 0.001, rel=1e-4)
