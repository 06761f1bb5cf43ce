"""Small folders of volumes and the datalists that ``vqseg data`` writes of them."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from vqseg_bundle.commands.data import main


def save(path: Path, seed: int, classes: int | None = None, dtype: type = np.uint8) -> None:
    """A NIfTI volume of noise, or of as many classes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    voxels = rng.integers(0, classes, (6, 5, 4)).astype(dtype) if classes else rng.integers(0, 999, (6, 5, 4), np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2.0, 5.0, 1.0])), path)


def run(folder: Path, *options: str) -> dict:
    """What the command writes for the folder."""
    main(["--dataset-dir", str(folder), "--force", *options])
    return json.loads((folder / "datalist.json").read_text())


def patients(datalist: dict, split: str) -> list[str]:
    """Of one split, each once."""
    return sorted({entry["patient"] for entry in datalist[split]})


def refused(capsys: pytest.CaptureFixture, message: str, *arguments: str) -> None:
    """The command ends by a message."""
    with pytest.raises(SystemExit, match=r"^2$"):
        main(arguments)
    assert message in capsys.readouterr().err
