"""The evaluation as one page, ``report.html``, that opens in any browser offline."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer
from monai.utils import CommonKeys
from torch import nn

from vqseg_bundle.common import gather_objects, process_rank, read_json
from vqseg_bundle.handlers.case_metrics import CaseMetrics, identify_case
from vqseg_bundle.handlers.metrics import without_ignored
from vqseg_bundle.handlers.quality_estimate import DiceEstimate
from vqseg_bundle.handlers.report.case_slice import CaseSlice, cut_slice
from vqseg_bundle.handlers.report.certainty import Estimates
from vqseg_bundle.handlers.report.page import Records, render_page
from vqseg_bundle.handlers.report.volumes import Measured, measure_volumes

__all__ = ["EvaluationReport", "ImageReconstruction"]
logger = logging.getLogger(__name__)


class ImageReconstruction:
    """Ignite handler that adds "reconstruction" to an evaluator's output, before its postprocessing.

    Args:
        network: from images ``(B, C, *S)`` to images of the same shape.
        inferer: divides the volumes, as for the predictions.
    """

    def __init__(self, network: nn.Module, inferer: Inferer) -> None:
        self.network = network
        self.inferer = inferer

    def attach(self, engine: Engine) -> None:
        """Register the handler with a MONAI evaluator."""
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._reconstruct)

    def _reconstruct(self, engine: Engine) -> None:
        output: Any = engine.state.output
        with torch.inference_mode():
            reconstruction = self.inferer(output[CommonKeys.IMAGE], self.network)
        # copied outside inference mode, so that postprocessing may change it
        output["reconstruction"] = reconstruction.clone()


class EvaluationReport:
    """Ignite handler that writes ``report.html`` beside the files of :class:`~vqseg_bundle.handlers.CaseMetrics`.

    It reads the decollated output of a MONAI evaluator after its postprocessing: "image", "pred" and, if present,
    "reconstruction", all inverted to the image's own grid, and "label" as stored. One slice of each case is kept until
    the end, at most 320 x 320 pixels. Where a label is "ignore", neither it nor the prediction is shown or counted.
    Cases without a label are not in the report. The page gives the command, versions and digest from
    ``evaluation_run.json`` and ``evaluation_config.json`` in the same folder and from the training's ``run.json``
    beside the weights, if these exist.

    Args:
        metrics: the evaluation's metrics; attach it before this handler.
        cohort: name of the cohort.
        split: name of its part, such as "test".
        model: the weights' record, with "checkpoint", "network" and "preprocessing".
        choose_axis: from the size of a stored volume's three axes and its affine to the axis along which slices are
            shown.
        examples: number of best, median and worst cases to show, each.
        left_out: number of cases of the split not evaluated for lack of a label.
        estimate: estimates each case's Dice from "soft_dice"; None says nothing of it.

    Raises:
        ValueError: ``examples`` is negative.
    """

    def __init__(
        self,
        metrics: CaseMetrics,
        cohort: str,
        split: str,
        model: Mapping[str, Any],
        choose_axis: Callable[[Sequence[int], np.ndarray], int],
        examples: int = 3,
        left_out: int = 0,
        estimate: DiceEstimate | None = None,
    ) -> None:
        if examples < 0:
            raise ValueError(f"examples must be at least 0, got {examples}.")
        self.metrics = metrics
        self.cohort = cohort
        self.split = split
        self.model = dict(model)
        self.choose_axis = choose_axis
        self.examples = examples
        self.left_out = left_out
        self.estimate = estimate
        self._slices: dict[str, CaseSlice] = {}
        self._volumes: dict[str, tuple[Measured, Measured]] = {}
        self._estimates: dict[str, float] = {}

    def attach(self, engine: Engine) -> None:
        """Register the handler with an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _reset(self, engine: Engine) -> None:
        self._slices, self._volumes, self._estimates = {}, {}, {}

    def _update(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        for item, found in zip(batch, output, strict=True):
            label = found.get(CommonKeys.LABEL)
            if isinstance(label, MetaTensor):
                name, _ = identify_case(item)
                classes, image = len(self.metrics.labels), found[CommonKeys.IMAGE]
                known, pred = _known_maps(label, found[CommonKeys.PRED], classes)
                self._slices[name] = cut_slice(image, known, pred, self.choose_axis, found.get("reconstruction"))
                self._volumes[name] = measure_volumes(known, classes), measure_volumes(pred, classes)
                if self.estimate is not None:
                    self._estimates[name] = self.estimate(found.get("soft_dice"))

    def _finish(self, engine: Engine) -> None:
        slices = {name: shown for share in gather_objects(self._slices) for name, shown in share.items()}
        volumes = {name: pair for share in gather_objects(self._volumes) for name, pair in share.items()}
        estimates = {name: value for share in gather_objects(self._estimates) for name, value in share.items()}
        if process_rank() != 0:
            return
        folder = self.metrics.output_dir
        records = Records(
            run=_read_json(folder / "evaluation_run.json"),
            config=_read_json(folder / "evaluation_config.json"),
            training=_read_json(Path(self.model["checkpoint"]).parent / "run.json"),
        )
        title = f"{self.cohort}, {self.split} split"
        path = folder / "report.html"
        results, labels = self.metrics.results, self.metrics.labels
        page = render_page(
            title,
            results,
            self.metrics.patients,
            labels,
            slices,
            volumes,
            self.model,
            records,
            self.examples,
            self.left_out,
            engine.state.metrics,
            self.metrics.calibration,
            None if self.estimate is None else Estimates(self.estimate, estimates),
        )
        path.write_text(page, encoding="utf-8")
        logger.info("Report with tables and pictures: %s (open it in a browser)", path)


def _known_maps(label: MetaTensor, pred: torch.Tensor, classes: int) -> tuple[MetaTensor, MetaTensor]:
    """Label and prediction where the label is known, else background, on the label's grid."""
    plain = pred.as_tensor() if isinstance(pred, MetaTensor) else pred
    pred, known = without_ignored(plain, label.as_tensor(), classes)
    return MetaTensor(known, affine=label.affine), MetaTensor(pred, affine=label.affine)


def _read_json(path: Path) -> dict[str, Any]:
    """The record, empty if missing: the report must not fail without it."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
