"""``vqseg data`` splits the patients of a folder and lists them."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support.bundle_runs import command_here
from support.datalist_parts import patients, refused, run, save

from vqseg_bundle.common import shell_line, vqseg_words
from vqseg_bundle.data import DataError, SplitRequest, check_cohort, find_cases, load_datalist, split_patients

VQSEG = shell_line(vqseg_words())


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Twelve patients, the last two without label."""
    for i in range(12):
        save(tmp_path / f"images/p{i:02d}.nii.gz", i)
        if i < 10:
            save(tmp_path / f"labels/p{i:02d}.nii.gz", i, classes=3)
    return tmp_path


def test_pairs_are_split_and_the_rest_is_unlabeled(pairs: Path):
    datalist = run(pairs, "--labeled-count", "3", "--validation-count", "2", "--test-count", "1", "--name", "mine")
    assert [len(datalist[split]) for split in ("training", "unlabeled", "validation", "test")] == [3, 6, 2, 1]
    assert {"p10", "p11"} <= set(patients(datalist, "unlabeled"))
    assert all("label" not in entry for entry in datalist["unlabeled"])
    assert datalist["labels"] == {"0": "background", "1": "label_1", "2": "label_2"}
    assert datalist["name"] == "mine"
    entry = datalist["training"][0]
    assert entry == {"image": f"images/{entry['patient']}.nii.gz", "label": f"labels/{entry['patient']}.nii.gz",
                     "patient": entry["patient"]}  # fmt: skip
    cohort = load_datalist(pairs / "datalist.json", pairs)
    assert check_cohort(cohort, 1, required_split="test", progress=False) == []


def test_without_counts_every_label_is_used(pairs: Path):
    datalist = run(pairs)
    assert [len(datalist[split]) for split in ("training", "unlabeled", "validation", "test")] == [10, 2, 0, 0]


def test_shares_are_rounded_down(pairs: Path):
    datalist = run(pairs, "--labeled-share", "0.35", "--validation-share", "0.1", "--test-share", "0.2")
    assert [len(datalist[split]) for split in ("validation", "test")] == [1, 2]
    assert len(datalist["training"]) == 3  # 0.35 of the 9 that are left is 3.15


def test_names_as_msd_and_nnunet_give_them(tmp_path: Path):
    for name in ("a_001", "a_002"):
        save(tmp_path / f"imagesTr/{name}_0000.nii.gz", 1)
    save(tmp_path / "imagesTr/._a_001.nii.gz", 1)
    save(tmp_path / "labelsTr/a_001.nii.gz", 1, classes=2)
    datalist = run(tmp_path)
    assert datalist["training"] == [
        {"image": "imagesTr/a_001_0000.nii.gz", "label": "labelsTr/a_001.nii.gz", "patient": "a_001"}
    ]
    assert datalist["unlabeled"] == [{"image": "imagesTr/a_002_0000.nii.gz", "patient": "a_002"}]


def test_given_label_names_are_written(pairs: Path):
    datalist = run(pairs, "--labels", "background, left ,right")
    assert datalist["labels"] == {"0": "background", "1": "left", "2": "right"}


@pytest.mark.parametrize("seed", range(5))
def test_no_patient_is_in_two_splits(tmp_path: Path, seed: int):
    for i in range(24):
        save(tmp_path / f"images/pat{i % 8}_visit{i}.nii.gz", i)
        if i != 9:
            save(tmp_path / f"labels/pat{i % 8}_visit{i}.nii.gz", i, classes=2)
    datalist = run(tmp_path, "--patient-pattern", "^(pat[0-9]+)_", "--labeled-count", "2", "--validation-count", "1",
                   "--test-count", "2", "--seed", str(seed))  # fmt: skip
    groups = [patients(datalist, split) for split in ("training", "unlabeled", "validation", "test")]
    assert [len(group) for group in groups] == [2, 3, 1, 2]
    assert len(set().union(*groups)) == 8
    cohort = load_datalist(tmp_path / "datalist.json", tmp_path)
    assert check_cohort(cohort, 1, level="headers") == []


