"""The commands that make a run: a training, then the evaluation of its last weights."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scripts.comparison.datasets import OpenedDataset, expand
from scripts.comparison.plan import Run

__all__ = ["Stage", "StagesOf", "bundle_stages", "expanded"]

#: Ids of a training that its evaluation takes over; all else it reads from the record beside the weights.
_EVALUATION_IDS = ("device", "amp", "num_workers", "data_check")
_EVALUATION_PARTS = ("slice_inferer", "volume_inferer")


class Stage(NamedTuple):
    """A step of a run.

    Attributes:
        name: such as "training".
        command: the program and its arguments, run in the bundle's root.
    """

    name: str
    command: list[str]


#: Makes the stages of a run on its dataset that write to a folder.
StagesOf = Callable[[Run, OpenedDataset, Path], list[Stage]]


def bundle_stages(run: Run, dataset: OpenedDataset, output_dir: Path) -> list[Stage]:
    """``monai.bundle run training``, then ``run evaluating``.

    The training sees no validation cases: the weights are those of the last iteration, no list selects them. All runs
    share the files of a foundation model's features, which are named by what they were computed from.

    Args:
        run: what to run.
        dataset: its data.
        output_dir: absolute path of the run's folder in the comparison's.

    Raises:
        ValueError: an override names an environment variable that is not set.
    """
    overrides = expanded(run.overrides)
    common = {**dataset.arguments, "output_dir": str(output_dir)}
    output = output_dir.parents[len(run.folder.parts) - 1]
    training = {"foundation_feature_dir": str(output / "foundation_features"), **overrides, **common, "seed": run.seed}
    evaluation = {key: value for key, value in overrides.items() if _is_of_evaluation(key)}
    return [
        _stage("training", ["train.json", *run.method.configs], {**training, "validate#dataset#data": []}),
        _stage("evaluating", ["train.json", "evaluate.json"], {**evaluation, **common, "evaluation_split": run.split}),
    ]


def expanded(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides with their environment variables put in.

    Raises:
        ValueError: a variable is not set.
    """
    values = {}
    for key, value in overrides.items():
        try:
            values[key] = expand(value) if isinstance(value, str) else value
        except ValueError as error:
            raise ValueError(f"overrides.{key}: {error}") from error
    return values


def _is_of_evaluation(key: str) -> bool:
    return key in _EVALUATION_IDS or key.partition("#")[0] in _EVALUATION_PARTS


def _stage(name: str, configs: Sequence[str], overrides: Mapping[str, Any]) -> Stage:
    files = [f"configs/{config}" for config in configs]
    words = [f"--{key}={value}" for key, value in overrides.items()]
    return Stage(name, [sys.executable, "-m", "monai.bundle", "run", name, f"--config_file={files}", *words])
