"""The benchmark's command at tiny sizes, its records and tables; what is fast is for it to say, not for a test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from scripts.benchmark import __main__ as benchmark
from scripts.benchmark.contenders import Case, Comparison
from scripts.benchmark.measuring import MEASURED, Result
from scripts.benchmark.report import (
    case_record,
    load_case,
    markdown_report,
    save_case,
    show_bytes,
    show_ratio,
    show_seconds,
)
from scripts.tool import markers, write_between_markers

BEGIN, END = markers("benchmark")


def test_the_command_measures_keeps_and_reports(tmp_path, capsys):
    output, document = tmp_path / "out", tmp_path / "doc.md"
    document.write_text(f"{BEGIN}\n{END}\n")
    common = ["--quick", "--repeats", "1", "--threads", "1", "--output", str(output)]
    for case in ("search", "entropy"):
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
        "memory_limit": 8.0,
        "quick": True,
        "clock": "wall",
        "reference_code": False,
    }
    assert document.read_text() == f"{BEGIN}\n\n{(output / 'report.md').read_text()}\n{END}\n"
    assert [line for line in document.read_text().splitlines() if line.startswith("### ")] == [
        "### Nearest code",
        "### Code-use entropy",
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


def a_record(baseline="base", moment="now"):
    comparison = Comparison({"N": 1024, "K": 7}, (), baseline)
    results = [
        Result("base", MEASURED, (2.0, 3.0, 2.5), 1_500_000_000),
        Result("ours", MEASURED, (0.01, 0.02), 64_000_000),
        Result("gone", "not installed"),
    ]
    definition = Case("Title", "Note.", lambda plan: [])
    return case_record(definition, {"memory": "4 GB"}, moment, {"quick": True}, [(comparison, results)])


def test_a_record_holds_minima_medians_and_ratios_of_minima():
    base, ours, gone = a_record()["comparisons"][0]["results"]
    assert (base["minimum"], base["median"], base["ratio"], base["runs"]) == (2.0, 2.5, 1.0, 3)
    assert (ours["minimum"], ours["median"], ours["ratio"]) == (0.01, 0.015, 0.005)
    assert (gone["status"], gone["minimum"], gone["ratio"], gone["extra_bytes"]) == ("not installed", None, None, None)
    assert [each["ratio"] for each in a_record(baseline="")["comparisons"][0]["results"]] == [None] * 3


def test_a_record_survives_the_disk_and_another_file_is_refused(tmp_path):
    path = save_case(tmp_path, "search", a_record())
    assert load_case(tmp_path, "search") == a_record()
    assert load_case(tmp_path, "qpm") is None
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"search\.json: expected a benchmark's record, found one without \['title', "):
        load_case(tmp_path, "search")
    path.write_text("no JSON")
    with pytest.raises(ValueError, match=r"search\.json: expected a benchmark's record, found no JSON"):
        load_case(tmp_path, "search")


def test_markdown_rows():
    lines = markdown_report([a_record()]).splitlines()
    assert lines[0] == "Machine: memory 4 GB."
    assert "| N 1,024, K 7 | base | 2.00 s | 2.50 s | 1.00 | 1.5 GB | 3 |" in lines
    assert "| N 1,024, K 7 | **ours** | 10.0 ms | 15.0 ms | 1/200 | 64 MB | 2 |" in lines
    assert "| N 1,024, K 7 | gone | not installed |  |  |  |  |" in lines
    assert lines[-1] == "Begun now."


def test_two_machines_are_told_apart():
    other = {**a_record(), "title": "Other", "machine": {"memory": "8 GB"}}
    lines = markdown_report([a_record(), other]).splitlines()
    assert lines[0] == "Machine of Title: memory 4 GB."
    assert lines[2] == "Machine of Other: memory 8 GB."


def test_the_report_says_which_clock_was_read():
    record = a_record()
    record["options"]["clock"] = "cpu"
    assert markdown_report([record]).endswith("Begun now; processor time, not time on the wall.")


@pytest.mark.parametrize(
    ("show", "value", "shown"),
    [
        (show_seconds, 123.4, "123 s"),
        (show_seconds, 0.0123, "12.3 ms"),
        (show_seconds, 4.2e-6, "4.20 us"),
        (show_bytes, 1_000_000_000, "1.0 GB"),
        (show_bytes, 999_000_000, "999 MB"),
        (show_ratio, 1.234, "1.23"),
        (show_ratio, 0.008, "1/125"),
        (show_seconds, None, ""),
        (show_bytes, None, ""),
        (show_ratio, None, ""),
    ],
)
def test_figures_are_shown_with_units(show, value, shown):
    assert show(value) == shown


def test_only_what_is_between_the_markers_changes(tmp_path):
    document = tmp_path / "doc.md"
    document.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    for text in ("first", "second"):
        write_between_markers(document, "benchmark", text)
    assert document.read_text() == f"above\n{BEGIN}\n\nsecond\n\n{END}\nbelow\n"
    document.write_text(f"{END}\n{BEGIN}\n")
    with pytest.raises(ValueError, match="expected one line <!-- benchmark:begin --> and below it"):
        write_between_markers(document, "benchmark", "text")


def test_the_performance_document_has_the_markers():
    text = (Path(__file__).parents[2] / "docs" / "performance.md").read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.index(BEGIN) < text.index(END)
