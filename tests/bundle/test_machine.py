"""Threads and number types that fit the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from vqseg_bundle.bundle import choose_amp, fork_loaders, set_threads, write_run_record
from vqseg_bundle.bundle.machine import computing as subject
from vqseg_bundle.bundle.machine import memory


@pytest.mark.parametrize(
    ("idle", "workers", "threads"),
    [(1.9, 0, 2), (1.7, 0, 1), (1.0, 0, 1), (0.0, 0, 1), (2.0, 2, 1), (12.1, 0, 12), (16.0, 4, 12), (0.0, 4, 1)],
)
def test_one_operation_gets_the_idle_cores(idle: float, workers: int, threads: int) -> None:
    assert subject.choose_threads(idle, workers) == threads


@pytest.fixture
def threads_kept() -> None:
    """PyTorch's number of threads is put back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads_kept")
def test_threads_follow_the_load_unless_they_are_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    # of six cores this process may use four, of which one is half busy and another wholly
    monkeypatch.setattr(subject.psutil, "cpu_percent", lambda interval, percpu: [0.0, 99.0, 50.0, 98.0, 0.0, 100.0])
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 4, 5})
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(2)
    assert set_threads("auto", "cpu") == torch.get_num_threads() == 2
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    assert set_threads("auto", "cpu") == torch.get_num_threads() == 2
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {40, 41, 42, 43})
    monkeypatch.setattr(subject.psutil, "cpu_percent", lambda interval, percpu: [0.0, 25.0, 25.0, 50.0])
    assert set_threads("auto", "cpu") == torch.get_num_threads() == 3
    assert set_threads(3, "cpu") == torch.get_num_threads() == 3
    assert set_threads(2, "cpu") == torch.get_num_threads() == 2
    for wrong in (0, "many", True, 1.5):
        with pytest.raises(SystemExit, match=r"^threads: expected auto or a whole number from 1, got"):
            set_threads(wrong, "cpu")


@pytest.mark.usefixtures("threads_kept")
def test_a_training_that_goes_on_takes_as_many_threads_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(3)
    (tmp_path / "resumed_run.json").write_text("{")
    assert set_threads("auto", "cpu", resumed_dir=str(tmp_path)) == 3
    write_run_record(tmp_path, {}, None, [])
    torch.set_num_threads(1)
    assert set_threads("auto", "cpu", resumed_dir=str(tmp_path)) == torch.get_num_threads() == 3
    assert set_threads(2, "cpu", resumed_dir=str(tmp_path)) == torch.get_num_threads() == 2


def test_mixed_precision_where_it_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    for native in (False, True):
        monkeypatch.setattr(subject, "_has_native_bfloat16", lambda native=native: native)
        assert choose_amp("auto", "cpu") is native
        assert choose_amp("auto", "cuda:1") is True
        assert choose_amp("auto", "mps") is False
        assert [choose_amp(given, "cpu") for given in (True, False)] == [True, False]
    with pytest.raises(SystemExit, match=r"^amp: expected true, false or auto, got 'no'\."):
        choose_amp("no", "cpu")


@pytest.mark.parametrize("began", [False, True])
def test_a_training_that_goes_on_computes_as_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, began: bool
) -> None:
    """On a processor of the other kind too, which warns where it emulates."""
    monkeypatch.setattr(subject, "_has_native_bfloat16", lambda: not began)
    assert choose_amp("auto", "cpu", str(tmp_path)) is not began
    write_run_record(tmp_path, {}, None, [], mixed_precision=began)
    write_run_record(tmp_path, {}, None, [], prefix="resumed_")
    assert choose_amp("auto", "cpu", str(tmp_path)) is began
    assert ("--amp false --resume_changed true goes on in float32" in caplog.text) is began
    assert choose_amp(not began, "cpu", str(tmp_path)) is not began


@pytest.mark.parametrize(("method", "expected"), [("forkserver", "fork"), ("spawn", "spawn"), ("fork", "fork")])
def test_loaders_fork_where_python_would_use_a_server(method: str, expected: str) -> None:
    before = torch.multiprocessing.get_start_method(allow_none=True)
    try:
        torch.multiprocessing.set_start_method(method, force=True)
        fork_loaders()
        assert torch.multiprocessing.get_start_method() == expected
    finally:
        torch.multiprocessing.set_start_method(before, force=True)


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/", {}, 1e3),
        ("0::/job/step", {"job/memory.max": "2000000000", "job/step/memory.max": "max"}, 2.0),
        ("1:cpu:/x\n4:memory:/job\n0::/", {"memory/memory.limit_in_bytes": "3000000000"}, 3.0),
        ("4:cpu:/job", {"memory/job/memory.limit_in_bytes": "3000000000"}, 1e3),
    ],
)
def test_the_memory_is_what_a_container_or_job_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, limits: dict[str, str], expected: float
) -> None:
    for name, text in limits.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    (tmp_path / "own").write_text(groups)
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    monkeypatch.setattr(os, "sysconf", lambda name: 10**6)
    assert memory.host_memory_gb() == expected
