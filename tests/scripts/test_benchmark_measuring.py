"""What the benchmark's timing, memory and run settings do, at tiny sizes."""

from __future__ import annotations

import itertools
import sys
import time
from functools import partial

import pytest
import torch

from scripts.benchmark.comparison import MEASURED, Comparison, Contender
from scripts.benchmark.machine import describe_machine
from scripts.benchmark.memory import measure_in_child
from scripts.benchmark.runner import RunSettings, expected_seconds, measure
from scripts.benchmark.timing import interleaved_times, timed

MEGABYTE = 2**20


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
