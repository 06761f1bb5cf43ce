"""Numbers and files of the comparison's report, from made-up evaluations; tests against SciPy and by hand."""

from __future__ import annotations

import csv
import math
import random
from dataclasses import replace

import pytest
from scipy.stats import ttest_rel
from support.comparison_parts import LABELS, evaluation, write_evaluation
from support.report_parts import class_metrics

from scripts.comparison.plan import ComparisonPlan, Dataset, Method, SweepPoint
from scripts.comparison.plots import save_plots, sweep_lines
from scripts.comparison.report import write_report
from scripts.comparison.results import RECORD_FILES, read_result
from scripts.comparison.table import Spread, build_tables, mean_by_case, paired_p, spread
from scripts.comparison.text import escape_latex, latex_table, markdown_table, means_csv, show_p, show_spread
from scripts.tool import markers
from vqseg_bundle.handlers.case_metrics import summarize

RECORD = {
    "seconds": {"training": 90.0, "evaluating": 5.0},
    "machine": {"processor": "abacus"},
    "settings": {"version": "0.1.0"},
    "commit": "abc",
    "labeled": 2,
    "unlabeled": 14,
}


def a_plan(tmp_path, methods=("base", "ours"), seeds=(0, 1), **changes):
    made = {name: Method(name) for name in methods}
    return ComparisonPlan(
        **{
            "name": "try out",
            "source": tmp_path / "p.yaml",
            "seeds": seeds,
            "split": "test",
            "datasets": {"nested": Dataset("nested", note="Made up.")},
            "methods": made,
            "reference": "base",
            **changes,
        }
    )


def a_result(tmp_path, method, seed, cases, dataset="nested", patients=None):
    folder = tmp_path / dataset / method / str(seed)
    write_evaluation(folder, cases, patients)
    return read_result(folder, dataset, method, seed, RECORD)


def with_dice(*dices):
    """An evaluation of one case a Dice, in which the second class is absent."""
    return {
        f"case{index}": [class_metrics(1, "ok", dice, dice / 2, 1.0, 1.0), class_metrics(2, "absent")]
        for index, dice in enumerate(dices)
    }


def test_results_are_what_the_evaluation_summarised(tmp_path):
    cases = evaluation("x")
    result = a_result(tmp_path, "base", 0, cases)
    summary = summarize(cases.values(), LABELS)
    # the table of cases has six decimals
    assert result.overall["dice"] == pytest.approx(summary["overall"]["dice"]["mean"], abs=1e-6)
    assert result.classes["core"]["hd95_mm"] == pytest.approx(summary["classes"][1]["hd95_mm"]["mean"], abs=1e-6)
    means = result.case_means("dice")
    assert means["a"] == pytest.approx((cases["a"][0].values["dice"] + cases["a"][1].values["dice"]) / 2, abs=1e-6)
    assert means["b"] == pytest.approx(cases["b"][0].values["dice"], abs=1e-6)  # absent: does not count
    assert means["c"] == pytest.approx(cases["c"][0].values["dice"] / 2, abs=1e-6)  # missed or so: counts as 0


def test_a_row_holds_means_over_seeds_and_both_tests(tmp_path):
    dices = {"base": [(0.5, 0.4, 0.3), (0.6, 0.5, 0.2)], "ours": [(0.6, 0.6, 0.3), (0.8, 0.5, 0.4)]}
    results = [
        a_result(tmp_path, name, seed, with_dice(*values))
        for name, runs in dices.items()
        for seed, values in enumerate(runs)
    ]
    (table,) = build_tables(a_plan(tmp_path), results)
    base, ours = table.rows
    assert ours.overall["dice"] == (pytest.approx(1.6 / 3), pytest.approx(0.2 / 3 / math.sqrt(2)), 2)
    assert ours.classes["shell"]["jaccard"].mean == pytest.approx(0.8 / 3)
    assert math.isnan(ours.classes["core"]["dice"].mean)
    assert ours.differences == {"case0": pytest.approx(0.15), "case1": pytest.approx(0.1), "case2": pytest.approx(0.1)}
    assert ours.p_patient == pytest.approx(ttest_rel([0.7, 0.55, 0.35], [0.55, 0.45, 0.25]).pvalue)
    assert ours.p_seed == pytest.approx(ttest_rel([0.5, 1.7 / 3], [0.4, 1.3 / 3]).pvalue)
    assert (ours.minutes, ours.labeled, ours.unlabeled, ours.missing) == (1.5, 2, 14, ())
    assert math.isnan(base.p_patient)
    assert base.differences == {}


def test_tests_pair_the_seeds_that_both_methods_have(tmp_path):
    results = [
        a_result(tmp_path, "base", 0, with_dice(0.5, 0.4)),
        a_result(tmp_path, "base", 2, with_dice(0.9, 0.9)),
        a_result(tmp_path, "ours", 0, with_dice(0.6, 0.6)),
        a_result(tmp_path, "ours", 1, with_dice(0.1, 0.1)),
    ]
    (table,) = build_tables(a_plan(tmp_path, seeds=(0, 1, 2)), results)
    ours = table.rows[1]
    assert ours.differences == {"case0": pytest.approx(0.1), "case1": pytest.approx(0.2)}
    assert math.isnan(ours.p_seed)
    assert ours.missing == (2,)


