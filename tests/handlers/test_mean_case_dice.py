"""The score that selects weights: by hand, and equal to what an evaluation of the same predictions reports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine
from monai.data import MetaTensor
from support.processes import run_group

from vqseg_bundle.handlers import CaseMetrics, MeanCaseDice

LABELS = {0: "background", 1: "core", 2: "rim"}


def volume(*values: int) -> MetaTensor:
    return MetaTensor(torch.tensor(values, dtype=torch.uint8).reshape(1, -1, 1, 1), affine=torch.eye(4))


def case(name: str, pred: MetaTensor, label: MetaTensor) -> dict:
    return {"case": name, "pred": pred, "label": label}


def evaluate(*handlers: CaseMetrics, batches: list[list[dict]]) -> float:
    engine = Engine(lambda engine, batch: [{key: item[key] for key in ("pred", "label")} for item in batch])
    MeanCaseDice(len(LABELS)).attach(engine, "val_mean_dice")
    for handler in handlers:
        handler.attach(engine)
    engine.run(batches, max_epochs=1)
    return engine.state.metrics["val_mean_dice"]


NOTHING, CORE, BOTH = volume(0, 0, 0, 0), volume(1, 1, 0, 0), volume(1, 1, 2, 0)


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([(CORE, CORE)], 1.0),
        ([(volume(1, 0, 0, 0), CORE)], 2 / 3),
        # hallucinated in a case that lacks it: the mean of 1 and 0, where MONAI's MeanDice has 1
        ([(CORE, CORE), (CORE, NOTHING)], 0.5),
        ([(BOTH, CORE)], 0.5),
        ([(CORE, BOTH)], 0.5),
        # classes weigh the same, however many cases have them: core 1, 1, 2/3; rim 0
        ([(CORE, CORE), (CORE, BOTH), (volume(1, 0, 0, 0), CORE)], (8 / 9 + 0) / 2),
        ([(NOTHING, NOTHING), (CORE, CORE)], 1.0),
        ([(NOTHING, NOTHING)], 0.0),
        ([(CORE, NOTHING), (NOTHING, NOTHING)], 0.0),
    ],
)
def test_scores_by_hand(pairs: list[tuple[MetaTensor, MetaTensor]], expected: float):
    batches = [[case(str(index), *pair)] for index, pair in enumerate(pairs)]
    assert evaluate(batches=batches) == pytest.approx(expected, abs=1e-7)


def random_batches(seed: int) -> list[list[dict]]:
    rng = np.random.default_rng(seed)
    batches: list[list[dict]] = []
    for index in range(7):
        highest = rng.integers(1, 4, 2)  # some cases lack some classes, in prediction, label or both
        maps = (torch.from_numpy(rng.integers(0, high, (1, 5, 4, 3)).astype(np.uint8)) for high in highest)
        batches.append([case(f"case {10 - index}", *(MetaTensor(values, affine=torch.eye(4)) for values in maps))])
    return batches


@pytest.mark.parametrize("seed", range(8))
def test_the_score_is_the_one_that_the_evaluation_reports(seed: int, tmp_path: Path):
    score = evaluate(CaseMetrics(tmp_path, LABELS), batches=random_batches(seed))
    assert score == json.loads((tmp_path / "summary.json").read_text())["overall"]["dice"]["mean"]


def _evaluate_share(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    batches = random_batches(3)
    share = [batches[:5], batches[4:]][rank]  # both evaluate the fifth case
    score = evaluate(CaseMetrics(f"{folder}/out", LABELS), batches=share)
    Path(f"{folder}/score_{rank}").write_text(repr(score))
    dist.destroy_process_group()


def test_all_processes_have_the_score_of_all_cases(tmp_path: Path):
    run_group(_evaluate_share, 2, str(tmp_path))
    reported = json.loads((tmp_path / "out" / "summary.json").read_text())["overall"]["dice"]["mean"]
    assert [float((tmp_path / f"score_{rank}").read_text()) for rank in (0, 1)] == [reported] * 2
    assert reported == evaluate(batches=random_batches(3))
