"""The volumes of a folder, for inference without a datalist."""

from __future__ import annotations

from pathlib import Path

from .case_names import unique_case_ids
from .datalist import DataError

__all__ = ["list_volumes"]

_SUFFIXES = (".nii", ".nii.gz")


def list_volumes(dataset_dir: str | Path) -> list[dict[str, str]]:
    """Every NIfTI volume in a folder and the folders below it, hidden ones left out.

    Args:
        dataset_dir: a folder, or one volume's path.

    Returns:
        cases with "image" (absolute path) and "case" (a name of its own), sorted by path.

    Raises:
        DataError: there is no such folder, or no volume in it.
    """
    root = Path(dataset_dir)
    if root.is_file():
        files = [root]
    elif root.is_dir():
        files = sorted(path for path in root.rglob("*") if path.name.endswith(_SUFFIXES) and path.is_file())
        files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    else:
        raise DataError(f"dataset_dir '{dataset_dir}' is neither a folder nor a file: name a folder of volumes.")
    if not files or not files[0].name.endswith(_SUFFIXES):
        raise DataError(
            f"dataset_dir '{dataset_dir}' holds no volume: expected files that end in {' or '.join(_SUFFIXES)}."
        )
    paths = [str(path.absolute()) for path in files]
    return [{"image": path, "case": case} for path, case in zip(paths, unique_case_ids(paths), strict=True)]