def test_cases_of_one_patient_count_once_in_a_test(tmp_path):
    patients = {"case0": "a", "case1": "a", "case2": "b", "case3": "c"}
    dices = {"base": (0.5, 0.4, 0.3, 0.5), "ours": (0.6, 0.6, 0.3, 0.4)}
    results = [a_result(tmp_path, name, 0, with_dice(*values), patients=patients) for name, values in dices.items()]
    (table,) = build_tables(a_plan(tmp_path), results)
    ours = table.rows[1]
    assert len(ours.differences) == 4
    assert ours.p_patient == pytest.approx(ttest_rel([0.6, 0.3, 0.4], [0.45, 0.3, 0.5]).pvalue)


def test_runs_on_different_cases_are_not_compared(tmp_path):
    results = [
        a_result(tmp_path, "base", 0, with_dice(0.5, 0.4)),
        a_result(tmp_path, "ours", 0, with_dice(0.5)),
    ]
    with pytest.raises(ValueError, match=r"ours seed 0 evaluated other cases or classes than base seed 0"):
        build_tables(a_plan(tmp_path), results)


def test_missing_runs_are_seen(tmp_path):
    results = [a_result(tmp_path, "base", 0, with_dice(0.5, 0.4))]
    plan = a_plan(tmp_path)
    (table,) = build_tables(plan, results)
    lines = markdown_table(table, "base").splitlines()
    assert lines[0].startswith("| method | labelled / unlabelled | Dice | Jaccard | HD95 | ASD | seeds | p, patients |")
    assert lines[2] == "| base | 2 / 14 | 0.450 | 0.225 | 1.00 | 1.00 | 1 of 2 | reference | reference | 1.5 |"
    assert lines[3] == "| ours | missing | missing | missing | missing | missing | 0 of 2 |  |  |  |"
    write_report(plan, results, tmp_path, None)
    assert "Missing runs: base seed 1; ours seed 0, 1." in (tmp_path / "report.md").read_text()
    rows = list(csv.DictReader(means_csv([table]).splitlines()))
    assert [(row["method"], row["class"], row["seeds"], row["dice_mean"]) for row in rows] == [
        ("base", "all", "1", "0.45"),
        ("base", "shell", "1", "0.45"),
        ("base", "core", "1", ""),
        ("ours", "all", "0", ""),
    ]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (show_p(0.04567), "0.046"),
        (show_p(0.0002), "<0.001"),
        (show_p(math.nan), "n.a."),
        (show_spread(Spread(0.12345, 0.0456, 3), 3, " ± "), "0.123 ± 0.046"),
        (show_spread(Spread(1.0, math.nan, 1), 2, " ± "), "1.00"),
        (show_spread(Spread(math.nan, math.nan, 0), 2, " ± "), "n.a."),
        (escape_latex(r"50 % of a_b & {c} \ ~ ^ # $"), None),
    ],
)
def test_figures_are_shown(shown, expected):
    escaped = r"50 \% of a\_b \& \{c\} \textbackslash{} \textasciitilde{} \textasciicircum{} \# \$"
    assert shown == (escaped if expected is None else expected)


def test_the_latex_table_has_as_many_cells_as_columns(tmp_path):
    results = [
        a_result(tmp_path, name, seed, evaluation(f"{name}{seed}")) for name in ("base", "our_s") for seed in (0, 1)
    ]
    (table,) = build_tables(a_plan(tmp_path, methods=("base", "our_s", "gone")), results)
    lines = latex_table(table, "base").splitlines()
    columns = len("llrrrrrrrr")
    assert r"\begin{tabular}{llrrrrrrrr}" in lines
    rows = [line for line in lines if line.endswith(r"\\")]
    assert [row.replace(r"\&", "").count("&") for row in rows] == [columns - 1] * 4
    assert rows[2].startswith(r"our\_s & 2 / 14 & 0.")
    assert r" $\pm$ " in rows[2]
    assert r"\caption{nested. Made up.}" in lines


