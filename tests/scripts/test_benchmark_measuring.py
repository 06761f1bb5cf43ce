"""What the benchmark's timing, memory and run settings do, at tiny sizes."""

from __future__ import annotations

import itertools
import os
import time
from functools import partial

import pytest
import torch

from scripts.benchmark import measuring
from scripts.benchmark.contenders import Comparison, Contender
from scripts.benchmark.machine import describe_machine
from scripts.benchmark.measuring import MEASURED, RunSettings, measure, take_turns, timed

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
    with pytest.raises(ValueError, match="clock 'cpu' measures the processor alone, got device 'cuda'"):
        RunSettings("cuda", 1, 1, 1e9, "cpu")


def test_the_machine_is_described_without_paths():
    described = describe_machine("cpu", 3)
    assert "3 threads used" in described["processor"]
    assert f"torch {torch.__version__.split('+')[0]}" in described["packages"]
    assert not any("/" in value for value in itertools.chain(described, described.values()))
