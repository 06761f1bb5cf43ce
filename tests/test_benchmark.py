"""The benchmark's bookkeeping at tiny sizes; what is fast is for the benchmark to say, not for a test."""

from __future__ import annotations

import itertools
import json
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from scripts import benchmark
from scripts.benchmarking.adapter_step import prepare_adapter_step
from scripts.benchmarking.bundle_step import WITHOUT_VQ, bundle_parser, prepare_step
from scripts.benchmarking.cases.entropy import plain_entropy
from scripts.benchmarking.cases.perturbation import loop_over_codes
from scripts.benchmarking.cases.search import SEARCH
from scripts.benchmarking.comparison import MEASURED, CaseDefinition, Comparison, Contender, Plan, Result
from scripts.benchmarking.inputs import make_codebook, make_indices, make_tokens
from scripts.benchmarking.machine import describe_machine
from scripts.benchmarking.memory import measure_in_child
from scripts.benchmarking.peers import faiss_search, monai_search
from scripts.benchmarking.plot import curves
from scripts.benchmarking.reference_code import (
    ReferenceCodeError,
    check_reference_code,
    published_perturbation,
    published_quantizer,
)
from scripts.benchmarking.report import markdown_report, show_bytes, show_ratio, show_seconds
from scripts.benchmarking.runner import RunSettings, expected_seconds, measure
from scripts.benchmarking.store import case_record, load_case, save_case
from scripts.benchmarking.timing import interleaved_times, timed
from scripts.documents import markers, write_between_markers
from vqseg_bundle.layers import code_use_entropy, nearest_code

MEGABYTE = 2**20
BEGIN, END = markers("benchmark")
# A stand-in with the interface of the published code, for the adapter alone.
QUANTIZER_MODULE = """
import torch
from torch import nn

class VectorQuantizer(nn.Module):
    def __init__(self, num_codes, code_dim):
        super().__init__()
        self.codebook = nn.Embedding(num_codes, code_dim)
        self.embedding_proj = nn.Linear(code_dim, code_dim)

def get_entropy_loss(tokens, codebook, inverse_temperature):
    return tokens.sum() * inverse_temperature

class DPT:
    def qpm(self, indices, epo, temperature):
        assert self.qpm_eps == epo
        return (indices + self.vq.codebook.num_embeddings // 2) % self.vq.codebook.num_embeddings
"""


def nothing():
    return lambda: None


def filled(megabytes, also_before=0):
    before = torch.ones(also_before * MEGABYTE, dtype=torch.uint8)
    return lambda: (before, torch.ones(megabytes * MEGABYTE, dtype=torch.uint8))


def refusing():
    raise RuntimeError("no such contender\nand more")


def ending():
    return partial(sys.exit, 7)


@pytest.fixture
def settings():
    return RunSettings(device="cpu", threads=1, repeats=2, memory_limit=1e9)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder that looks like a checkout of the published code."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("model", "my_model")]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "model" / "semseg").mkdir(parents=True)
    (tmp_path / "model" / "semseg" / "dpt.py").write_text(QUANTIZER_MODULE)
    (tmp_path / "my_model.py").write_text("class MyModel:\n    pass\n")
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] in ("model", "my_model")]:
        del sys.modules[name]


def test_works_take_turns_and_warm_up_is_not_counted():
    ran, told = [], []
    times = interleaved_times({name: partial(ran.append, name) for name in "ab"}, "cpu", 3, told.append)
    assert ran == told == ["a", "b"] * 4
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        interleaved_times({}, "cpu", 0, told.append)


def test_a_child_reads_what_the_run_allocates_and_not_what_was_there():
    small, large = (measure_in_child(partial(filled, size, 300), "cpu", 1) for size in (40, 240))
    assert small.failure == large.failure == ""
    # the kernel counts in batches of pages
    assert small.extra_bytes / MEGABYTE == pytest.approx(40, abs=2)
    assert large.extra_bytes / MEGABYTE == pytest.approx(240, abs=2)


def test_a_child_that_fails_says_why():
    assert measure_in_child(refusing, "cpu", 1).failure == "failed: RuntimeError: no such contender"
    assert measure_in_child(ending, "cpu", 1).failure == "failed: its process ended with exit code 7"


