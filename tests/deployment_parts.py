"""A bundle made of the tests' training, and MONAI run on it from elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from bundle_runs import ROOT, Result

__all__ = ["SCHEMA", "run_python"]

SCHEMA = (
    Path(os.environ.get("VQSEG_REFERENCE_ROOT") or ROOT.parent / "shared" / "reference") / "meta_schema_20240725.json"
)


def run_python(*words: str, cwd: Path) -> Result:
    """Python in a process of its own that finds no installed copy of this package; see ``bundle_runs.run_command``."""
    packages = os.pathsep.join(dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": packages, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-S", "-W", "ignore", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=400, check=False)
