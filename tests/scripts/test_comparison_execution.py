"""Commands of a comparison side by side: slots, threads and GPUs, their end, and what is told of a failure."""

from __future__ import annotations

from support.comparison_parts import is_alive, wait_until

from scripts.comparison.bundle_runs import Stage
from scripts.comparison.execution import Workers, explain_failure


def test_as_many_run_at_a_time_as_there_are_slots(tmp_path):
    count = 'ls -d running* | wc -l >> most; sleep 0.3; rmdir "running$0"'
    stage = [["sh", "-c", f"cd {tmp_path} && mkdir running$0 && {count}", str(index)] for index in range(6)]
    with Workers(jobs=2, threads=1) as workers:
        futures = [
            workers.submit([Stage("one", command)], tmp_path / str(index), (tmp_path / str(index)).mkdir)
            for index, command in enumerate(stage)
        ]
        assert [future.result().failed for future in futures] == [""] * 6
    assert max(map(int, (tmp_path / "most").read_text().split())) == 2


def test_commands_get_their_threads_and_a_gpu_in_turn(tmp_path):
    stage = Stage("one", ["sh", "-c", "echo $OMP_NUM_THREADS $CUDA_VISIBLE_DEVICES; sleep 0.2"])
    with Workers(jobs=2, threads=3, gpus=("4", "7")) as workers:
        futures = [workers.submit([stage], tmp_path / str(index), (tmp_path / str(index)).mkdir) for index in range(2)]
        assert all(future.result().failed == "" for future in futures)
    said = {(tmp_path / str(index) / "console_one.log").read_text() for index in range(2)}
    assert said == {"3 4\n", "3 7\n"}


def test_leaving_ends_what_runs_and_what_waits(tmp_path):
    started = tmp_path / "started"
    stage = Stage("one", ["sh", "-c", f"echo $$ >> {started}; sleep 300"])
    with Workers(jobs=1, threads=1) as workers:
        futures = [workers.submit([stage], tmp_path / str(index), (tmp_path / str(index)).mkdir) for index in range(2)]
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