def test_every_contender_gets_a_result_and_the_advance_is_what_was_expected(settings):
    comparison = Comparison(
        {"N": 1},
        (
            Contender("base", nothing, seconds=1.0),
            Contender("slow", nothing, seconds=5.0, once=True),
            Contender("broken", refusing, seconds=0.0),
            Contender("large", nothing, extra_bytes=3.2e9),
            Contender("absent", refusing, unavailable="not installed"),
        ),
        baseline="base",
    )
    advanced = []
    results = measure(comparison, settings, advanced.append)
    assert [(result.contender, result.status, len(result.seconds)) for result in results] == [
        ("base", MEASURED, 2),
        ("slow", MEASURED, 1),
        ("broken", "failed: RuntimeError: no such contender", 0),
        ("large", "skipped: needs about 3 GB", 0),
        ("absent", "not installed", 0),
    ]
    assert sum(advanced) == pytest.approx(expected_seconds([comparison], settings))


def test_slow_comparisons_get_fewer_rounds_but_three():
    plenty = RunSettings("cpu", 1, 50, 1e9)

    def runs(seconds):
        alone = Comparison({}, (Contender("a", nothing, seconds),))
        slow = Comparison({}, (*alone.contenders, Contender("b", nothing, 99.0, once=True)))
        # a contender that runs once costs that run and takes no part in the rounds
        assert expected_seconds([slow], plenty) - expected_seconds([alone], plenty) == pytest.approx(99.5)
        return (expected_seconds([alone], plenty) - 0.5) / seconds

    # one in the child, one of warm-up, then the rounds
    assert [runs(seconds) for seconds in (0.01, 4.5, 100.0)] == pytest.approx([52, 12, 5])


def test_run_settings_refuse_what_cannot_be_run():
    with pytest.raises(ValueError, match="threads and repeats must be at least 1"):
        RunSettings("cpu", 0, 1, 1e9)


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
    text = (Path(__file__).parents[1] / "docs" / "performance.md").read_text(encoding="utf-8")
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


def test_searches_of_the_peers_find_the_codes_that_ours_finds():
    ours = nearest_code(make_tokens(40, 8, "cpu"), make_codebook(30, 8, "cpu"))
    assert len(ours.unique()) > 10
    assert torch.equal(monai_search(40, 30, 8, "cpu")(), ours)
    with pytest.raises(ValueError, match="device must be 'cpu', got 'cuda'"):
        faiss_search(40, 30, 8, "cuda")


def test_the_plain_formula_is_the_term_that_it_is_compared_with():
    tokens, codebook = make_tokens(40, 8, "cpu").double(), make_codebook(30, 8, "cpu").double()
    plain, ours = plain_entropy(tokens, codebook, 0.5), code_use_entropy(tokens, codebook, 0.5)
    assert plain.item() == pytest.approx(ours.item(), abs=1e-12)


def test_the_plain_loop_moves_every_token_at_strength_one_and_none_at_zero():
    indices, codebook = make_indices(200, 16, "cpu"), make_codebook(16, 8, "cpu", "spread")
    assert bool((loop_over_codes(indices, codebook, 1.0) != indices).all())
    assert torch.equal(loop_over_codes(indices, codebook, 0.0), indices)


def test_codebooks_have_the_norm_that_their_name_stands_for():
    norms = {
        kind: make_codebook(2000, 64, "cpu", kind).square().sum(dim=1).mean()
        for kind in ("at initialisation", "spread")
    }
    assert norms["at initialisation"] == pytest.approx(1.0, rel=0.02)
    assert norms["spread"] == pytest.approx(30.0, rel=0.02)


@pytest.mark.parametrize("case", list(benchmark.CASES))
@pytest.mark.parametrize("quick", [True, False])
def test_contenders_are_named_once_and_the_baseline_is_one_of_them(case, quick):
    comparisons = benchmark.CASES[case].build(Plan(quick=quick))
    assert len(comparisons) > 0
    for comparison in comparisons:
        names = [contender.name for contender in comparison.contenders]
        assert len(set(names)) == len(names)
        assert comparison.baseline in ("", *names)
        assert any(name.startswith("ours") for name in names) or case == "scaling"


def test_the_published_code_adds_its_contender(checkout):
    def names(reference):
        return {each.name for each in SEARCH.build(Plan(quick=True, reference_code=reference))[0].contenders}

    assert names(str(checkout)) - names(None) == {"published quantiser"}


