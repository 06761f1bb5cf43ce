"""The benchmark's records, and the tables and curves made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.benchmark.comparison import MEASURED, CaseDefinition, Comparison, Result
from scripts.benchmark.plot import curves
from scripts.benchmark.report import markdown_report, show_bytes, show_ratio, show_seconds
from scripts.benchmark.store import case_record, load_case, save_case
from scripts.documents import markers, write_between_markers

BEGIN, END = markers("benchmark")


def a_record(baseline="base", moment="now"):
    comparison = Comparison({"N": 1024, "K": 7}, (), baseline)
    results = [
        Result("base", MEASURED, (2.0, 3.0, 2.5), 1_500_000_000),
        Result("ours", MEASURED, (0.01, 0.02), 64_000_000),
        Result("gone", "not installed"),
    ]
    definition = CaseDefinition("Title", "Note.", lambda plan: [])
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
    lines = markdown_report({"scaling": a_record()}, "plot.png").splitlines()
    assert lines[0] == "Machine: memory 4 GB."
    assert "| N 1,024, K 7 | base | 2.00 s | 2.50 s | 1.00 | 1.5 GB | 3 |" in lines
    assert "| N 1,024, K 7 | **ours** | 10.0 ms | 15.0 ms | 1/200 | 64 MB | 2 |" in lines
    assert "| N 1,024, K 7 | gone | not installed |  |  |  |  |" in lines
    assert "![Time and memory over N and K](plot.png)" in lines
    assert lines[-1] == "Begun now."


def test_two_machines_are_told_apart():
    other = {**a_record(), "title": "Other", "machine": {"memory": "8 GB"}}
    lines = markdown_report({"search": a_record(), "qpm": other}).splitlines()
    assert lines[0] == "Machine of Title: memory 4 GB."
    assert lines[2] == "Machine of Other: memory 8 GB."


def test_the_report_says_which_clock_was_read():
    record = a_record()
    record["options"]["clock"] = "cpu"
    assert markdown_report({"search": record}).endswith("Begun now; processor time, not time on the wall.")


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


def test_curves_follow_one_size_where_the_other_is_the_common_one():
    def comparison(tokens, codes, seconds):
        result = {"contender": "search", "status": MEASURED, "minimum": seconds, "extra_bytes": 5}
        return {"setting": {"N": tokens, "K": codes}, "results": [result, {**result, "status": "not installed"}]}

    record = {"comparisons": [comparison(4, 8, 2.0), comparison(2, 8, 1.0), comparison(2, 4, 0.5)]}
    assert curves(record, "N", "minimum") == {"search": [(2, 1.0), (4, 2.0)]}
    assert curves(record, "K", "minimum") == {"search": [(4, 0.5), (8, 1.0)]}
    assert curves(record, "N", "extra_bytes") == {"search": [(2, 5.0), (4, 5.0)]}
