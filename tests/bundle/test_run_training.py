"""How a run ends that cannot go on: by one line and an exit code."""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.utils import optional_import
from support.bundle_runs import TINY, CohortFolder, as_arguments, command_here

from vqseg_bundle.bundle import build_cleanly, run_training
from vqseg_bundle.commands import main
from vqseg_bundle.common import begun_by
from vqseg_bundle.handlers import PlainErrors


def _engine(step: Callable[[Engine], None]) -> Engine:
    engine = Engine(lambda engine, batch: step(engine))
    engine.logger.disabled = True
    PlainErrors().attach(engine)
    engine.add_event_handler(Events.EXCEPTION_RAISED, lambda _: pytest.fail("MONAI would log a traceback"))
    return engine


def _run(engine: Engine) -> None:
    engine.run = lambda: Engine.run(engine, [0])  # as MONAI's, which has its data
    run_training(engine)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_by_a_signal_it_says_how_to_go_on(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["/bin/vqseg", "train", "--output_dir", "a folder"])
    with caplog.at_level(logging.WARNING), pytest.raises(SystemExit, match=str(code)):
        _run(_engine(lambda engine: setattr(engine.state, "stop_signal", number)))
    name = signal.Signals(number).name
    command = "/bin/vqseg train --output_dir 'a folder' --resume true"
    assert caplog.messages == [f"Stopped by {name} after iteration 1, which is saved. To go on: {command}"]
    caplog.clear()
    monkeypatch.setattr(sys, "argv", ["/monai/bundle/__main__.py", "run", "training"])
    with begun_by(["vqseg", "train", "--output_dir", "a folder"]), pytest.raises(SystemExit, match=str(code)):
        _run(_engine(lambda engine: setattr(engine.state, "stop_signal", number)))
    assert caplog.messages[0].endswith("To go on: vqseg train --output_dir 'a folder' --resume true")


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_before_the_first_step_it_is_one_line(
    number: int, code: int, shared_cohort: CohortFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in evaluation and inference, whose steps are not saved."""
    monkeypatch.setattr(
        "vqseg_bundle.bundle.training.training_plan.measure_cohort", lambda *_: os.kill(os.getpid(), number)
    )
    places = {"dataset_dir": shared_cohort.root, "output_dir": tmp_path / "out", **TINY}
    result = command_here("run", "training", "--config_file", "configs/train.json", *as_arguments(places))
    assert result.returncode == code
    (line,) = [line for line in result.stdout.splitlines() if "WARNING" in line]
    assert line.endswith(f"Stopped by {signal.Signals(number).name}. What was written before is kept.")
    assert "Traceback" not in result.stdout + result.stderr
    assert not (tmp_path / "out").exists()


def test_any_command_ends_by_ctrl_c_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vqseg_bundle.commands.check.main", interrupt)
    with pytest.raises(SystemExit, match=r"^130$"):
        main.main(["check"])
    assert capsys.readouterr().err == "vqseg check: stopped by SIGINT.\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line(number: int) -> None:
    def fill(engine: Engine) -> None:
        try:
            raise OSError(number, "no space")
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")

    with pytest.raises(SystemExit, match=r"^No space is left to write to, in iteration 1\..*--resume true\.$"):
        _run(_engine(fill))


def test_a_full_memory_is_one_line_with_the_keys_to_lower() -> None:
    message = r"^The memory is full, in iteration 1\. Lower patch_size, labeled_batch_size or unlabeled_batch_size, or"
    with pytest.raises(SystemExit, match=message):
        _run(_engine(lambda engine: torch.empty(10**15)))


def test_a_thread_without_space_prints_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def write(number: int) -> None:
        raise OSError(number, "from the thread")

    def start(engine: Engine) -> None:
        for number in (errno.ENOSPC, errno.EIO):
            thread = threading.Thread(target=write, args=(number,))
            thread.start()
            thread.join()

    former = threading.excepthook
    threading.excepthook = threading.__excepthook__  # pytest's own would record both
    try:
        _run(_engine(start))
    finally:
        threading.excepthook = former
    assert capsys.readouterr().err.count("Traceback") == 1


def _open_on_a_full_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_is_full_while_the_trainer_is_built_is_said_as_such() -> None:
    parser = ConfigParser({"writer": {"_target_": f"{__name__}._open_on_a_full_disk"}})
    with pytest.raises(SystemExit, match=r"^No space is left to write to, before the first step\. Make space"):
        build_cleanly(["writer"], parser)


@pytest.mark.parametrize(
    ("module", "advice"),
    [
        ("mlflow", "pip install mlflow, for --tracking mlflow, or leave it out."),
        ("vqseg_absent", "Install vqseg_absent, or leave out what needs it."),
        ("vqseg_absent.part", "Install vqseg_absent, or leave out what needs it."),
    ],
)
def test_a_missing_optional_package_is_named_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, module: str, advice: str
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    parser = ConfigParser({"writer": {"_target_": f"{__name__}._use_of", "module": module}})
    with pytest.raises(SystemExit, match=rf"^writer: import {re.escape(module)} \(.*\)\. {re.escape(advice)}$"):
        build_cleanly(["writer"], parser)


def _use_of(module: str) -> None:
    optional_import(module)[0]()
