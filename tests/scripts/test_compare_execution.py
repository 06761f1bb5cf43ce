"""Commands side by side, and how long they will take."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.comparison_parts import is_alive, wait_until

from scripts.comparison.commands import Stage
from scripts.comparison.execution import Workers, explain_failure
from scripts.comparison.plan import ComparisonPlan, Dataset, Method
from scripts.comparison.time_left import TimeLeft, show_duration, training_share


def test_as_many_run_at_a_time_as_there_are_slots(tmp_path):
    count = 'ls -d running* | wc -l >> most; sleep 0.3; rmdir "running$0"'
    stage = [["sh", "-c", f"cd {tmp_path} && mkdir running$0 && {count}", str(index)] for index in range(6)]
    with Workers(jobs=2, threads=1) as workers:
        futures = [
            workers.submit([Stage("one", command)], tmp_path / str(index), lambda: None)
            for index, command in enumerate(stage)
        ]
        assert [future.result().failed for future in futures] == [""] * 6
    assert max(map(int, (tmp_path / "most").read_text().split())) == 2


def test_commands_get_their_threads_and_a_gpu_in_turn(tmp_path):
    stage = Stage("one", ["sh", "-c", "echo $OMP_NUM_THREADS $CUDA_VISIBLE_DEVICES; sleep 0.2"])
    with Workers(jobs=2, threads=3, gpus=("4", "7")) as workers:
        futures = [workers.submit([stage], tmp_path / str(index), lambda: None) for index in range(2)]
        assert all(future.result().failed == "" for future in futures)
    said = {(tmp_path / str(index) / "console_one.log").read_text() for index in range(2)}
    assert said == {"3 4\n", "3 7\n"}


def test_leaving_ends_what_runs_and_what_waits(tmp_path):
    started = tmp_path / "started"
    stage = Stage("one", ["sh", "-c", f"echo $$ >> {started}; sleep 300"])
    with Workers(jobs=1, threads=1) as workers:
        futures = [workers.submit([stage], tmp_path / str(index), lambda: None) for index in range(2)]
        wait_until(started.exists)
        wait_until(started.read_text)
    (pid,) = started.read_text().split()
    assert not is_alive(int(pid))
    assert futures[0].result().failed == "one"
    assert futures[1].cancelled() or futures[1].result().failed == "one"


def test_a_chain_of_tracebacks_is_told_by_its_first_error(tmp_path):
    log = tmp_path / "log"
    log.write_text("start\nValueError: the cause\n" + "line\n" * 20 + "RuntimeError: the wrapping\n")
    assert explain_failure(log) == "ValueError: the cause\n...\n" + "line\n" * 11 + "RuntimeError: the wrapping"
    log.write_text("start\nValueError: the cause\n")
    assert explain_failure(log) == "start\nValueError: the cause"


def test_the_share_is_read_from_the_log(tmp_path):
    log = tmp_path / "log"
    assert training_share(log) == 0.0
    log.write_text("Epoch: 1/4, Iter: 50/100 -- loss\nEpoch: 2/4, Iter: 50/100 -- loss: 1\nEpoch[2] Metrics\n")
    assert training_share(log) == pytest.approx(0.375)


def test_the_time_left_follows_from_what_is_known():
    methods = {name: Method(name) for name in ("a", "b")}
    plan = ComparisonPlan("x", Path("x"), (0, 1, 2), "test", {"d": Dataset("d")}, methods)
    runs = {str(run): run for run in plan.runs()}
    shares = {"d / b / seed 0": 0.25}
    left = TimeLeft(lambda run: shares.get(str(run), 0.0))
    a0, a1, a2, b0, b1 = (
        runs[f"d / {name}"] for name in ("a / seed 0", "a / seed 1", "a / seed 2", "b / seed 0", "b / seed 1")
    )
    assert left.seconds([a1], [(a0, 5.0)], jobs=1) is None
    # b0 is at a quarter after 10 s: 40 s in all, and so is everything else as far as is known
    assert left.seconds([a1], [(b0, 10.0)], jobs=1) == pytest.approx(30 + 40)
    left.learn(a0, 100.0)
    assert left.seconds([a1, a2], [(b0, 10.0)], jobs=2) == pytest.approx((30 + 200) / 2)
    assert left.seconds([b1], [(a1, 130.0)], jobs=2) == pytest.approx(50)
    assert left.seconds([], [(b0, 10.0), (a1, 99.0)], jobs=2) == pytest.approx(30)


@pytest.mark.parametrize(("seconds", "shown"), [(None, "?"), (12.3, "12 s"), (100.0, "2 min"), (7500.0, "2 h 05 min")])
def test_durations_are_shown(seconds, shown):
    assert show_duration(seconds) == shown
