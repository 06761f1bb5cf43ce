"""What is imported late, and what is said where an extra's package is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.bundle_runs import ROOT

from vqseg_bundle import networks
from vqseg_bundle.common import LateModule, MissingExtraError
from vqseg_bundle.data import DataError, read_header


def test_a_module_is_imported_when_it_is_used() -> None:
    late = LateModule("xml.dom.minidom", "dicom")
    assert late.parseString("<a/>").documentElement.tagName == "a"


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(MissingExtraError, match=r'^highdicom is not installed\..* pip install "vqseg_bundle\[dicom\]"'):
        _ = LateModule("highdicom", "dicom").UID


def test_a_network_of_the_foundation_extra_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    for name in [name for name in sys.modules if name.startswith("vqseg_bundle.networks.dinov2")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ValueError, match=r'^timm is not installed\..*"vqseg_bundle\[foundation\]"'):
        networks.build_network({"architecture": "DINOv2DPTNet"})
    assert networks.build_network(_small()).inference_width > 0


def test_a_volume_of_the_dicom_extra_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.nrrd").write_bytes(b"NRRD0004\n")
    monkeypatch.setitem(sys.modules, "itk", None)
    with pytest.raises((DataError, MissingExtraError), match=r'itk is not installed\..*"vqseg_bundle\[dicom\]"'):
        read_header(tmp_path / "x.nrrd")


def test_a_command_starts_without_what_few_need_and_finds_it_afterwards() -> None:
    late = ["timm", "highdicom", "vqseg_bundle.networks.foundation", "matplotlib.figure", "scipy.signal", "torchvision"]
    code = (
        "import sys\nfrom vqseg_bundle.commands.main import quick_imports\n"
        "with quick_imports():\n    import vqseg_bundle.bundle\n"
        f"print([name for name in {late} if name in sys.modules])\nimport scipy.signal, torchvision"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"


def _small() -> dict[str, Any]:
    return {
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 2,
        "channels": [4, 8],
        "strides": [2],
        "num_embeddings": 8,
        "embedding_dim": 4,
        "reconstruction": False,
    }
