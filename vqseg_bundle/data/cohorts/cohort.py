"""Open the cohort that the keys ``dataset_dir`` and ``datalist`` name, or else the embedded demo cohort."""

from __future__ import annotations

from pathlib import Path

from ..formats import accepts_uneven
from .datalist import Cohort, DataError, load_datalist
from .demo_cohort import write_demo_cohort

__all__ = ["open_cohort"]

_DATALIST_NAMES = ("datalist.json", "dataset.json")


def open_cohort(dataset_dir: str | None, datalist: str | None, demo_dir: str, uneven_slices: str = "refuse") -> Cohort:
    """Find and read the datalist; with neither key given, write the demo cohort on first use and read that.

    Relative paths start at the caller's working directory.

    Args:
        dataset_dir: folder of the volumes; ``None`` or empty: the folder of ``datalist``.
        datalist: datalist file; ``None`` or empty: ``datalist.json``, else ``dataset.json``, in ``dataset_dir``.
        demo_dir: folder that receives the demo cohort where both are empty.
        uneven_slices: "refuse" or "accept" DICOM series whose slices are not evenly spaced.

    Raises:
        DataError: the folder holds no datalist, or :func:`load_datalist` refuses what is there.
        ValueError: ``uneven_slices`` is neither.
    """
    accept = accepts_uneven(uneven_slices)
    if not dataset_dir and not datalist:
        folder = write_demo_cohort(Path(demo_dir).expanduser())
        return load_datalist(folder / "datalist.json", folder)
    if datalist:
        return load_datalist(datalist, dataset_dir or Path(datalist).expanduser().parent, accept)
    folder = Path(dataset_dir or "").expanduser()
    found = [folder / name for name in _DATALIST_NAMES if (folder / name).is_file()]
    if folder.is_dir() and not found:
        raise DataError(
            f"dataset_dir {folder}: expected {' or '.join(_DATALIST_NAMES)} in it, found neither. Name the file with "
            f"datalist, or build one: vqseg data --dataset-dir {folder} --labeled-count 5"
        )
    return load_datalist(found[0] if found else folder / _DATALIST_NAMES[0], folder, accept)
