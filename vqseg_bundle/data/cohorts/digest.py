"""A digest that tells whether two runs saw the same data."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..formats.volume_io import source_files
from .datalist import Cohort

__all__ = ["data_digest"]

_BLOCK = 2**20


def data_digest(cohort: Cohort) -> str:
    """Return the SHA-256 of a cohort: labels, splits, and each file's name, size and content.

    Names are relative to the folder that all files share, so that a moved cohort keeps its digest. Of a file above
    2 MiB the first and the last MiB count: the last bytes of a gzip file hold the checksum of all of it.

    Raises:
        FileNotFoundError: a file is missing; :func:`check_cohort` says which with a remedy.
    """
    cases = [(split, case) for split, cases in cohort.splits().items() for case in cases]
    volumes = {case[key] for _, case in cases for key in ("image", "label") if key in case}
    sources = {volume: source_files(volume) for volume in volumes}
    root = os.path.commonpath([Path(file).parent for files in sources.values() for file in files]) if sources else ""
    prints = {volume: _volume_print(files, root) for volume, files in sources.items()}
    listing = sorted([split, prints[case["image"]], prints.get(case.get("label", ""), [])] for split, case in cases)
    # without label_values as before there were any, so that digests stay comparable
    values = {"label_values": list(cohort.label_values.values())} if cohort.label_values else {}
    content = json.dumps({"labels": list(cohort.labels.values()), **values, "cases": listing})
    return hashlib.sha256(content.encode()).hexdigest()


def _volume_print(files: Sequence[str], root: str) -> list[Any]:
    """Of a single file as it was before there were volumes of several files, so that digests stay comparable."""
    return [part for file in files for part in (Path(file).relative_to(root).as_posix(), *_file_print(Path(file)))]


def _file_print(path: Path) -> tuple[int, str]:
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(_BLOCK))
        file.seek(max(_BLOCK, size - _BLOCK))
        digest.update(file.read())
    return size, digest.hexdigest()
