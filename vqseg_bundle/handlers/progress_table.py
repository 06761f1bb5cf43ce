"""A table with a row an epoch: what a training has gone through so far, kept beside its weights as a CSV file."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path

from vqseg_bundle.common import write_text

__all__ = ["ProgressTable"]


class ProgressTable:
    """Rows of named numbers in a CSV file that is replaced as a whole.

    A number that a row lacks is an empty cell in the file and missing from the row.

    Args:
        path: the file, such as ``OUT/progress.csv``; not touched before :meth:`read` or :meth:`write`.

    Attributes:
        rows: one an epoch, each with "epoch" and "iteration".
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.rows: list[dict[str, float]] = []

    def read(self, last_iteration: int) -> None:
        """Take over the rows of an earlier run up to an iteration; a missing file holds none.

        Args:
            last_iteration: where a resumed training goes on; later rows belong to steps that it takes again.

        Raises:
            ValueError: the file is not such a table.
        """
        if not self.path.is_file():
            return
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                found = [_numbers(row) for row in csv.DictReader(file)]
            self.rows = [row for row in found if row["iteration"] <= last_iteration]
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise ValueError(f"{self.path} is not a table with a number in each cell, a row an epoch.") from error

    def write(self) -> None:
        """Replace the file in one step, so that a reader never sees half of it."""
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in self.rows)
        write_text(self.path, text.getvalue())


def _numbers(row: Mapping[str, str]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if value != ""}


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.8g}"
