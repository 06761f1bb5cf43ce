"""What a new datalist takes over from the one that it replaces, and what changes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vqseg_bundle.data import DATALIST_SPLITS, DataError, FoundCase, KeptLists, file_list, read_kept_lists

__all__ = ["kept_lists", "replaced_lists", "warn_of_changes"]


def replaced_lists(output: Path, root: Path) -> KeptLists | None:
    """The lists that a new datalist replaces; None if there are none, or after a warning if they cannot be read.

    Args:
        output: the datalist.
        root: the folder of its volumes.
    """
    if not output.exists():
        return None
    try:
        return read_kept_lists(output, root)
    except DataError as error:
        print(f"warning: what {output} held out is not kept, as it cannot be read: {error}", file=sys.stderr)
        return None


def kept_lists(former: KeptLists | None, cases: Sequence[FoundCase], pattern: str | None) -> KeptLists | None:
    """What stays of the former lists: the held-out patients that no folder holds out anyway, and the classes.

    None of it if the pattern has just made other patients of the cases, as a warning may have advised.

    Args:
        former: the lists, if there are any.
        cases: the folder's.
        pattern: ``--patient-pattern``, if given.
    """
    if former is None:
        return None
    fixed = {case.patient for case in cases if case.split}
    held_out = {split: [name for name in names if name not in fixed] for split, names in former.held_out.items()}
    named = {name for names in held_out.values() for name in names}
    if not pattern or named <= {case.patient for case in cases}:
        return replace(former, held_out=held_out)
    print(
        f"warning: --patient-pattern finds other patients than {former.source} has, so whom that held out is not kept.",
        file=sys.stderr,
    )
    return None


def warn_of_changes(entries: Mapping[str, Sequence[Mapping[str, Any]]], former: KeptLists | None) -> None:
    """Name patients that models of the former list have learnt from and that now test them, and the reverse.

    Args:
        entries: of the new datalist, by list.
        former: the lists that it replaces, if there are any.
    """
    if former is None:
        return
    now = {split: {entry["patient"] for entry in entries[split]} for split in DATALIST_SPLITS}
    held_out = {patient for patients in former.held_out.values() for patient in patients}
    changes = {
        "held out now, though models trained on the former list have learnt from them": (
            (now["validation"] | now["test"]) & set(former.learnt)
        ),
        "held out by the former list, and learnt from now": (now["training"] | now["unlabeled"]) & held_out,
    }
    for what, patients in changes.items():
        if patients:
            print(f"warning: {what}: {file_list(sorted(patients))}.", file=sys.stderr)
