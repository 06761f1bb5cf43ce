"""A run with the bundle's own commands (training, and evaluation of its last weights), and its check."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from monai.bundle import ConfigParser

from scripts.comparison.datasets import OpenedDataset, expand
from scripts.comparison.plan import Run
from scripts.comparison.plan_file import CONFIGS
from vqseg_bundle.bundle.settings.components import check_device, check_preprocessing

__all__ = ["Stage", "StagesOf", "bundle_stages", "check_settings", "expanded", "trains_on_unlabeled"]

#: Ids of a training that its evaluation shares; everything else it reads from the record beside the weights.
_EVALUATION_IDS = ("device", "amp", "num_workers", "data_check", "allow_outside_files", "uneven_slices")
_EVALUATION_PARTS = ("validate#inferer", "window_batch_size")


class Stage(NamedTuple):
    """A step of a run.

    Attributes:
        name: such as "training".
        command: the program and its arguments, run in the bundle's root.
    """

    name: str
    command: list[str]


#: Makes the stages of a run on its dataset that write to a folder, from its beginning or from what it saved last.
StagesOf = Callable[[Run, OpenedDataset, Path, bool], list[Stage]]


def bundle_stages(run: Run, dataset: OpenedDataset, output_dir: Path, resume: bool) -> list[Stage]:
    """``monai.bundle run training``, then ``run evaluating``.

    The training has no validation cases: the weights are those of the last iteration. All runs share the files of
    foundation-model features, which are named by their inputs.

    Args:
        run: the run.
        dataset: its data.
        output_dir: absolute path of the run's folder in the comparison's.
        resume: whether its training goes on from what it saved last.

    Raises:
        ValueError: an override names an environment variable that is not set.
    """
    overrides = expanded(run.overrides)
    common = {**dataset.arguments, "output_dir": str(output_dir)}
    output = output_dir.parents[len(run.folder.parts) - 1]
    training = {"foundation_feature_dir": str(output / "foundation_features"), **overrides, **common, "seed": run.seed}
    training |= {"resume": True} if resume else {}
    evaluation = {key: value for key, value in overrides.items() if _is_of_evaluation(key)}
    return [
        _stage("training", ["train.json", *run.method.configs], {**training, "validate#dataset#data": []}),
        _stage("evaluating", ["train.json", "evaluate.json"], {**evaluation, **common, "evaluation_split": run.split}),
    ]


def expanded(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides with their environment variables filled in.

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


def check_settings(run: Run, dataset: OpenedDataset, source: Path) -> None:
    """Refuse ids that no configuration has and values that the bundle's own parts refuse.

    The parts that ``train.json`` checks before its first step are built here, except the foundation model, whose
    weights may be large: only its file must exist.

    Raises:
        ValueError: an id or a value is at fault.
    """
    try:
        overrides = expanded(run.overrides)
        parser = _training_parser(run)
        for key in overrides:
            if not _is_known(key, parser):
                raise ValueError(f"overrides.{key}: no configuration has this id.")
        parser.update(overrides)
        _check_foundation(parser)
        parts = [part for part in parser["check"]["components"] if part != "foundation"]
        parser.update({**dataset.arguments, "labels": dict(dataset.labels), "foundation_model": "none"})
        _build(parser, parts)
    except (ValueError, SystemExit) as error:  # the plan of a training ends it with a message
        raise ValueError(f"{source}: methods.{run.method.name} on datasets.{run.dataset.name}: {error}") from error


def trains_on_unlabeled(run: Run) -> bool:
    """Whether a run uses the unlabelled cases, unlike a supervised baseline."""
    parser = _training_parser(run)
    parser.update(dict(run.overrides))
    return parser["unlabeled_data"] != []


def _is_of_evaluation(key: str) -> bool:
    return key in _EVALUATION_IDS or key.startswith(_EVALUATION_PARTS)


def _stage(name: str, configs: Sequence[str], overrides: Mapping[str, Any]) -> Stage:
    files = [f"configs/{config}" for config in configs]
    words = [f"--{key}={value}" for key, value in overrides.items()]
    return Stage(name, [sys.executable, "-m", "monai.bundle", "run", name, f"--config_file={files}", *words])


def _training_parser(run: Run) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / name) for name in ("train.json", *run.method.configs)])
    return parser


def _check_foundation(parser: ConfigParser) -> None:
    name, weights = parser["foundation_model"], parser["foundation_weights"]
    if name != "none":
        from vqseg_bundle.networks.foundation import FOUNDATION_SPECS  # needs the extra foundation

        if name not in FOUNDATION_SPECS:
            known = ", ".join(["none", *FOUNDATION_SPECS])
            raise ValueError(f"foundation_model: expected one of {known}, found '{name}'.")
    if weights is not None and not Path(weights).is_file():
        raise ValueError(f"foundation_weights: expected a file, found none at '{weights}'.")


def _is_known(key: str, parser: ConfigParser) -> bool:
    """Whether the configuration has the id, or a component above it that may take it as an argument."""
    parent = key.rpartition("#")[0]
    if key in parser:
        return True
    above: Any = parser.get(parent) if parent else None
    return isinstance(above, dict) and "_target_" in above


def _build(parser: ConfigParser, parts: list[str]) -> None:
    check_device(parser.get_parsed_content("device"))
    check_preprocessing(parser.get_parsed_content("preprocessing_record"))
    for part in parts:
        try:
            parser.get_parsed_content(part)
        except RuntimeError as error:
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            raise ValueError(f"{part}: {cause}") from error
