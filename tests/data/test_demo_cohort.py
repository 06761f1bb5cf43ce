"""How samples and cases are divided over processes."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch.distributed as dist
from support.processes import CONTEXT

from vqseg_bundle.data import (
    DataError,
    DemoCohortConfig,
    check_cohort,
    make_demo_volume,
    open_cohort,
)
from vqseg_bundle.data.cohorts.demo_cohort import DEMO_COHORT_VERSION, write_demo_cohort

SMALL = DemoCohortConfig(labeled=1, unlabeled=1, validation=1, test=0, shape=(40, 36, 8), spacing=(3.6, 3.6, 9.0))


def write(directory: str) -> str:
    return str(write_demo_cohort(Path(directory), SMALL))


def write_in_group(directory: str, rank: int, answers: multiprocessing.Queue) -> None:
    dist.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=2)
    answers.put(write(f"{directory}/data"))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo_cohort(tmp_path_factory.mktemp("demo"))


def test_default_cohort_has_its_splits_and_passes_the_checks(folder: Path):
    cohort = open_cohort(None, "", str(folder.parent))
    assert [len(cases) for cases in cohort.splits().values()] == [2, 14, 4, 4]
    assert list(cohort.labels.values()) == ["background", "organ", "core", "vessel"]
    assert check_cohort(cohort, 1, required_split="test", progress=False) == []


def test_volumes_are_anisotropic_int16_with_an_oblique_affine(folder: Path):
    image, label = (nib.load(folder / part / "demo_00.nii.gz") for part in ("images", "labels"))
    assert image.shape == label.shape == (96, 96, 12)
    assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)
    assert np.allclose(image.header.get_zooms(), (1.5, 1.5, 6.0))
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    assert np.abs(image.affine[:3, 3]).min() > 0
    assert np.array_equal(image.affine, label.affine)


def test_every_case_has_every_structure_and_the_core_lies_in_the_organ():
    config = DemoCohortConfig()
    for index in range(config.labeled + config.unlabeled + config.validation + config.test):
        label = make_demo_volume(config, index).label
        assert set(np.unique(label)) == {0, 1, 2, 3}
        core = np.argwhere(label == 2)
        for axis, size in ((0, 96), (1, 96)):
            for step in (-1, 1):
                beside = core.copy()
                beside[:, axis] = np.clip(beside[:, axis] + step, 0, size - 1)
                touched = set(np.unique(label[tuple(beside.T)]))
                assert touched <= {1, 2}, f"case {index}: the core touches {touched}"


def test_same_voxels_from_the_same_seed_whatever_was_made_before():
    config = DemoCohortConfig()
    first = make_demo_volume(config, 3)
    make_demo_volume(config, 4)
    again = make_demo_volume(config, 3)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.label, again.label)
    assert np.array_equal(first.affine, again.affine)
    other = make_demo_volume(dataclasses.replace(config, seed=1), 3)
    assert (first.image != other.image).mean() > 0.9


def test_intensity_scales_differ_by_more_than_a_factor_of_two():
    spread = [float(make_demo_volume(DemoCohortConfig(), index).image.std()) for index in range(8)]
    assert max(spread) > 2 * min(spread)


def test_second_call_writes_nothing(tmp_path: Path):
    target = write_demo_cohort(tmp_path, SMALL)
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    assert write_demo_cohort(tmp_path, SMALL) == target == tmp_path / f"demo_cohort_v{DEMO_COHORT_VERSION}"
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == before
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("damage", ["no marker", "older version", "missing file", "short file", "foreign content"])
def test_half_written_or_older_folder_is_replaced(tmp_path: Path, damage: str):
    target = write_demo_cohort(tmp_path, SMALL)
    marker, image = target / "version.json", target / "images" / "demo_01.nii.gz"
    expected = image.read_bytes()
    if damage == "no marker":
        marker.unlink()
    elif damage == "older version":
        marker.write_text(json.dumps({**json.loads(marker.read_text()), "version": DEMO_COHORT_VERSION - 1}))
    elif damage == "missing file":
        image.unlink()
    elif damage == "short file":
        image.write_bytes(expected[:100])
    else:
        shutil.rmtree(target)
        target.write_text("not a folder")
    write_demo_cohort(tmp_path, SMALL)
    assert image.read_bytes() == expected
    assert json.loads(marker.read_text())["version"] == DEMO_COHORT_VERSION
    assert list(tmp_path.iterdir()) == [target]


def test_other_settings_replace_the_folder(tmp_path: Path):
    write_demo_cohort(tmp_path, SMALL)
    target = write_demo_cohort(tmp_path, dataclasses.replace(SMALL, validation=2))
    assert len(json.loads((target / "datalist.json").read_text())["validation"]) == 2


def test_concurrent_writers_leave_one_sound_cohort(tmp_path: Path):
    (tmp_path / f"demo_cohort_v{DEMO_COHORT_VERSION}").mkdir()
    (tmp_path / f"demo_cohort_v{DEMO_COHORT_VERSION}" / "half.nii.gz").write_bytes(b"x")
    with CONTEXT.Pool(3) as pool:
        targets = set(pool.map(write, [str(tmp_path)] * 3, chunksize=1))
    assert len(targets) == 1
    assert [str(path) for path in tmp_path.iterdir()] == list(targets)
    assert not (Path(targets.pop()) / "half.nii.gz").exists()
    assert check_cohort(open_cohort(str(next(tmp_path.iterdir())), None, ""), 1, progress=False) == []


def test_other_ranks_wait_for_rank_0(tmp_path: Path):
    answers = CONTEXT.Queue()
    ranks = [CONTEXT.Process(target=write_in_group, args=(str(tmp_path), rank, answers)) for rank in range(2)]
    for process in ranks:
        process.start()
    found = {answers.get(timeout=120) for _ in ranks}
    for process in ranks:
        process.join(timeout=60)
    assert [process.exitcode for process in ranks] == [0, 0]
    assert found == {str(tmp_path / "data" / f"demo_cohort_v{DEMO_COHORT_VERSION}")}


def test_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"demo cohort: cannot write .*file.demo_cohort_v.*give your own data"):
        write_demo_cohort(tmp_path / "file", SMALL)
