"""The benchmark's command at tiny sizes; what is fast is for the benchmark to say, not for a test."""

from __future__ import annotations

import json

import pytest
import torch

from scripts.benchmark import __main__ as benchmark
from scripts.benchmark.comparison import MEASURED
from scripts.documents import markers

BEGIN, END = markers("benchmark")


def test_the_command_measures_keeps_and_reports(tmp_path, capsys):
    output, document = tmp_path / "out", tmp_path / "doc.md"
    document.write_text(f"{BEGIN}\n{END}\n")
    common = ["--quick", "--repeats", "1", "--threads", "1", "--output", str(output)]
    for case in ("volume", "entropy"):
        benchmark.main(["--cases", case, *common])
    benchmark.main(["--cases", *common, "--write", str(document)])
    record = json.loads((output / "entropy.json").read_text())
    (comparison,) = record["comparisons"]
    assert [(each["contender"], each["status"], each["runs"]) for each in comparison["results"]] == [
        ("plain formula", MEASURED, 1),
        ("ours", MEASURED, 1),
    ]
    assert record["options"] == {
        "device": "cpu",
        "threads": 1,
        "repeats": 1,
        "memory_limit_gb": 8.0,
        "quick": True,
        "reference_code": False,
        "foundation_weights": False,
        "clock": "wall",
    }
    assert document.read_text() == f"{BEGIN}\n\n{(output / 'report.md').read_text()}\n{END}\n"
    assert [line for line in document.read_text().splitlines() if line.startswith("### ")] == [
        "### Code-use entropy",
        "### Many tokens of a 3D feature map",
    ]
    assert str(tmp_path) not in (output / "report.md").read_text()
    assert f"wrote {document}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cases"], "holds no measured case; name at least one with --cases"),
        (["--cases", "--threads", "0"], "threads and repeats must be at least 1"),
        (["--cases", "--reference-code", "nowhere"], "--reference-code nowhere: expected a checkout"),
    ],
)
def test_the_command_ends_with_a_message(words, message, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmark.main([*words, "--output", str(tmp_path)])
    assert message in capsys.readouterr().err


def test_a_missing_cuda_device_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        benchmark.main(["--cases", "--device", "cuda", "--output", str(tmp_path)])
    assert "PyTorch finds no CUDA device; use --device cpu" in capsys.readouterr().err


def test_missing_foundation_weights_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmark.main(["--cases", "--foundation-weights", "none.pth", "--output", str(tmp_path)])
    assert "--foundation-weights none.pth: there is no such file; leave it out" in capsys.readouterr().err
