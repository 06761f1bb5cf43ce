"""MONAI and the Model Zoo's own check, run on a bundle from elsewhere."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from support.bundle_runs import ROOT, run_python

__all__ = ["SCHEMA", "pass_zoo_check"]

SCHEMA = (
    Path(os.environ.get("VQSEG_REFERENCE_ROOT") or ROOT.parent / "shared" / "reference") / "meta_schema_20240725.json"
)


def pass_zoo_check(bundle: Path, mode: str) -> None:
    """The check ends without an error; skips where the zoo or the schema is missing.

    Args:
        bundle: a bundle in a folder of its own, which becomes the zoo's folder of bundles.
        mode: "min", "regular" or "full".
    """
    zoo = os.environ.get("VQSEG_MODEL_ZOO")
    if not zoo or not SCHEMA.is_file():
        pytest.skip(f"needs a checkout of Project-MONAI/model-zoo at VQSEG_MODEL_ZOO and the schema at {SCHEMA}")
    (bundle.parent / "model_info.json").write_text("{}")
    (bundle / "eval").mkdir(exist_ok=True)
    shutil.copy(SCHEMA, bundle / "eval" / "schema.json")
    words = ["ci/verify_bundle.py", "-b", bundle.name, "-p", str(bundle.parent), "-m", mode]
    result = run_python(*words, cwd=Path(zoo))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "metadata format is verified correctly" in result.stdout
    assert ("export weights into TorchScript module successfully" in result.stdout) == (mode == "full")
