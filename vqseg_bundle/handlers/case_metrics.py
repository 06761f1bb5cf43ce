"""Evaluation of whole cases, on the images' own grid: Ignite handlers that measure, gather and write."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.handlers import from_engine
from monai.utils import CommonKeys

from vqseg_bundle.common import gather_objects, process_rank
from vqseg_bundle.handlers.case_report import format_table, mean_over_classes, summarize, write_report
from vqseg_bundle.handlers.metrics import ClassMetrics, compute_case_metrics, compute_class_dice

__all__ = ["CaseMetrics", "ClassMetrics", "MeanCaseDice", "compute_case_metrics", "identify_case", "summarize"]

logger = logging.getLogger(__name__)


class _Case(NamedTuple):
    name: str
    source: str
    classes: list[ClassMetrics]


class CaseMetrics:
    """Ignite handler that writes ``metrics.csv`` and ``summary.json`` at the end of an evaluation.

    It reads the decollated output of a MONAI evaluator after its postprocessing: the prediction inverted to the image's
    grid and the label as stored, both ``(1, *S)`` MetaTensors of class indices. The case's name is
    ``engine.state.batch[i]["case"]``, otherwise the image's file name. With several processes, the first one writes the
    rows of all; a case given to two processes counts once.

    Args:
        output_dir: the folder to write to, created if missing.
        labels: class index to name, 0 (background) to the last without a gap.
        output_transform: from ``engine.state.output`` to two lists, predictions and labels. Defaults to the items
            "pred" and "label" of each case.

    Attributes:
        results: case name to the metrics of its classes in the last evaluation; empty except on the first process.

    Raises:
        ValueError: ``labels`` has a gap or no foreground class.
    """

    def __init__(
        self,
        output_dir: str | Path,
        labels: Mapping[int, str],
        output_transform: Callable[[Any], Any] | None = None,
    ) -> None:
        if len(labels) < 2 or sorted(labels) != list(range(len(labels))):
            raise ValueError(f"labels must name the classes 0, 1, ... without a gap, at least two, got {dict(labels)}.")
        self.output_dir = Path(output_dir)
        self.labels = dict(labels)
        self.output_transform = output_transform or from_engine([CommonKeys.PRED, CommonKeys.LABEL])
        self.results: dict[str, list[ClassMetrics]] = {}
        self._cases: dict[str, _Case] = {}

    def attach(self, engine: Engine) -> None:
        """Register the handler with an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _reset(self, engine: Engine) -> None:
        self._cases = {}
        self.results = {}

    def _update(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        if not isinstance(batch, list):
            raise ValueError(f"CaseMetrics needs the batch as a list of cases (decollate=True), got {type(batch)}.")
        preds, labels = self.output_transform(engine.state.output)
        for item, pred, label in zip(batch, preds, labels, strict=True):
            name, source = identify_case(item)
            try:
                metrics = compute_case_metrics(pred, label, len(self.labels), _spacing(pred, label))
            except ValueError as error:
                raise ValueError(f"case '{name}': {error}") from error
            _add(self._cases, _Case(name, source, metrics), repeatable=False)

    def _finish(self, engine: Engine) -> None:
        shares = gather_objects(self._cases)
        if process_rank() != 0:
            return
        cases: dict[str, _Case] = {}
        for share in shares:
            for case in share.values():
                _add(cases, case, repeatable=True)
        # in one order regardless of their division over processes, so that means are equal to the last digit
        self.results = {name: cases[name].classes for name in sorted(cases)}
        summary = write_report(self.output_dir, self.results, self.labels)
        logger.info("Metrics of %d cases, in %s:\n%s", len(cases), self.output_dir, format_table(summary))


def identify_case(item: Mapping[str, Any]) -> tuple[str, str]:
    """A case's name, by "case" or the image's file name, and its file (empty if unknown); ValueError without a name."""
    image = item.get(CommonKeys.IMAGE)
    source = str(image.meta.get("filename_or_obj", "")) if isinstance(image, MetaTensor) else ""
    name = str(item.get("case") or re.sub(r"(\.nii)?\.\w+$", "", Path(source).name))
    if not name:
        raise ValueError("a case has no name: give each datalist entry a 'case', or load images with their metadata.")
    return name, source


def _spacing(pred: torch.Tensor, label: torch.Tensor) -> list[float]:
    if not isinstance(label, MetaTensor):
        raise ValueError("label must be a MetaTensor, whose affine gives the spacing; load it with LoadImaged.")
    spacing = _voxel_size(label)
    if isinstance(pred, MetaTensor) and not np.allclose(_voxel_size(pred), spacing, rtol=1e-3):
        raise ValueError(
            f"prediction and label must lie on one grid, got voxels of {_voxel_size(pred)} and {spacing} mm: "
            "invert the prediction to the image's own grid first."
        )
    return spacing


def _voxel_size(volume: MetaTensor) -> list[float]:
    return [float(size) for size in affine_to_spacing(volume.affine.cpu(), r=volume.ndim - 1)]


def _add(cases: dict[str, _Case], case: _Case, repeatable: bool) -> None:
    known = cases.get(case.name)
    if known is not None and not (repeatable and known.source == case.source):
        raise ValueError(
            f"two cases are called '{case.name}' ({known.source or 'unknown file'}, {case.source or 'unknown file'}): "
            "give each datalist entry its own 'case'."
        )
    cases[case.name] = case


class MeanCaseDice:
    """Key metric of a MONAI evaluator: the overall mean Dice of ``summary.json``, without its distances.

    A hallucinated or missed structure counts as 0; one that is in neither prediction nor label does not count (MONAI's
    MeanDice ignores structures missing in the label, so that hallucinations cost nothing). It reads the same output as
    :class:`~vqseg_bundle.handlers.CaseMetrics`. With several processes, each gets the mean over the cases of all; a
    case that several of them evaluated counts once.

    Args:
        num_classes: number of classes, background included.
        output_transform: as for :class:`~vqseg_bundle.handlers.CaseMetrics`.
    """

    def __init__(self, num_classes: int, output_transform: Callable[[Any], Any] | None = None) -> None:
        self.num_classes = num_classes
        self.output_transform = output_transform or from_engine([CommonKeys.PRED, CommonKeys.LABEL])
        self._cases: dict[tuple[str, str], list[float]] = {}

    def attach(self, engine: Engine, name: str) -> None:
        """Put the score into ``engine.state.metrics[name]`` after each epoch; 0 if no case has any structure."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish, name)

    def _reset(self, engine: Engine) -> None:
        self._cases = {}

    def _update(self, engine: Engine) -> None:
        preds, labels = self.output_transform(engine.state.output)
        batch: Any = engine.state.batch
        for item, pred, label in zip(batch, preds, labels, strict=True):
            self._cases[identify_case(item)] = compute_class_dice(pred, label.to(pred.device), self.num_classes)

    def _finish(self, engine: Engine, name: str) -> None:
        cases = {key: dice for share in gather_objects(self._cases) for key, dice in share.items()}
        # in the order of the evaluation, so that both are equal to the last digit
        score = mean_over_classes([cases[key] for key in sorted(cases)])
        engine.state.metrics[name] = 0.0 if score is None else score