def test_each_call_of_a_step_is_one_iteration():
    overrides = {
        "network_def#num_embeddings": 16,
        "network_def#embedding_dim": 4,
        "network_def#channels": [2, 2, 2, 2, 4],
        "patch_size": [32, 32],
    }
    for changes, quantized in (({}, True), (WITHOUT_VQ, False)):
        step = prepare_step(("train.json",), {**overrides, **changes}, "cpu")
        trainer = step.__self__
        for iteration in (1, 2):
            step()
            assert trainer.state.iteration == iteration
        assert (trainer.student.quantizer is not None) is quantized
        assert (trainer.state.output["student"].reconstruction.numel() > 0) is quantized


def test_the_configuration_is_overridden_by_id():
    parser = bundle_parser(("train.json", "train_3d.json"), {"patch_size": [16, 16, 8]})
    assert (parser["spatial_dims"], parser["patch_size"]) == (3, [16, 16, 8])


def test_the_published_parts_are_driven_as_their_interface_wants(checkout):
    check_reference_code(str(checkout))
    codebook = make_codebook(8, 4, "cpu")
    quantizer = published_quantizer(str(checkout), codebook)
    assert torch.equal(quantizer.embedding_proj(quantizer.codebook.weight), codebook)
    perturb = published_perturbation(str(checkout), quantizer, 0.3)
    assert perturb(torch.tensor([[0, 5]])).tolist() == [[4, 1]]
    assert str(checkout) not in sys.path


def test_a_folder_that_is_no_checkout_is_refused(checkout):
    network = checkout / "my_model.py"
    network.write_text("import package_that_is_not_there\n")
    with pytest.raises(ReferenceCodeError, match=r"importing my_model failed .*package_that_is_not_there"):
        check_reference_code(str(checkout))
    network.write_text("")
    with pytest.raises(ReferenceCodeError, match=r"my_model\.py has no MyModel"):
        check_reference_code(str(checkout))
    network.unlink()
    with pytest.raises(ReferenceCodeError, match=r"found no my_model\.py in it. Clone https://github.com"):
        check_reference_code(str(checkout))


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


def test_the_machine_is_described_without_paths():
    described = describe_machine("cpu", 3)
    assert "3 threads used" in described["processor"]
    assert f"torch {torch.__version__.split('+')[0]}" in described["packages"]
    assert not any("/" in value for value in itertools.chain(described, described.values()))


@pytest.mark.parametrize("mode", ["none", "exact", "cached"])
def test_a_step_with_adapter_gets_its_targets_in_the_way_that_is_measured(mode):
    overrides = {
        "network_def#channels": [2, 2, 2, 2, 4],
        "network_def#num_embeddings": 16,
        "patch_size": [32, 32],
        "foundation_image_size": 28,
    }
    step = prepare_adapter_step(overrides, "cpu", mode, None)
    torch.manual_seed(0)
    step()
    trainer = step.__self__
    assert trainer.state.iteration == 1
    assert ("foundation_features" in trainer.state.batch) is (mode == "cached")
    assert (trainer.foundation_model is not None) is (mode != "none")
    alignment = trainer.state.output["terms"].alignment.item()
    assert alignment > 0 if mode != "none" else alignment == 0


def test_the_processors_clock_counts_work_and_not_waiting():
    assert timed(partial(time.sleep, 0.2), "cpu", "cpu") < 0.1 < timed(partial(time.sleep, 0.2), "cpu")
    with pytest.raises(ValueError, match="clock must be one of wall, cpu, got 'sun'"):
        RunSettings("cpu", 1, 1, 1e9, "sun")
    with pytest.raises(ValueError, match="clock 'cpu' measures the processor alone, got device 'cuda'"):
        RunSettings("cuda", 1, 1, 1e9, "cpu")


def test_the_report_says_which_clock_was_read():
    record = a_record()
    record["options"]["clock"] = "cpu"
    assert markdown_report({"search": record}).endswith("Begun now; processor time, not time on the wall.")


def test_missing_foundation_weights_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmark.main(["--cases", "--foundation-weights", "none.pth", "--output", str(tmp_path)])
    assert "--foundation-weights none.pth: there is no such file; leave it out" in capsys.readouterr().err
