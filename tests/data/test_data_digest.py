"""The digest of a cohort's files, and that of earlier versions."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from monai.bundle import ConfigParser

from vqseg_bundle.bundle.records.run_record import recorded_digest
from vqseg_bundle.bundle.settings.resumed_settings import check_unchanged
from vqseg_bundle.common import write_json
from vqseg_bundle.data import Cohort, data_digest

MIB = 2**20


def cohort_of(file: Path) -> Cohort:
    return Cohort("n", {0: "background", 1: "organ"}, training=[{"image": str(file), "case": "x", "patient": "x"}])


def written(file: Path, size: int = 5 * MIB) -> bytes:
    content = np.random.default_rng(0).bytes(size)
    content = gzip.compress(content, 1, mtime=0) if file.suffix == ".gz" else content
    file.write_bytes(content)
    return content


def changed(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def former_digest(file: Path) -> str:
    """As 0.11.3 computed it, of the first and last MiB."""
    content = file.read_bytes()
    parts = content[:MIB] + content[max(MIB, len(content) - MIB) :]
    listing = [["training", [file.name, len(content), hashlib.sha256(parts).hexdigest()], []]]
    return hashlib.sha256(json.dumps({"labels": ["background", "organ"], "cases": listing}).encode()).hexdigest()


@pytest.mark.parametrize("name", ["x.nii", "x.npy", "x.tif"])
@pytest.mark.parametrize("place", [0, 5 * MIB // 2, 5 * MIB - 1])
def test_every_byte_of_an_uncompressed_file_counts(tmp_path: Path, name: str, place: int) -> None:
    file = tmp_path / name
    written(file)
    before = data_digest(cohort_of(file))
    changed(file, place)
    assert data_digest(cohort_of(file)) != before


@pytest.mark.parametrize(("name", "size"), [("x.nii.gz", 5 * MIB), ("x.nii.gz", 100), ("x.nii", 2 * MIB), ("x.nii", 9)])
def test_gzip_and_small_files_have_the_digest_of_earlier_versions(tmp_path: Path, name: str, size: int) -> None:
    written(tmp_path / name, size)
    assert data_digest(cohort_of(tmp_path / name)) == former_digest(tmp_path / name)


def test_a_digest_of_an_earlier_version_is_known_again_while_the_data_are_the_same(tmp_path: Path) -> None:
    file = tmp_path / "x.nii"
    written(file)
    known, cohort = former_digest(file), cohort_of(file)
    assert data_digest(cohort, known) == known != data_digest(cohort)
    assert data_digest(cohort, "other") == data_digest(cohort) == data_digest(cohort, data_digest(cohort))
    changed(file, 0)
    assert data_digest(cohort, known) == data_digest(cohort) != known


def test_a_training_of_an_earlier_version_is_resumed(tmp_path: Path) -> None:
    file = tmp_path / "x.nii"
    written(file)
    for digest in (former_digest(file), data_digest(cohort_of(file))):
        write_json(tmp_path / "run.json", {"data_digest": digest})
        assert recorded_digest(tmp_path) == digest
        check_unchanged(str(tmp_path), True, False, cohort_of(file), ConfigParser({}))
    changed(file, 5 * MIB // 2)
    with pytest.raises(SystemExit, match=rf"\n  the data: digest {digest[:12]}, now \w{{12}} \(cases, splits"):
        check_unchanged(str(tmp_path), True, False, cohort_of(file), ConfigParser({}))


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"data_digest": 3}'])
def test_a_folder_without_a_record_has_no_digest(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    assert recorded_digest(tmp_path) is None
