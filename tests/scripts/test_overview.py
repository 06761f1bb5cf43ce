"""The figure of what goes into a training and what comes out."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from support.bundle_runs import CohortFolder

from scripts.figures.overview import _draw, _slice, main
from vqseg_bundle.data import open_cohort, read_classes


def test_it_counts_the_scans_and_shows_the_fullest_slice(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    splits = open_cohort(str(shared_cohort.root), None, "").splits()
    case = splits["test"][0]
    shutil.copy(case["label"], tmp_path / f"{case['case']}_pred.nii.gz")
    figure = _draw(splits, tmp_path)
    given, made = figure.subfigs
    assert (
        given.get_suptitle() == f"in: {len(splits['training'])} labelled scans, {len(splits['unlabeled'])} unlabelled"
    )
    image, place = _slice(case["image"], case["label"])
    areas = [np.count_nonzero(area) for area in np.moveaxis(read_classes(case["label"])[0], 2, 0)]
    assert areas[place] == max(areas) > 0
    for axes in made.axes:
        np.testing.assert_array_equal(axes.images[0].get_array(), image.T)
    assert [len(axes.collections) for axes in made.axes] == [
        len(np.unique(read_classes(case["label"])[0][..., place])) - 1
    ] * 2


def test_an_existing_picture_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old.png").write_bytes(b"old")
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["--predictions", str(tmp_path), "--output", str(tmp_path / "old.png")])
    assert "old.png: the file exists; give another name, or --force" in capsys.readouterr().err
    assert (tmp_path / "old.png").read_bytes() == b"old"