def test_draws_follow_the_seed_and_nest():
    names = [f"p{i}" for i in range(30)]

    def draw(**options: int) -> dict[str, list[str]]:
        return split_patients(names, names, SplitRequest(**{"test_count": 5, "validation_count": 3, **options}))

    few, many = draw(labeled_count=2), draw(labeled_count=9)
    assert few["test"] == many["test"]
    assert few["validation"] == many["validation"]
    assert set(few["training"]) < set(many["training"])
    assert draw(labeled_count=2, seed=1)["test"] != few["test"]
    assert (
        split_patients(names[::-1], names[::-1], SplitRequest(labeled_count=2, test_count=5, validation_count=3)) == few
    )


def test_the_command_that_follows_is_printed(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    def printed(*words: str) -> str:
        run(pairs, "--force", *words)
        return capsys.readouterr().out.rpartition("next: ")[2].strip()

    assert printed() == f"{VQSEG} train --dataset_dir {pairs}"
    other = tmp_path / "other.json"
    assert printed("--output", str(other)) == f"{VQSEG} train --dataset_dir {pairs} --datalist {other}"
    shutil.rmtree(pairs / "labels")
    assert printed("--labels", "background,a") == f"{VQSEG} choose {pairs} --count 5"


def test_the_command_that_follows_says_how_many_channels_lie_in_separate_files(
    tmp_path: Path, capsys: pytest.CaptureFixture
):
    for case in ("a", "b"):
        for channel in range(3):
            save(tmp_path / f"images/{case}_000{channel}.nii.gz", channel)
    save(tmp_path / "labels/a.nii.gz", 1, classes=2)
    run(tmp_path)
    assert capsys.readouterr().out.endswith(f"next: {VQSEG} train --dataset_dir {tmp_path} --in_channels 3\n")
    shutil.rmtree(tmp_path / "labels")
    run(tmp_path, "--force", "--labels", "background,a")
    assert capsys.readouterr().out.endswith(f"next: {VQSEG} choose {tmp_path} --count 2 --in_channels 3\n")


def test_existing_output_is_kept_without_force(pairs: Path, capsys: pytest.CaptureFixture):
    (pairs / "datalist.json").write_text("precious")
    refused(capsys, "the file exists; give another name, or --force", "--dataset-dir", str(pairs))
    assert (pairs / "datalist.json").read_text() == "precious"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--labeled-share", "0.05"), "--labeled-share 0.05 of 12 training patients gives zero patients; expected at"),
        (("--test-share", "0.01"), "--test-share 0.01 of 12 patients gives zero patients"),
        (("--labeled-share", "5"), "--labeled-share: expected more than 0 and at most 1, found 5."),
        (("--labeled-count", "11"), "--labeled-count: expected 0 to 10 (patients with labels left), found 11"),
        (("--validation-count", "4", "--test-count", "7"), "--validation-count: expected 0 to 3"),
        (("--tuning-count", "1"), "--tuning-count: expected 0 to 0"),
        (("--tuning-count", "1", "--validation-count", "1"), "makes the validation list, which another option makes"),
        (("--labels", "background"), "--labels: expected two or more different names"),
        (("--labels", "background,a,a"), "--labels: expected two or more different names"),
        (("--labels", "background,ignore,a"), '--labels: expected "ignore" (voxels without a label) last, after'),
        (("--labels", "background,ignore"), "two classes at least, found background, ignore; name it last, and if"),
        (("--label-values", "0,\u00b2"), '--label-values: expected whole numbers, "0,1,...", found "0,\u00b2".'),
        (("--label-values", "0,--1"), '--label-values: expected whole numbers, "0,1,...", found "0,--1".'),
        (("--seed", "-1", "--test-count", "2"), "--seed: expected a whole number from 0 on, found -1."),
        (("--patient-pattern", "^x"), '--patient-pattern "^x": expected to match every case name, found none in p00'),
        (("--split-file", "gone.json"), "split file gone.json: expected a JSON file, but it cannot be read"),
    ],
)
def test_bad_options_are_refused(pairs: Path, capsys: pytest.CaptureFixture, options: tuple[str, ...], message: str):
    refused(capsys, message, "--dataset-dir", str(pairs), *options)
    assert not (pairs / "datalist.json").exists()


