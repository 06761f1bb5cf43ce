"""The evaluation's report: its numbers, which cases it shows, and that the page is safe and on its own."""

from __future__ import annotations

import math
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from support.bundle_runs import Trained
from support.report_parts import CASES, LABELS, MODEL, boxes, case, class_metrics, evaluate

from vqseg_bundle.bundle import load_model_record, open_reconstructor
from vqseg_bundle.data import choose_slice_axis
from vqseg_bundle.handlers import CaseMetrics, EvaluationReport
from vqseg_bundle.handlers.metrics import ClassMetrics
from vqseg_bundle.handlers.report import intervals
from vqseg_bundle.handlers.report.intervals import bootstrap_intervals
from vqseg_bundle.handlers.report.page import choose_examples
from vqseg_bundle.handlers.report.pictures import Dot, class_colors, draw_distribution


class Page(HTMLParser):
    """What a browser would find: elements, their references and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.references: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "srcset", "data") or name.startswith("on"):
                self.references.append(f"{name}={value}")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


# ---- intervals ------------------------------------------------------------------------------------------------------


def test_the_interval_of_two_cases_is_their_range() -> None:
    # resampled means are 0, 1/2 and 1 with probability 1/4, 1/2 and 1/4
    (one, overall) = bootstrap_intervals(np.array([[0.0], [1.0]]), "ab")
    assert one == overall == (0.0, 1.0)


def test_scans_of_one_patient_are_drawn_together() -> None:
    # as above, of the patients' means 0 and 1; drawn one by one, the scans would rarely be all alike
    values = np.array([[0.0], [0.0], [0.0], [1.0], [1.0], [1.0]])
    assert bootstrap_intervals(values, "aaabbb")[0] == (0.0, 1.0)
    assert bootstrap_intervals(values, "abcdef")[0] == pytest.approx((1 / 6, 5 / 6))
    assert np.isnan(bootstrap_intervals(values, "aaaaaa")).all(), "one patient has no spread"


def test_the_interval_of_many_cases_is_nearly_that_of_the_normal_law() -> None:
    values = np.random.default_rng(3).normal(0.8, 0.05, (400, 1))
    low, high = bootstrap_intervals(values, range(len(values)))[0]
    half = 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_cases_without_a_class_do_not_count_for_it_and_classes_weigh_alike() -> None:
    values = np.array([[0.2, 0.4], [0.2, math.nan], [0.2, 0.4], [math.nan, 0.4]])
    first, second, overall = bootstrap_intervals(values, range(len(values)))
    assert first == pytest.approx((0.2, 0.2))
    assert second == pytest.approx((0.4, 0.4))
    # one resample in 256 lacks a class, and its mean is the other's: too few to move the bounds
    assert overall == pytest.approx((0.3, 0.3))
    assert np.isnan(bootstrap_intervals(np.array([[0.5, math.nan], [0.6, 0.7]]), "ab")[1]).all()
    assert np.isnan(bootstrap_intervals(np.array([[0.5]]), "a")).all()
    assert np.isnan(bootstrap_intervals(np.empty((0, 2)), "")).all()


def test_memory_bounds_change_no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((7, 2))
    expected = bootstrap_intervals(values, range(len(values)))
    monkeypatch.setattr(intervals, "_BLOCK", 7 * 999)
    assert bootstrap_intervals(values, range(len(values))) == expected


# ---- which cases ----------------------------------------------------------------------------------------------------


def ranked(*dice: float) -> dict[str, list[ClassMetrics]]:
    return {f"c{i}": [class_metrics(1, "ok", value, value, 0.0, 0.0)] for i, value in enumerate(dice)}


def test_best_median_and_worst_cases_are_chosen_once_each() -> None:
    results = ranked(0.1, 0.9, 0.5, 0.3, 0.7, math.nan, 0.6)
    assert choose_examples(results, 3) == {"Best": ["c1", "c4"], "Median": ["c6", "c2"], "Worst": ["c3", "c0"]}
    assert choose_examples(results, 1) == {"Best": ["c1"], "Median": ["c6"], "Worst": ["c0"]}
    assert choose_examples(ranked(0.1, 0.9, 0.5), 3) == {"Best": ["c1"], "Median": ["c2"], "Worst": ["c0"]}
    assert choose_examples(ranked(0.1, 0.9), 3) == {"Best": ["c1"], "Worst": ["c0"]}
    assert choose_examples(ranked(0.1), 3) == {"The one case": ["c0"]}
    assert choose_examples(ranked(math.nan), 3) == choose_examples(results, 0) == {}


# ---- pictures -------------------------------------------------------------------------------------------------------


def test_every_case_is_a_link_in_the_distribution() -> None:
    dots = [Dot(i / 10, i % 3 > 0, f"#case-{i}") for i in range(9)]
    svg = draw_distribution({"a": dots[:5], "b": dots[5:], "none": []}, class_colors(3), "Dice", (0.0, 1.0))
    assert sorted(re.findall(r'xlink:href="#(case-\d)"', svg)) == [f"case-{i}" for i in range(9)]


def test_class_colours_differ() -> None:
    assert len(set(class_colors(60))) == 60
    assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in class_colors(60))


# ---- the page -------------------------------------------------------------------------------------------------------


def test_the_page_holds_names_as_text_and_refers_to_nothing_outside(tmp_path: Path) -> None:
    text = evaluate(tmp_path, CASES)
    page = Page(text)
    assert page.elements["script"] == 1
    assert page.elements["b"] == text.count("<b>")
    assert "<script>alert(1)</script>" in page.texts
    assert "a<b & $x_1$" in page.texts
    outside = [
        ref for ref in page.references if not re.match(r"(href|xlink:href)=#|xlink:href=data:image/jpeg;base64,", ref)
    ]
    assert outside == []
    assert not re.findall(r"@import|url\((?!#)", text)
    assert "default-src 'none'" in text


def test_the_page_shows_the_numbers_of_the_summary(tmp_path: Path) -> None:
    page = Page(evaluate(tmp_path, CASES))
    texts = [text.strip() for text in page.texts]
    # the first class: Dice 0.75 (shifted cube), 1 (exact), 0 (missed); absent in one
    assert "0.583" in texts
    assert f"± {np.std([0.75, 1, 0], ddof=1):.3f}" in texts
    assert texts.count("missed") == 1
    assert {"Best", "Median", "Worst"} <= set(texts)
    assert page.elements["figure"] == 2 + 3 + 1
    assert page.elements["tr"] == (1 + 3) + (1 + 2) + (2 + 4)


def test_the_command_can_be_pasted_and_records_are_shown(tmp_path: Path) -> None:
    (tmp_path / "evaluation_run.json").write_text(
        '{"command": ["python", "-m", "x", "[1,2]", "a=\'b\'"], "git_commit": "abc123", "data_digest": "d1g", '
        '"versions": {"torch": "9.9", "vqseg_bundle": "7"}}'
    )
    (tmp_path / "evaluation_config.json").write_text('{"key": "</pre><b>value</b>"}')
    texts = Page(evaluate(tmp_path, CASES)).texts
    assert {"python", "-m", "x", "'[1,2]'", "\"a='b'\""} <= set(texts)
    assert {"abc123", "d1g"} <= set(texts)
    assert any('"key": "</pre><b>value</b>"' in text for text in texts)


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param([case("only", boxes(1), boxes(1))], id="one case"),
        pytest.param([case("a", boxes(), boxes(1)), case("b", boxes(), boxes(2))], id="nothing predicted"),
        pytest.param([case("a", boxes(), boxes()), case("b", boxes(), boxes())], id="nothing at all"),
        pytest.param([case(n, boxes(1)[..., 3], boxes(1)[..., 3]) for n in "abc"], id="2D images"),
        pytest.param([case(n, boxes(1)[..., 3:4], boxes(1)[..., 3:4]) for n in "abc"], id="one slice"),
        pytest.param([], id="no case"),
    ],
)
def test_small_and_empty_evaluations_have_a_page(tmp_path: Path, cases: list[dict[str, Any]]) -> None:
    page = Page(evaluate(tmp_path, cases))
    names = {item["case"] for item in cases}
    assert names <= {text.strip() for text in page.texts}
    if not cases:
        assert any("No case with a label was evaluated" in text for text in page.texts)


def test_a_case_without_label_has_no_part_in_the_report(tmp_path: Path) -> None:
    metrics = CaseMetrics(tmp_path, LABELS)
    metrics.results = {"scored": [class_metrics(index, "ok", 1.0, 1.0, 0.0, 0.0) for index in (1, 2)]}
    items = [case("scored", boxes(1), boxes(1)), {**case("bare", boxes(1), boxes(1)), "label": None}]
    engine = Engine(lambda _, batch: batch)
    EvaluationReport(metrics, "cohort", "test", MODEL, choose_slice_axis).attach(engine)
    engine.run([items], max_epochs=1)
    text = (tmp_path / "report.html").read_text()
    assert "scored" in text
    assert "bare" not in text


def test_a_negative_number_of_examples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="examples must be at least 0, got -1"):
        EvaluationReport(CaseMetrics(tmp_path, LABELS), "cohort", "test", MODEL, choose_slice_axis, examples=-1)


# ---- reconstructions, whole command ---------------------------------------------------------------------------------


def test_the_evaluation_command_writes_the_report(evaluated: Trained) -> None:
    page = Page((evaluated.output_dir / "report.html").read_text(encoding="utf-8"))
    texts = {text.strip() for text in page.texts}
    assert {"case_5", "turned", "shell", "core", "nested, test split"} <= texts
    assert {"evaluating", "\"['configs/train.json','configs/evaluate.json']\""} <= texts


def test_the_image_decoder_is_used_with_the_weights_it_belongs_to_alone(trained: Trained, tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.pt"
    shutil.copy(trained.output_dir / "model.json", tmp_path)
    teacher = torch.load(trained.output_dir / "resume.pt", weights_only=True)["teacher"]
    full = {key.removeprefix("module."): value for key, value in teacher.items() if key.startswith("module.")}
    deployed = {key: value for key, value in full.items() if not key.startswith("reconstruction_decoder.")}
    torch.save(deployed, checkpoint)
    record = {**load_model_record(checkpoint), "checkpoint": str(checkpoint)}
    assert open_reconstructor(record, "cpu") is None, "there is no resume.pt"
    shutil.copy(trained.output_dir / "resume.pt", tmp_path)
    network = open_reconstructor(record, "cpu")
    assert network is not None
    for key, value in network.network.state_dict().items():
        torch.testing.assert_close(value, full[key], rtol=0, atol=0)
    image = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        found = network(image, network.project_codebook())
        codes = network.network.quantizer(network.network.encode(image).features).quantized
        torch.testing.assert_close(found, network.network.decode_image(codes, [32, 32]))
    torch.save({key: value + (key == next(iter(deployed))) for key, value in deployed.items()}, checkpoint)
    assert open_reconstructor(record, "cpu") is None, "the weights are of another step"
    (tmp_path / "resume.pt").write_bytes(b"broken")
    assert open_reconstructor(record, "cpu") is None
