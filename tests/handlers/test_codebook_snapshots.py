"""Snapshots of the codebook during a training."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from support.bundle_runs import Trained
from torch import Tensor

from vqseg_bundle.handlers import CodebookSnapshots


class Step(NamedTuple):
    """What is read of the student's output."""

    indices: Tensor
    codebook: Tensor


def run(handler: CodebookSnapshots, iterations: int) -> None:
    """Step n picks code n modulo 4 twice, of a codebook filled with n."""

    def step(engine: Engine, batch: int) -> dict[str, Step]:
        number = engine.state.iteration
        return {"student": Step(torch.full((1, 1, 2), number % 4), torch.full((4, 3), float(number)))}

    engine = Engine(step)
    handler.attach(engine)
    engine.run(range(iterations))


def read(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.name: dict(np.load(path)) for path in sorted(folder.iterdir())}


def test_points_codebooks_and_counts_by_hand(tmp_path: Path) -> None:
    run(CodebookSnapshots(tmp_path / "codebook", 20, shares=(0.0, 0.1, 0.5, 1.0), window=4), 20)
    found = read(tmp_path / "codebook")
    assert list(found) == [f"iteration_{number:06d}.npz" for number in (1, 2, 10, 20)]
    assert [int(each["window"]) for each in found.values()] == [1, 1, 4, 4]
    assert [each["counts"].tolist() for each in found.values()] == [
        [0, 2, 0, 0],
        [0, 0, 2, 0],
        [2, 2, 2, 2],
        [2, 2, 2, 2],
    ]
    assert [each["codebook"][0, 0].item() for each in found.values()] == [1.0, 2.0, 10.0, 20.0]
    assert {each["codebook"].dtype for each in found.values()} == {np.dtype(np.float16)}
    assert {int(each["total_iterations"]) for each in found.values()} == {20}


def test_steps_outside_the_window_do_not_count(tmp_path: Path) -> None:
    run(CodebookSnapshots(tmp_path, 10, shares=(1.0,), window=3), 10)
    (found,) = read(tmp_path).values()
    assert found["counts"].tolist() == [2, 2, 2, 0]  # of the steps 8, 9 and 10


def test_files_that_cannot_be_written_are_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        run(CodebookSnapshots(tmp_path / "file", 4), 4)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("The training goes on without snapshots of the codebook in")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shares": [0.5, 1.5]}, r"shares must lie in \[0, 1\], got \[0.5, 1.5\]"),
        ({"window": 0}, "window must be at least 1 iteration, got 0"),
    ],
)
def test_arguments_are_checked(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CodebookSnapshots(tmp_path, 10, **changes)


def test_a_training_by_command_leaves_snapshots_of_its_codebook(trained: Trained) -> None:
    found = read(trained.output_dir / "codebook")
    assert [int(each["iteration"]) for each in found.values()] == [1, 2, 3, 4, 6]
    first = found["iteration_000001.npz"]
    assert first["codebook"].shape == (32, 8)
    # 2 labelled and 2 unlabelled patches of 32 x 32 at stride 4
    assert first["counts"].sum() == 4 * 64
    np.testing.assert_allclose(np.linalg.norm(first["codebook"].astype(float), axis=1), 1.0, atol=2e-3)
