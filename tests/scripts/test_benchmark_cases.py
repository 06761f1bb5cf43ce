"""What the benchmark measures, and how: contenders that do the same work, steps that train, time and memory."""

from __future__ import annotations

import itertools
import os
import sys
import time
from functools import partial

import pytest
import torch

from scripts.benchmark import __main__ as benchmark
from scripts.benchmark import measuring
from scripts.benchmark.adapter_step import prepare_adapter_step
from scripts.benchmark.code_operations import loop_over_codes, plain_entropy
from scripts.benchmark.contenders import Comparison, Contender, Plan
from scripts.benchmark.machine import describe_machine
from scripts.benchmark.measuring import MEASURED, RunSettings, measure, take_turns, timed
from scripts.benchmark.reference_code import (
    ReferenceCodeError,
    check_reference_code,
    published_perturbation,
    published_quantizer,
)
from scripts.benchmark.searches import (
    SEARCH,
    faiss_search,
    make_codebook,
    make_indices,
    make_tokens,
    monai_search,
    our_search,
)
from scripts.benchmark.steps import WITHOUT_VQ, bundle_parser, prepare_step
from vqseg_bundle.layers import code_use_entropy

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


def test_searches_of_the_peers_find_the_codes_that_ours_finds():
    ours = our_search(40, 30, 8, "cpu")()
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


@pytest.mark.parametrize("mode", ["none", "exact", "cached"])
def test_a_step_with_adapter_gets_its_targets_in_the_way_that_is_measured(mode):
    overrides = {
        "network_def#channels": [2, 2, 2, 2, 4],
        "network_def#num_embeddings": 16,
        "patch_size": [32, 32],
        "foundation_image_size": 28,
    }
    step = prepare_adapter_step(overrides, "cpu", mode)
    torch.manual_seed(0)
    step()
    trainer = step.__self__
    assert trainer.state.iteration == 1
    assert ("foundation_features" in trainer.state.batch) is (mode == "cached")
    assert (trainer.foundation_model is not None) is (mode != "none")
    alignment = trainer.state.output["terms"].alignment.item()
    assert alignment > 0 if mode != "none" else alignment == 0


def test_the_configuration_is_overridden_by_id():
    parser = bundle_parser(("train.json", "train_3d.json"), {"patch_size": [16, 16, 8]})
    assert (parser["spatial_dims"], parser["patch_size"]) == (3, [16, 16, 8])


def test_the_published_code_adds_its_contender(checkout):
    def names(reference):
        return {each.name for each in SEARCH.build(Plan(quick=True, reference_code=reference))[0].contenders}

    assert names(str(checkout)) - names(None) == {"published quantiser"}


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


MEGABYTE = 2**20


def nothing():
    return lambda: None


def filled(megabytes, also_before=0):
    before = torch.ones(also_before * MEGABYTE, dtype=torch.uint8)
    return lambda: (before, torch.ones(megabytes * MEGABYTE, dtype=torch.uint8))


def refusing():
    raise RuntimeError("no such contender\nand more")


def ending():
    return partial(os._exit, 7)


@pytest.fixture
def settings():
    return RunSettings(device="cpu", threads=1, repeats=2, memory_limit=1e9)


def test_works_take_turns_and_warm_up_is_not_counted(settings):
    ran = []
    times = take_turns({name: partial(partial, ran.append, name) for name in "ab"}, settings)
    assert ran == ["a", "b"] * 3
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}


def test_each_contender_gets_a_result_and_memory_is_what_its_run_allocates(settings):
    contenders = (
        Contender("small", partial(filled, 40, 300)),
        Contender("large", partial(filled, 240, 300)),
        Contender("slow", nothing, once=True),
        Contender("broken", refusing),
        Contender("dying", ending),
        Contender("too large", nothing, extra_bytes=3.2e9),
        Contender("absent", refusing, unavailable="not installed"),
    )
    results = measure(Comparison({"N": 1}, contenders, baseline="small"), settings)
    assert [(result.contender, result.status, len(result.seconds)) for result in results] == [
        ("small", MEASURED, 2),
        ("large", MEASURED, 2),
        ("slow", MEASURED, 1),
        ("broken", "failed: RuntimeError: no such contender", 0),
        ("dying", results[4].status, 0),
        ("too large", "skipped: needs about 3 GB", 0),
        ("absent", "not installed", 0),
    ]
    assert results[4].status.startswith("failed: BrokenProcessPool: A process in the process pool was terminated")
    # the kernel counts in batches of pages; the 300 MB that were there before the run do not count
    assert results[0].extra_bytes / MEGABYTE == pytest.approx(40, abs=2)
    assert results[1].extra_bytes / MEGABYTE == pytest.approx(240, abs=2)


@pytest.mark.parametrize(("seconds", "rounds"), [(0.01, 50), (4.5, 10), (100.0, 3)])
def test_slow_comparisons_get_fewer_rounds_but_three(seconds, rounds, monkeypatch):
    monkeypatch.setattr(measuring, "timed", lambda *_: seconds)
    assert take_turns({"a": nothing}, RunSettings("cpu", 1, 50, 1e9)) == {"a": (seconds,) * rounds}


def test_run_settings_refuse_what_cannot_be_run():
    with pytest.raises(ValueError, match="threads and repeats must be at least 1"):
        RunSettings("cpu", 0, 1, 1e9)


def test_the_processors_clock_counts_work_and_not_waiting():
    assert timed(partial(time.sleep, 0.2), "cpu", "cpu") < 0.1 < timed(partial(time.sleep, 0.2), "cpu")
    with pytest.raises(ValueError, match="clock must be one of wall, cpu, got 'sun'"):
        RunSettings("cpu", 1, 1, 1e9, "sun")
    with pytest.raises(ValueError, match="clock 'cpu' measures only the processor, got device 'cuda'"):
        RunSettings("cuda", 1, 1, 1e9, "cpu")


def test_the_machine_is_described_without_paths():
    described = describe_machine("cpu", 3)
    assert "3 threads used" in described["processor"]
    assert f"torch {torch.__version__.split('+')[0]}" in described["packages"]
    assert not any("/" in value for value in itertools.chain(described, described.values()))