def test_label_without_image_is_refused(pairs: Path):
    save(pairs / "labels/odd.nii.gz", 1, classes=2)
    with pytest.raises(
        DataError, match=r"found none in images/ for odd\.nii\.gz \(images are called .*\); rename them alike"
    ):
        find_cases(pairs)


def test_a_case_that_lacks_a_channel_is_refused(tmp_path: Path):
    for name in ("a_0000", "a_0001", "b_0000"):
        save(tmp_path / f"images/{name}.nii.gz", 1)
    with pytest.raises(DataError, match=r"images: expected 2 channels of b, .* but b_0001 is missing; add it, or take"):
        find_cases(tmp_path)


def test_unknown_layout_and_missing_folder_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"expected images/ and labels/, imagesTr/ .* found nothing\. Name the folder"):
        find_cases(tmp_path)
    with pytest.raises(DataError, match="gone: expected a folder, found no such folder"):
        find_cases(tmp_path / "gone")
    with pytest.raises(DataError, match=r"no such folder\. Relative paths start at the working directory, /.*\.$"):
        find_cases(Path("gone"))
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=r"images: expected volumes, pictures or folders of DICOM slices, found none"):
        find_cases(tmp_path)


def test_label_values_with_gaps_are_written(pairs: Path, capsys: pytest.CaptureFixture):
    voxels = np.zeros((6, 5, 4), np.float32)
    voxels[0] = 255
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), pairs / "labels/p00.nii.gz")
    found = run(pairs)
    assert found["label_values"] == [0, 1, 2, 255]
    assert list(found["labels"].values()) == ["background", "label_1", "label_2", "label_255"]
    assert "label values: 0, 1, 2, 255" in capsys.readouterr().out
    assert run(pairs, "--labels", "a,b,c,d")["label_values"] == [0, 1, 2, 255]
    given = run(pairs, "--labels", "a,b,c,d,e", "--label-values", "0,1,2,7,255")
    assert given["label_values"] == [0, 1, 2, 7, 255]
    assert load_datalist(pairs / "datalist.json", pairs).label_values == {0: 0, 1: 1, 2: 2, 3: 7, 4: 255}
    sparse = run(pairs, "--labels", "a,b,c,ignore", "--label-values", "0,2,255,1")
    assert sparse["label_values"] == [0, 2, 255, 1]
    options = ("--dataset-dir", str(pairs), "--force", "--labels")
    refused(capsys, "--labels: 3 names, but labels hold 4 values (0, 1, 2, 255); name the class of", *options, "a,b,c")
    refused(
        capsys, "--label-values: expected the files' value for each of 2", *options, "a,b", "--label-values", "0,1,4"
    )
    voxels[0] = -1
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), pairs / "labels/p00.nii.gz")
    refused(capsys, "expected labels of whole numbers from 0 on, a value for each class, found -1, 0", *options[:3])


def test_a_class_that_no_label_has_is_no_gap(pairs: Path):
    assert "label_values" not in run(pairs, "--labels", "background,a,b,absent")


def test_folder_without_labels_needs_names(tmp_path: Path, capsys: pytest.CaptureFixture):
    save(tmp_path / "images/a.nii.gz", 1)
    refused(capsys, "expected at least one label, found none", "--dataset-dir", str(tmp_path))
    assert len(run(tmp_path, "--labels", "background,organ")["unlabeled"]) == 1


def test_help_names_every_option():
    result = command_here("data", "--help", module="vqseg_bundle")
    for option in ("--labeled-share", "--tuning-count", "--split-file-validation-as", "--force", "patientNNN_frameNN"):
        assert option in result.stdout
