"""What a run's overrides lead to, checked before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from scripts.comparison.commands import expanded
from scripts.comparison.datasets import OpenedDataset
from scripts.comparison.plan import Run
from scripts.comparison.plan_file import CONFIGS
from vqseg_bundle.bundle.components import check_device, check_preprocessing
from vqseg_bundle.networks.foundation import FOUNDATION_SPECS

__all__ = ["check_settings", "trains_on_unlabeled"]


def check_settings(run: Run, dataset: OpenedDataset, source: Path) -> None:
    """Refuse ids that no configuration has and values that the bundle's own parts refuse.

    The parts that ``train.json`` checks before its first step are built here, but for the foundation model, whose
    weights may be large: of it the file must be there.

    Args:
        run: the run.
        dataset: its data.
        source: the plan's file, for the message.

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
    except ValueError as error:
        raise ValueError(f"{source}: methods.{run.method.name} on datasets.{run.dataset.name}: {error}") from error


def trains_on_unlabeled(run: Run) -> bool:
    """Whether a run takes the unlabelled cases, which a supervised baseline leaves out."""
    parser = _training_parser(run)
    parser.update(dict(run.overrides))
    return parser["unlabeled_data"] != []


def _training_parser(run: Run) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / name) for name in ("train.json", *run.method.configs)])
    return parser


def _check_foundation(parser: ConfigParser) -> None:
    name, weights = parser["foundation_model"], parser["foundation_weights"]
    if name != "none" and name not in FOUNDATION_SPECS:
        raise ValueError(f"foundation_model: expected one of {', '.join(['none', *FOUNDATION_SPECS])}, found '{name}'.")
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
