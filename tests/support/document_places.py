"""Small data under the names that the documents use for the reader's own: ``DIR``, ``FOLDER``, ``ACDC`` ..."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from support.bundle_runs import make_volumes
from support.data_parts import hounsfield, write_dicom, write_picture, write_volume
from support.foundation_parts import published_state

__all__ = ["GIVEN", "with_places"]

_PREFIX = "model.backbone."


def _cohort(root: Path) -> None:
    """38 patients in images/ and labels/, the last two without label; and a Decathlon task."""
    _pairs(root, "p{:03d}", 38)
    _lung(root / "Task06_Lung")


def _hippocampus(root: Path) -> None:
    _pairs(root, "hippocampus_{:03d}", 58)


def _pairs(root: Path, name: str, count: int) -> None:
    for index in range(count):
        image, label = make_volumes(index)
        for folder, volume in (("images", image), ("labels", label)):
            if folder == "images" or index < count - 2:
                (root / folder).mkdir(parents=True, exist_ok=True)
                nib.save(volume, root / folder / f"{name.format(index)}.nii.gz")


def _lung(root: Path) -> None:
    """26 CT volumes with a tumour."""
    entries = []
    for index in range(26):
        voxels = hounsfield((40, 40, 4), index)
        label = np.zeros(voxels.shape, np.uint8)
        label[10:16, 20:26, 1:3] = 1
        entry = {"image": f"imagesTr/lung_{index:03d}.nii.gz", "label": f"labelsTr/lung_{index:03d}.nii.gz"}
        for key, content in (("image", voxels), ("label", label)):
            write_volume(root / entry[key], content, np.diag([0.8, 0.8, 2.5, 1.0]))
        entries.append(entry)
    content = {"labels": {"0": "background", "1": "cancer"}, "training": entries, "test": []}
    (root / "dataset.json").write_text(json.dumps(content))


def _acdc(root: Path) -> None:
    """Six patients, the last of them held out."""
    names = [f"patient{index:03d}" for index in range(1, 7)]
    for index, name in enumerate(names):
        image, label = make_volumes(index)
        classes = np.asanyarray(label.dataobj).copy()
        classes[:2, :2] = 3
        label = nib.Nifti1Image(classes, label.affine)
        for volume, end in ((image, ""), (label, "_gt")):
            (root / name).mkdir(parents=True, exist_ok=True)
            nib.save(volume, root / name / f"{name}_frame01{end}.nii.gz")
    split = {"training": names[:5], "validation": names[5:], "labeled_5_percent": names[:3]}
    (root / "split.json").write_text(json.dumps(split))


def _covid(root: Path) -> None:
    """Slices of 40 x 36 pixels, 18 of them labelled."""
    rng = np.random.default_rng(0)
    for index in range(18):
        write_picture(root / f"labeled/images/{index}.jpg", rng.integers(0, 256, (40, 36)).astype(np.uint8))
        write_picture(root / f"labeled/labels/{index}.png", rng.integers(0, 3, (40, 36)).astype(np.uint8))
    write_picture(root / "unlabeled/images/u.jpg", rng.integers(0, 256, (40, 36)).astype(np.uint8))


def _volumes(root: Path) -> None:
    for seed in range(2):
        write_volume(root / f"{seed}.nii.gz", np.asanyarray(make_volumes(seed)[0].dataobj))


def _dicom(root: Path) -> None:
    write_dicom(root, hounsfield((32, 28, 4)))


def _terms(path: Path) -> None:
    path.write_text("CC-BY-SA 4.0\n")


def _dinov2(path: Path) -> None:
    state = published_state()
    torch.save({name.removeprefix(_PREFIX): v for name, v in state.items() if name.startswith(_PREFIX)}, path)


def _sam(path: Path) -> None:
    from segment_anything import build_sam_vit_b

    torch.save(build_sam_vit_b().state_dict(), path)


def _published(path: Path) -> None:
    torch.save(published_state(), path)


def _run(folder: Path) -> None:
    """The training of the first page."""
    shutil.copytree(folder.parent / "OUT", folder)


#: name in the documents to what writes it
GIVEN: dict[str, Callable[[Path], None]] = {
    "ACDC": _acdc,
    "COVID": _covid,
    "DICOMFOLDER": _dicom,
    "DIR": _cohort,
    "FOLDER": _volumes,
    "GLOBAL": _run,
    "HIPPOCAMPUS": _hippocampus,
    "TERMS.txt": _terms,
    "TRAINED": _run,
    "dinov2_vits14_pretrain.pth": _dinov2,
    "sam_vit_b_01ec64.pth": _sam,
    "segmentation_model_iter14000.pth": _published,
}


def with_places(text: str, folder: Path) -> str:
    """A block's text with the names of :data:`GIVEN` in it replaced by what they stand for, written where missing."""

    def place(match: re.Match[str]) -> str:
        path = folder / match[0]
        if not path.exists():
            GIVEN[match[0]](path)
        return str(path)

    names = "|".join(map(re.escape, sorted(GIVEN, key=len, reverse=True)))
    return re.sub(rf"(?<![\w.-])(?:{names})(?![\w-])", place, text)
