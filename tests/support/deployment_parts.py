"""MONAI and the Model Zoo's own check, run on a bundle from elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from support.bundle_runs import ROOT, Result

__all__ = ["SCHEMA", "pass_zoo_check", "run_python"]

SCHEMA = (
    Path(os.environ.get("VQSEG_REFERENCE_ROOT") or ROOT.parent / "shared" / "reference") / "meta_schema_20240725.json"
)


def run_python(*words: str, cwd: Path) -> Result:
    """Python in a process of its own that finds no installed copy of this package; see ``bundle_runs.run_command``."""
    packages = os.pathsep.join(dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": packages, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-S", "-W", "ignore", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=400, check=False)


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
