"""The volumes of a folder, for inference without a datalist."""

from __future__ import annotations

from pathlib import Path

from .case_names import unique_case_ids
from .datalist import DataError

__all__ = ["list_volumes"]

_SUFFIXES = (".nii", ".nii.gz")


def list_volumes(dataset_dir: str | Path, output_dir: str | Path | None = None) -> list[dict[str, str]]:
    """Every NIfTI volume in a folder and the folders below it; hidden ones and an output folder's are left out.

    Args:
        dataset_dir: a folder, or one volume's path.
        output_dir: where predictions go, so that those of an earlier inference are not taken for images; where it is
            ``dataset_dir`` itself, its ``predictions`` and ``previous-*`` folders are left out.

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
        outputs = _output_folders(root, output_dir)
        files = [path for path in files if not outputs.intersection(path.resolve().parents)]
    else:
        raise DataError(f"dataset_dir '{dataset_dir}' is neither a folder nor a file: name a folder of volumes.")
    if not files or not files[0].name.endswith(_SUFFIXES):
        raise DataError(
            f"dataset_dir '{dataset_dir}' holds no volume: expected files that end in {' or '.join(_SUFFIXES)}."
        )
    paths = [str(path.absolute()) for path in files]
    return [{"image": path, "case": case} for path, case in zip(paths, unique_case_ids(paths), strict=True)]


def _output_folders(root: Path, output_dir: str | Path | None) -> set[Path]:
    if output_dir is None:
        return set()
    output = Path(output_dir).resolve()
    if output != root.resolve() and output not in root.resolve().parents:
        return {output}
    return {output / "predictions", *output.glob("previous-*")}
