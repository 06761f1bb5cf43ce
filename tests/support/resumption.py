"""Trainings that are killed, and whether what they have left equals what an uninterrupted one leaves."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.engines.utils import IterationEvents

from support.bundle_runs import run_here
from vqseg_bundle.common import named_tensors

__all__ = ["differences", "run_killed", "run_whole"]

_STEPS: dict[str, Any] = {
    "step": Events.ITERATION_STARTED,
    "forward": IterationEvents.FORWARD_COMPLETED,
    "backward": IterationEvents.BACKWARD_COMPLETED,
    "epoch": Events.EPOCH_COMPLETED,
}


def run_whole(configs: str, settings: dict[str, Any], last_words: Path | None = None) -> None:
    """Train, for a process of its own; if it ends by a message, write that to a file."""
    _start_workers_as_the_command()
    try:
        run_here("training", *configs.split(), **settings)
    except SystemExit as end:
        if last_words is not None:
            last_words.write_text(str(end.code))
        raise


def run_killed(configs: str, settings: dict[str, Any], moment: str, number: int) -> None:
    """Train, and kill this process, as a machine kills; for a process of its own.

    Args:
        configs: names in configs/, with blanks between them.
        settings: keys of the configuration.
        moment: "step", "forward" or "backward" of an iteration, the end of an "epoch", before its handlers; or, in a
            save of a checkpoint, half its "bytes" written, or all of them but not in their place ("rename").
        number: which one, from 1.
    """

    _start_workers_as_the_command()

    def expose(parser: ConfigParser) -> None:
        trainer = parser.get_parsed_content("train#trainer")
        if moment in _STEPS:
            trainer.add_event_handler(_STEPS[moment], _kill_in, number, "epoch" if moment == "epoch" else "iteration")

    with pytest.MonkeyPatch.context() as patch:
        if moment == "bytes":
            patch.setattr(torch, "save", _at(number, _write_half, torch.save))
        elif moment == "rename":
            patch.setattr(os, "fsync", _at(number, lambda *_: _kill(), os.fsync))
        run_here("training", *configs.split(), before=expose, **settings)


def _start_workers_as_the_command() -> None:
    """By fork, Linux's default, and not by the way in which this process began, by which each imports MONAI anew."""
    multiprocessing.set_start_method("fork", force=True)


def differences(found: Path, expected: Path) -> list[str]:
    """Names of what differs by a bit in student, teacher, optimiser, schedule and deployed weights of two trainings."""
    states = [
        {name: torch.load(folder / f"{name}.pt", weights_only=True) for name in ("resume", "model")}
        for folder in (found, expected)
    ]
    tensors, others = (dict(named_tensors(state)) for state in states)
    unlike = [name for name in tensors.keys() | others.keys() if not _equal(tensors.get(name), others.get(name))]
    steps = [(state["resume"]["engine"]["iteration"], state["resume"]["lr_scheduler"]) for state in states]
    return sorted(unlike) + (["schedule"] if steps[0] != steps[1] else [])


def _equal(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)


def _kill_in(engine: Engine, number: int, counter: str) -> None:
    if getattr(engine.state, counter) == number:
        _kill()


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _at(number: int, act: Callable[..., Any], usual: Callable[..., Any]) -> Callable[..., Any]:
    calls = iter(range(1, 1000))
    return lambda *arguments: (partial(act, usual) if next(calls) == number else usual)(*arguments)


def _write_half(save: Callable[..., Any], content: Any, file: Any) -> None:
    save(content, file)
    file.truncate(file.tell() // 2)
    file.flush()
    _kill()
