"""Volumes in the report and on the contact sheet: in ml where the file says how large a voxel is."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.transforms import Compose
from support.report_parts import CASES, LABELS, boxes, case, evaluate, volume

from vqseg_bundle.data import choose_slice_axis
from vqseg_bundle.handlers import ContactSheet
from vqseg_bundle.handlers.report.case_slice import spread_slices
from vqseg_bundle.handlers.report.volumes import compare_volumes, measure_volumes, show_volume, volume_tables


def unknown(data: torch.Tensor) -> MetaTensor:
    return MetaTensor(data, affine=torch.eye(4))


def test_a_volume_is_voxels_times_their_size() -> None:
    # cubes of 64 voxels of 1 x 2 x 3 mm
    measured = measure_volumes(volume(boxes(1, 2)), 4)
    assert measured.voxels == (64, 64, 0)
    assert measured.volumes(in_ml=True) == pytest.approx([0.384, 0.384, 0.0])
    assert measured.says_size
    assert not measure_volumes(unknown(boxes(1)), 3).says_size
    assert not measure_volumes(MetaTensor(boxes(1), affine=torch.diag(torch.tensor([-1.0, -1, 1, 1]))), 3).says_size
    image = measure_volumes(volume(boxes(1)[..., 2]), 3)
    assert image.voxel_ml is None, "an image has no volume"
    assert not image.says_size


def test_where_most_files_say_a_voxels_size_the_others_are_of_one_mm() -> None:
    stated, bare = measure_volumes(volume(boxes(1)), 2), measure_volumes(unknown(boxes(1)), 2)
    cases = {"a": (stated, stated), "b": (stated, stated), "c": (bare, bare)}
    table = volume_tables(cases, ["structure"], ["red"])
    assert table["in_ml"]
    assert table["pairs"]["structure"]["c"] == pytest.approx((0.064, 0.064))
    assert not volume_tables({name: cases[name] for name in "ac"}, ["structure"], ["red"])["in_ml"]


def test_agreement_is_that_of_bland_and_altman() -> None:
    mean, low, high = compare_volumes([11.0, 12.0, 16.0], [10.0, 10.0, 10.0])
    spread = 1.96 * np.std([1, 2, 6], ddof=1)
    assert (mean, low, high) == pytest.approx((3.0, 3.0 - spread, 3.0 + spread))


def test_volumes_have_three_digits_and_voxels_none() -> None:
    shown = [show_volume(value, True) for value in (0.0384, 1.234, 12.34, 1234.5, float("nan"))]
    assert shown == ["0.038", "1.23", "12.3", "1,234", "-"]
    assert show_volume(-64.0, False, signed=True) == "-64"


def test_the_page_compares_volumes_and_speaks_of_mm_only_where_it_can(tmp_path: Path) -> None:
    text = evaluate(tmp_path, CASES)
    # the first class: 0.384 ml in three labels, predicted in two of these
    assert re.search(r'<td class="number">0.384</td>\s*<td class="number">0.256</td>\s*<td class="number">-0.128', text)
    assert "HD95 (mm)" in text
    bare = [{**item, "label": unknown(item["label"].as_tensor())} for item in CASES[:2]]
    bare = [{**item, "pred": unknown(item["pred"].as_tensor())} for item in bare]
    text = evaluate(tmp_path, bare)
    assert "label (voxels)" in text
    assert "HD95 (voxels)" in text
    assert not re.search(r"[( ](mm|ml)\b", re.sub(r"(?s)<(style|script|pre).*?</\1>|<svg.*?</svg>", "", text))


def test_what_is_not_labelled_has_no_volume(tmp_path: Path) -> None:
    label = boxes(1)
    label[0, :, :, 3:] = len(LABELS)
    text = evaluate(tmp_path, [case("a", boxes(1), label)])
    assert re.search(r'<td class="number">0.192</td>\s*<td class="number">0.192</td>', text), "half of 0.384 ml"


def test_slices_divide_the_foreground_into_equal_parts() -> None:
    classes = torch.zeros(1, 8, 8, 12)
    classes[0, :4, :4, 4:10] = 1
    shown = spread_slices(classes, volume(classes), choose_slice_axis)
    assert [item.number for item in shown] == [5, 7, 9]
    assert shown[0].image.shape == shown[0].classes.shape == (176, 176), "enlarged, so that outlines are thin"
    numbers = [s.number for s in spread_slices(classes, volume(torch.zeros_like(classes)), choose_slice_axis)]
    assert numbers == [2, 6, 10]
    assert len(spread_slices(classes[..., 5], unknown(classes[..., 5]), choose_slice_axis)) == 1


def test_the_contact_sheet_has_a_row_for_each_case_that_can_be_shown(tmp_path: Path) -> None:
    items = [case(name, boxes(1), boxes(1)) for name in ("b", "<a>")]
    items += [{**case("turned", boxes(1), boxes(1)), "image": volume(torch.zeros(1, 2, 2, 2))}]
    engine = Engine(lambda _, batch: batch)
    ContactSheet(tmp_path / "sheet.html", LABELS, Compose([]), choose_slice_axis).attach(engine)
    engine.run([items[:1], items[1:]], max_epochs=1)
    text = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert re.findall(r'<th scope="row">(.*)', text)[:2] == ["&lt;a&gt;", "b"]
    assert text.count("0.384 ml") == 2
    assert text.count("data:image/jpeg") == 2 * 3
