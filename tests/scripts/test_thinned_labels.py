"""Labels that are thinned out to try sparse ones."""

from __future__ import annotations

import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support.bundle_runs import CohortFolder

from scripts.sparse_labels import draw_scribbles, keep_three_slices, main


def disc(radius: int, size: int = 41) -> np.ndarray:
    places = np.indices((size, size)) - size // 2
    return (np.square(places).sum(axis=0) <= radius**2).astype(np.uint8)


def test_first_middle_and_last_slice_of_the_structures_stay() -> None:
    classes = np.stack([disc(0) * 0, disc(3), disc(5), disc(9), disc(5), disc(3), disc(0) * 0], axis=-1)
    kept = keep_three_slices(classes)
    assert np.flatnonzero(kept.all(axis=(0, 1))).tolist() == [1, 3, 5]
    assert kept.sum() == 3 * 41 * 41
    assert not keep_three_slices(classes * 0).any()


def test_scribbles_are_five_percent_of_each_class_and_lie_inside_it() -> None:
    classes = np.stack([disc(12) + disc(6), disc(9)], axis=-1)
    kept = draw_scribbles(classes)
    for index in (0, 1):
        for value in np.unique(classes[..., index]):
            region = classes[..., index] == value
            assert kept[..., index][region].sum() == math.ceil(0.05 * region.sum())
    # the middle of a disc comes first, its edge last
    assert kept[20, 20, 1]
    assert np.hypot(*(np.argwhere(kept[..., 1] & (classes[..., 1] == 1)) - 20).T).max() <= 3


def test_structures_of_one_voxel_are_scribbled_whole() -> None:
    assert draw_scribbles(disc(0)[..., None])[20, 20, 0]


@pytest.mark.parametrize(("words", "rest"), [([], 3), (["--as-background"], 0)])
def test_training_labels_are_thinned_and_the_others_stay(
    cohort: CohortFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], rest: int
) -> None:
    datalist, output = cohort.root / "datalist.json", tmp_path / "sparse"
    options = ["--dataset-dir", str(cohort.root), "--datalist", str(datalist), "--output", str(output)]
    main([*options, "--kind", "slices", *words])
    made = json.loads((output / "datalist.json").read_text())
    assert list(made["labels"].values()) == ["background", "shell", "core", "ignore"][: 3 + (rest > 0)]
    counted = []
    for case, before in zip(made["training"], cohort.datalist["training"], strict=True):
        thinned, whole = (nib.load(path) for path in (output / case["label"], cohort.root / before["label"]))
        found, classes = (np.asarray(volume.dataobj) for volume in (thinned, whole))
        kept = keep_three_slices(classes)
        assert (found[kept] == classes[kept]).all()
        assert (found[~kept] == rest).all()
        assert (thinned.affine == whole.affine).all()
        counted.append(kept.mean())
    assert f"{100 * np.mean(counted):.1f} % of the voxels are labelled" in capsys.readouterr().out
    for name in ("unlabeled", "test"):
        for case, before in zip(made.get(name, []), cohort.datalist.get(name, []), strict=True):
            assert {key: str((cohort.root / path).resolve()) for key, path in before.items()} == case
    with pytest.raises(SystemExit, match=r"^2$"):
        main([*options, "--kind", "slices"])
    assert "datalist.json: the file exists" in capsys.readouterr().err
