"""The tutorial notebook: its code cells, in order, in one process and an empty folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.bundle_runs import ROOT

_RUN = """
import json, sys
import matplotlib
matplotlib.use("Agg")
names = {}
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        exec("".join(cell["source"]).replace("STEPS = 300", "STEPS = 4"), names)
"""


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = ROOT / "docs" / "tutorial.ipynb"
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(notebook)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(json.loads((tmp_path / "scans" / "datalist.json").read_text())["training"]) == 5, "one more than before"
    assert (tmp_path / "run" / "predictions" / "contact_sheet.html").stat().st_size > 10_000
    assert (tmp_path / "bundle" / "configs" / "metadata.json").is_file()
