"""What cannot be joined is refused, and a lost process is told from an error."""

from __future__ import annotations

from typing import Any

import pytest
from ignite.engine import Engine

from vqseg_bundle.bundle import join_processes, run_together

TORCHRUN = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}


@pytest.mark.parametrize("minutes", [0, -1, "soon", True])
def test_a_timeout_must_be_positive(monkeypatch: pytest.MonkeyPatch, minutes: Any) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=rf"process_timeout_minutes must be a positive number, got {minutes!r}"):
        join_processes(minutes)


def test_a_process_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**TORCHRUN, "LOCAL_RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(SystemExit, match=r"process 2 of this machine has no GPU .* finds 2. .*per_node=2 or fewer"):
        join_processes(1)


def _failing(error: Exception) -> Engine:
    def fail(engine: Engine, batch: Any) -> None:
        raise error

    engine = Engine(fail)
    engine.logger.disabled = True
    run = engine.run
    engine.run = lambda: run([0])  # type: ignore[method-assign, assignment]
    return engine


def test_a_lost_process_is_a_message() -> None:
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:545] Read error: Connection reset by peer\nmore")
    message = r"process 0 of 1 stops in iteration 1: another process .*Connection reset by peer\).*--resume true"
    with pytest.raises(SystemExit, match=message):
        run_together(_failing(lost))


def test_an_error_of_its_own_is_raised_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run_together(_failing(RuntimeError("shapes do not fit")))
