"""Links in a cohort's folder: to folders above them, to nothing, and out of the folder."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import pytest
from support.bundle_runs import make_volumes

from vqseg_bundle.commands.watch import arrivals
from vqseg_bundle.data import DataError, find_cases

LAYOUTS = {
    "pairs": ("images/{}.nii.gz", "labels/{}.nii.gz"),
    "beside": ("{}.nii.gz", "{}_seg.nii.gz"),
    "patients": ("{}/ct.nii.gz", "{}/ct_seg.nii.gz"),
    "parts": ("train/images/{}.nii.gz", "train/labels/{}.nii.gz"),
    "ACDC": ("{0}/{0}_frame01.nii.gz", "{0}/{0}_frame01_gt.nii.gz"),
    "BraTS": tuple(f"{{0}}/{{0}}_{end}.nii.gz" for end in ("flair", "t1", "t1ce", "t2", "seg")),
}


@pytest.fixture(params=LAYOUTS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Two patients in one of the layouts, in a folder beside which another volume lies."""
    root = tmp_path / "above" / "cohort"
    image, label = make_volumes(0, (8, 8, 2))
    for patient in ("patient1", "patient2"):
        for name in LAYOUTS[request.param]:
            path = root / name.format(patient)
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(label if "seg" in name or "labels" in name or "_gt" in name else image, path)
    nib.save(image, root.parent / "other.nii.gz")
    return root


def holders(root: Path) -> list[Path]:
    """The folder and those below it."""
    return [root, *(path for path in sorted(root.rglob("*")) if path.is_dir())]


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_a_link_to_a_folder_above_adds_no_case(folder: Path, target: str) -> None:
    """Wherever it lies: each volume would come again, a label as an image, in another list."""
    before = find_cases(folder)
    assert len(before) == 2
    assert all(case.label for case in before)
    for holder in holders(folder):
        link = holder / "again"
        link.symlink_to(target)
        assert find_cases(folder) == before
        link.unlink()


@pytest.mark.parametrize("target", ["/nowhere/x.nii.gz", "link.nii.gz"], ids=["gone", "itself"])
def test_a_link_that_leads_nowhere_is_named_where_a_case_would_be(folder: Path, target: str) -> None:
    """Every file of a case in turn: a label that is gone would make its image an unlabelled one."""
    for file in sorted(folder.rglob("*.nii.gz")):
        kept = file.read_bytes()
        file.unlink()
        file.symlink_to(target if target.startswith("/") else file.name)
        message = rf"{file.name}: expected a file, found a link that leads nowhere \(.*\); put the file there, or take"
        with pytest.raises(DataError, match=message):
            find_cases(folder)
        file.unlink()
        file.write_bytes(kept)


def test_a_link_out_of_the_folder_is_the_file_there(folder: Path) -> None:
    before = find_cases(folder)
    store = folder.parent / "store"
    store.mkdir()
    for number, file in enumerate(sorted(folder.rglob("*.nii.gz"))):
        file.rename(store / f"{number}.nii.gz")
        file.symlink_to(store / f"{number}.nii.gz")
    assert find_cases(folder) == before


def test_links_do_not_arrive_in_a_watched_folder(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(b"1")
    for name, target in (("self.nii", "self.nii"), ("gone.nii", "nowhere"), ("again", "."), ("up", "..")):
        (tmp_path / name).symlink_to(target)
    seen, _ = arrivals(tmp_path, {}, {})
    assert list(seen) == [tmp_path / "a.nii"]