def test_every_file_is_written_and_the_document_gets_its_part(tmp_path):
    results = [
        a_result(tmp_path, name, seed, evaluation(f"{name}{seed}")) for name in ("base", "ours") for seed in (0, 1)
    ]
    begin, end = markers("comparison")
    document = tmp_path / "docs" / "comparison.md"
    document.parent.mkdir()
    document.write_text(f"above\n{begin}\nold\n{end}\nbelow\n")
    output = tmp_path / "out"
    output.mkdir()
    written = write_report(a_plan(tmp_path, note="A note."), results, output, document)
    files = {"report.md", "report.tex", "report.csv", *RECORD_FILES}
    assert {path.name for path in written} == {*files, "comparison.md"}
    plots = {"dice-nested.png", "differences-nested.png"}
    assert {path.name for path in output.iterdir()} == {*files, *plots}
    assert {path.name for path in document.parent.glob("*.png")} == {f"comparison_{name}" for name in plots}
    text = document.read_text()
    assert text.startswith(f"above\n{begin}\n\n### try out\n\nA note.\n\nEvaluated on the test cases.")
    assert text.endswith(f"Machine: processor abacus.\n\nMade by vqseg_bundle 0.1.0 (commit abc).\n\n{end}\nbelow\n")
    assert "![Differences of nested](comparison_differences-nested.png)" in text
    rows = list(csv.DictReader((output / "cases.csv").read_text().splitlines()))
    assert len(rows) == 4 * 6
    assert [row["status"] for row in rows[:5]] == ["ok", "ok", "ok", "absent", "ok"]
    assert [row["dice"] for row in rows if row["status"] == "absent"] == [""] * 4


def test_sweeps_of_one_axis_are_the_lines_of_one_plot(tmp_path):
    points = {
        "QPM eps 0.3": SweepPoint("QPM", "strength", 0.3),
        "QPM eps 0.5": SweepPoint("QPM", "strength", 0.5),
        "dropout rate 0.3": SweepPoint("dropout", "strength", 0.3),
        "K 8": SweepPoint("codebook", "K", 8),
        "gone": SweepPoint("QPM", "strength", 0.9),
    }
    methods = {name: Method(name, point=point) for name, point in points.items()}
    plan = replace(a_plan(tmp_path, seeds=(0,), reference=None), methods=methods)
    results = [
        a_result(tmp_path, name, 0, with_dice(dice))
        for name, dice in zip(methods, (0.25, 0.5, 0.75, 0.125), strict=False)
    ]
    (table,) = build_tables(plan, results)
    assert sweep_lines(table, "strength") == {
        "QPM": [(0.3, 0.25, 0.0), (0.5, 0.5, 0.0)],
        "dropout": [(0.3, 0.75, 0.0)],
    }
    assert save_plots(table, None, tmp_path) == [
        "dice-nested.png",
        "sweep-strength-nested.png",
        "sweep-k-nested.png",
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics.csv", "case,dice\n", r"metrics\.csv: expected the columns \['case', 'class_index'"),
        (
            "metrics.csv",
            "case,class_index,class_name,dice,jaccard,hd95_mm,asd_mm,status\na,1,shell,x,1,1,1,ok\n",
            r"metrics\.csv, line 2: could not convert string to float: 'x'; evaluate again",
        ),
        (
            "metrics.csv",
            "case,class_index,class_name,dice,jaccard,hd95_mm,asd_mm,status\na,1,shell,1,1,1,1,fine\n",
            r"status: expected one of ok, missed, hallucinated, absent, found 'fine'",
        ),
    ],
)
def test_spoiled_results_are_refused(name, text, message, tmp_path):
    write_evaluation(tmp_path, evaluation("x"))
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_result(tmp_path, "nested", "base", 0, RECORD)


def test_spread_is_that_of_a_sample():
    mean, deviation, size = spread([1.0, 2.0, 4.0, math.nan])
    # squared distances 16/9 + 1/9 + 25/9 over n - 1 = 2
    assert (mean, deviation, size) == (pytest.approx(7 / 3), pytest.approx(math.sqrt(42 / 9 / 2)), 3)
    assert spread([0.5])[::2] == (0.5, 1)
    assert math.isnan(spread([0.5]).deviation)
    assert math.isnan(spread([]).mean)


def test_the_paired_test_gives_the_value_computed_by_hand():
    # differences 1, 2, 3: t = 2 sqrt(3), 2 degrees of freedom, p = 1 - t / sqrt(2 + t^2)
    p = paired_p({"a": 2.0, "b": 4.0, "c": 6.0}, {"c": 3.0, "b": 2.0, "a": 1.0})
    assert p == pytest.approx(1 - math.sqrt(12 / 14))


def test_the_paired_test_is_scipys_on_the_common_pairs():
    rng = random.Random(3)
    first, second = ({key: rng.random() for key in keys} for keys in (range(12), range(2, 14)))
    first[5] = math.nan
    keys = [key for key in range(2, 12) if key != 5]
    expected = ttest_rel([first[key] for key in keys], [second[key] for key in keys]).pvalue
    assert paired_p(first, second) == pytest.approx(expected)
    assert paired_p(second, first) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("first", "second"),
    [({0: 1.0}, {0: 2.0}), ({0: 1.0, 1: 2.0}, {2: 1.0, 3: 2.0}), ({0: 0.3, 1: 0.6}, {0: 0.1, 1: 0.4})],
    ids=["one pair", "no pair", "equal differences"],
)
def test_the_paired_test_is_not_defined_without_spread(first, second):
    assert math.isnan(paired_p(first, second))


def test_a_case_is_averaged_over_the_runs_that_have_it():
    assert mean_by_case([{"a": 1.0, "b": 2.0}, {"a": 2.0}]) == {"a": 1.5, "b": 2.0}
