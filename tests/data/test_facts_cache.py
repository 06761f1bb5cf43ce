"""What the data check remembers of files, and when it looks at them again."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np

from vqseg_bundle.data.checking.collect import FactsCache, collect_facts


def test_files_that_have_changed_places_are_read_again(tmp_path: Path):
    """Both have one size and one modification time."""
    names = [str(tmp_path / f"{name}.nii") for name in "ab"]
    for name, value in zip(names, (1, 7), strict=True):
        label = np.zeros((6, 7, 5), np.uint8)
        label[2:4] = value
        nib.save(nib.Nifti1Image(label, np.eye(4)), name)
        os.utime(name, (1.6e9, 1.6e9))

    def values() -> list[float | None]:
        cache = FactsCache(tmp_path / "cache.json")
        found, _ = collect_facts([(name, "label") for name in names], cache, False, "")
        cache.save()
        return [found[name, "label"].counts[1][0] for name in names]

    assert values() == [1, 7]
    first = (tmp_path / "cache.json").read_text()
    assert values() == [1, 7]
    assert (tmp_path / "cache.json").read_text() == first
    Path(names[0]).rename(tmp_path / "c.nii")
    Path(names[1]).rename(names[0])
    (tmp_path / "c.nii").rename(names[1])
    assert values() == [7, 1]
