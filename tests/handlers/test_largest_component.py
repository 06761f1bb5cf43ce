from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine

from vqseg_bundle.handlers import LargestComponentChoice, keep_largest_components


def slices(*boxes: tuple[int, int, int, int]) -> torch.Tensor:
    """A class map of 12 x 12 pixels with boxes (class, first row, rows, columns), all from column 0 on."""
    result = torch.zeros(1, 12, 12)
    for index, row, rows, columns in boxes:
        result[0, row : row + rows, :columns] = index
    return result


def choose(*pairs: tuple[torch.Tensor, torch.Tensor]) -> LargestComponentChoice:
    handler = LargestComponentChoice(num_classes=3)
    engine = Engine(lambda _engine, batch: [{"pred": item["pred"], "label": item["label"]} for item in batch])
    handler.attach(engine)
    cases = [{"case": str(number), "pred": pred, "label": label} for number, (pred, label) in enumerate(pairs)]
    engine.run([[case] for case in cases])
    return handler


def test_smaller_components_of_each_class_become_background() -> None:
    classes = slices((1, 0, 2, 5), (1, 4, 1, 3), (2, 6, 1, 4), (2, 9, 2, 4))
    assert torch.equal(keep_largest_components(classes, 3), slices((1, 0, 2, 5), (2, 9, 2, 4)))
    empty = torch.zeros(1, 4, 4)
    assert torch.equal(keep_largest_components(empty, 3), empty)


def test_a_class_is_chosen_if_and_only_if_its_mean_dice_rises() -> None:
    """Class 1 has 4 wrong voxels beside 10 right ones, class 2 two true parts of 8 and 4."""
    label = slices((1, 0, 2, 5), (2, 6, 1, 4), (2, 9, 2, 4))
    pred = slices((1, 0, 2, 5), (1, 4, 1, 4), (2, 6, 1, 4), (2, 9, 2, 4))
    section = choose((pred, label)).record()["postprocessing"]
    assert section["largest_component"] == [1]
    assert section["validation_dice_gain"] == {"1": pytest.approx(1 - 20 / 24, abs=1e-6)}


def test_what_one_case_gains_another_may_lose() -> None:
    stray, twofold = slices((1, 0, 2, 5), (1, 4, 1, 1)), slices((1, 0, 2, 5), (1, 4, 1, 5))
    handler = choose((stray, slices((1, 0, 2, 5))), (twofold, twofold))
    assert handler.record()["postprocessing"]["largest_component"] == []
    absent = torch.zeros(1, 12, 12)
    assert choose((absent, absent)).record()["postprocessing"]["largest_component"] == []
