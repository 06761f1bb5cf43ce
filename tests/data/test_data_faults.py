"""Faults planted in a small cohort, one at a time: each is found, under its code, with its file named."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.bundle_runs import CohortFolder, make_volumes
from support.data_faults import FAULTS, IMAGES, LABELS, SIZES, SPLITS, deleted, every_other_slice, put, rewrite

from vqseg_bundle.data import FINDING_KINDS, CheckReport, DataError, check_cohort, examine_cohort, load_datalist


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> CohortFolder:
    folder = CohortFolder(tmp_path_factory.mktemp("sound") / "cohort")
    names = iter(range(14))
    for split, count in SPLITS.items():
        for i in [next(names) for _ in range(count)]:
            image, label = make_volumes(i, SIZES[i % 3])
            folder.add(split, f"case_{i:02}", image, None if split == "unlabeled" else label)
    folder.save()
    return folder


@pytest.fixture
def folder(sound: CohortFolder, tmp_path: Path) -> CohortFolder:
    shutil.copytree(sound.root, tmp_path / "cohort")
    copy = CohortFolder(tmp_path / "cohort")
    copy.datalist = {key: list(value) if isinstance(value, list) else value for key, value in sound.datalist.items()}
    return copy


def examine(folder: CohortFolder, in_channels: int = 1, **options: object) -> CheckReport:
    folder.save()
    cohort = load_datalist(folder.root / "datalist.json", folder.root)
    return examine_cohort(cohort, in_channels, progress=False, use_cache=False, **options)


def test_a_sound_cohort_has_no_findings(folder: CohortFolder):
    assert examine(folder).findings == []


def test_frames_of_one_patient_may_be_labelled_and_unlabelled(folder: CohortFolder):
    for split in ("training", "unlabeled"):
        folder.datalist[split][0] = {**folder.datalist[split][0], "patient": "p7"}
    assert examine(folder).findings == []


@pytest.mark.parametrize("plant, code, file", [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_a_planted_fault_is_found_in_its_file(
    folder: CohortFolder, plant: Callable[[CohortFolder], None], code: str, file: str
):
    plant(folder)
    report = examine(folder)
    path = str(folder.root / file)
    (finding,) = [finding for finding in report.findings if finding.code == code]
    assert path in finding.files
    assert path in finding.message
    cohort = load_datalist(folder.root / "datalist.json", folder.root)
    if finding.severity == "error":
        with pytest.raises(DataError, match=Path(file).name.replace(".", r"\.")):
            check_cohort(cohort, 1, progress=False, use_cache=False)
    else:
        assert report.errors == []
        assert finding.message in check_cohort(cohort, 1, progress=False, use_cache=False)


def test_ignored_voxels_are_neither_structures_nor_missing_ones(folder: CohortFolder):
    """Every other slice of a label, and the background of all validation labels; files say 0 for "ignore"."""
    names = folder.datalist["labels"]
    folder.datalist |= {"labels": {**names, str(len(names)): "ignore"}, "label_values": [9, *range(1, len(names)), 0]}
    for name in [*LABELS[:6], *LABELS[10:12]]:
        rewrite(folder, name, lambda voxels: np.where(voxels == 0, 9, voxels).astype(np.uint8))
    rewrite(folder, LABELS[1], every_other_slice)
    for name in LABELS[10:12]:
        rewrite(folder, name, lambda voxels: np.where(voxels == 9, 9, 0).astype(np.uint8))
    codes = [finding.code for finding in examine(folder).findings]
    assert "lone_slices" not in codes
    assert codes.count("empty_validation") == 1


@pytest.mark.parametrize(
    ("emptied", "expected"),
    [
        (
            LABELS[:6],
            [("unlearnt_class", 'class 2 ("core") is in no label of "training", but in others; list a case that')],
        ),
        (
            LABELS[10:12],
            [("unvalidated_class", 'class 2 ("core") is in no label of "validation", but in others; list a')],
        ),
        (LABELS, [("unused_class", "none of 10 labels")]),
    ],
)
def test_a_class_that_a_list_lacks_is_said_once(
    folder: CohortFolder, emptied: list[str], expected: list[tuple[str, str]]
):
    for name in emptied:
        if (folder.root / name).exists():
            rewrite(folder, name, lambda voxels: np.minimum(voxels, 1))
    found = [finding for finding in examine(folder).findings if finding.code.endswith("_class")]
    assert [finding.code for finding in found if finding.code != "missing_class"] == [code for code, _ in expected]
    assert expected[0][1] in found[0].message


def test_a_training_without_any_structure_is_refused_once(folder: CohortFolder):
    for name in LABELS[:6]:
        rewrite(folder, name, np.zeros_like)
    codes = {finding.code for finding in examine(folder).findings}
    assert codes == {"empty_training", "empty_label"}
    folder.save()
    cohort = load_datalist(folder.root / "datalist.json", folder.root)
    with pytest.raises(
        DataError, match=r'1 problem:\n- .*: no label of "training" has any structure, only background: '
    ):
        check_cohort(cohort, 1, progress=False, use_cache=False)
    assert check_cohort(cohort, 1, required_split="test", progress=False, use_cache=False)


def test_faults_of_every_kind_are_planted():
    # tests/data/test_checks.py and, of images without geometry, test_check_values.py
    elsewhere = {"no_cases", "no_labeled_cases", "evaluation_split", "not_evaluated", "turned_images"}
    elsewhere |= {"padding"}  # tests/data/test_padding.py
    elsewhere |= {"frames_apart", "similar_patients"}  # tests/data/test_frames_apart.py
    assert {fault[2] for fault in FAULTS} | elsewhere == set(FINDING_KINDS)


def test_all_faults_at_once_are_reported_though_headers_are_broken(folder: CohortFolder):
    deleted(folder)
    put(IMAGES[2], value=np.nan)(folder)
    cohort = load_datalist(folder.root / "datalist.json", folder.root)
    codes = [finding.code for finding in examine(folder).findings]
    assert codes == ["missing_file", "not_finite"]
    message = (
        r"The data have 2 problems:\n- .*case_06.nii.gz: no such file.*\n- .*case_02.nii.gz: 1 of 1600 intensities"
    )
    with pytest.raises(DataError, match=message):
        check_cohort(cohort, 1, progress=False, use_cache=False)


def test_many_warnings_of_a_kind_are_cut(folder: CohortFolder):
    for name in [*LABELS[1:6], *LABELS[10:12]]:
        rewrite(folder, name, np.zeros_like)
    folder.save()
    cohort = load_datalist(folder.root / "datalist.json", folder.root)
    lines = check_cohort(dataclasses.replace(cohort, test=[]), 1, progress=False, use_cache=False)
    assert sum("the label is empty" in line for line in lines) == 5
    assert lines[-1] == ("... and 2 more of this kind: a label has no foreground; `vqseg check` lists all.")


def test_copies_of_another_stored_type_are_identical(folder: CohortFolder):
    rewrite(folder, IMAGES[6], lambda voxels: np.round(voxels).astype(np.int16))
    shutil.copy(folder.root / IMAGES[6], folder.root / IMAGES[9])
    rewrite(folder, IMAGES[9], lambda voxels: voxels.astype(np.float64))
    assert [finding.code for finding in examine(folder).findings] == ["identical_images"]


def test_a_cohort_that_varies_widely_gives_one_line(folder: CohortFolder):
    # half of the images scaled by 20: the spread is the cohort's own; one image far beyond it
    for place, name in enumerate(IMAGES):
        rewrite(folder, name, lambda voxels, scale=20.0 ** (place % 2): voxels * np.float32(scale))
    assert examine(folder).findings == []
    rewrite(folder, IMAGES[6], lambda voxels: voxels * np.float32(1e9))
    (finding,) = examine(folder).findings
    assert (finding.code, len(finding.files)) == ("intensity_outlier", 1)
