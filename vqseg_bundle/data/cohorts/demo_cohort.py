"""The embedded demo cohort: synthetic volumes, written on first use, so that a fresh clone can train.

The folder appears complete or not at all: it is written under another name and then renamed. A folder of another
version, or with a missing file, is replaced; several processes may try at once.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from vqseg_bundle.common import process_rank, wait_for_all

from .datalist import DataError
from .demo_anatomy import DEMO_LABELS, DemoCohortConfig, make_demo_volume

__all__ = ["DEMO_COHORT_VERSION", "in_demo_cohort", "write_demo_cohort"]

DEMO_COHORT_VERSION = 1
_MARKER = "version.json"
_ATTEMPTS = 10
_logger = logging.getLogger(__name__)


def write_demo_cohort(directory: Path, config: DemoCohortConfig | None = None) -> Path:
    """Write the demo cohort below ``directory`` unless it exists, and return its folder, with ``datalist.json``.

    With several processes, rank 0 writes and the others wait; a node that does not share rank 0's disk then writes its
    own copy. ``config`` None means the defaults. DataError: the folder cannot be written.
    """
    config = config or DemoCohortConfig()
    target = Path(directory) / f"demo_cohort_v{DEMO_COHORT_VERSION}"
    try:
        if process_rank() == 0:
            _write_once(target, config)
    finally:
        # also if rank 0 failed: the others then fail by themselves instead of waiting forever
        wait_for_all()
    _write_once(target, config)
    return target


def in_demo_cohort(path: str | Path) -> bool:
    """Whether a file or folder belongs to the demo cohort, as :func:`write_demo_cohort` writes it."""
    place = Path(path).resolve()
    return any(
        folder.name == f"demo_cohort_v{DEMO_COHORT_VERSION}" and (folder / _MARKER).is_file()
        for folder in (place, *place.parents)
    )


def _write_once(target: Path, config: DemoCohortConfig) -> None:
    marker = {"version": DEMO_COHORT_VERSION, "config": json.loads(json.dumps(asdict(config)))}
    if _is_complete(target, marker):
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.", ignore_cleanup_errors=True) as t:
            draft = Path(t) / "cohort"
            _logger.info("Writing the demo cohort to %s.", target)
            _write_files(draft, config, marker)
            _move_into_place(draft, target, marker)
    except OSError as error:
        raise DataError(
            f"demo cohort: cannot write {target} ({error.strerror or error}); free the space or the permission, or "
            "give your own data with dataset_dir and datalist."
        ) from error


def _is_complete(folder: Path, marker: dict[str, Any]) -> bool:
    try:
        found = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    files: dict[str, int] = found.pop("files", {})
    sizes = {name: (folder / name).stat().st_size for name in files if (folder / name).is_file()}
    return bool(files) and found == marker and sizes == files


def _move_into_place(draft: Path, target: Path, marker: dict[str, Any]) -> None:
    """Rename the draft; an existing folder is kept if it is another process's sound cohort, otherwise removed."""
    for attempt in range(_ATTEMPTS):
        try:
            os.replace(draft, target)  # noqa: PTH105
            return
        except OSError:
            if _is_complete(target, marker):
                return
            if attempt == _ATTEMPTS - 1:
                raise
            # Moved aside first, atomically, so that no other process sees it half deleted.
            aside = draft.with_name(f"old{attempt}")
            if target.exists():
                _rename_if_there(target, aside)
            shutil.rmtree(aside, ignore_errors=True)


def _rename_if_there(source: Path, destination: Path) -> None:
    try:
        os.replace(source, destination)  # noqa: PTH105
    except FileNotFoundError:
        _logger.debug("%s went away: another process replaces it, too.", source)


def _write_files(folder: Path, config: DemoCohortConfig, marker: dict[str, Any]) -> None:
    datalist: dict[str, Any] = {"name": "demo", "labels": {str(index): name for index, name in DEMO_LABELS.items()}}
    counts = {
        "training": config.labeled,
        "unlabeled": config.unlabeled,
        "validation": config.validation,
        "test": config.test,
    }
    index = 0
    for split, count in counts.items():
        datalist[split] = [_write_case(folder, config, index + k, split != "unlabeled") for k in range(count)]
        index += count
    (folder / "datalist.json").write_text(json.dumps(datalist, indent=2) + "\n", encoding="utf-8")
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    (folder / _MARKER).write_text(json.dumps({**marker, "files": files}, indent=2) + "\n", encoding="utf-8")


def _write_case(folder: Path, config: DemoCohortConfig, index: int, labeled: bool) -> dict[str, str]:
    volume = make_demo_volume(config, index)
    entry = {"image": f"images/demo_{index:02d}.nii.gz"}
    _write_volume(folder / entry["image"], volume.image, volume.affine)
    if labeled:
        entry["label"] = f"labels/demo_{index:02d}.nii.gz"
        _write_volume(folder / entry["label"], volume.label, volume.affine)
    return entry


def _write_volume(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
