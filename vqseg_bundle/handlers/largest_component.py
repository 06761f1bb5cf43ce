"""Postprocessing chosen on validation cases: for which classes only the largest connected component is kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.handlers import from_engine
from monai.transforms import KeepLargestConnectedComponent
from monai.transforms.utils import generate_spatial_bounding_box
from monai.utils import CommonKeys
from torch import Tensor

from vqseg_bundle.common import gather_objects
from vqseg_bundle.handlers.case_metrics import identify_case
from vqseg_bundle.handlers.metrics import compute_class_dice

__all__ = ["LargestComponentChoice", "keep_largest_components"]


def keep_largest_components(classes: Tensor, num_classes: int) -> Tensor:
    """Each foreground class without all but its largest connected component (MONAI's, neighbours at corners included).

    Args:
        classes: class indices, ``(1, *S)``.
        num_classes: number of classes, background included.

    Returns:
        like ``classes``; removed voxels are background.
    """
    if not bool((classes > 0).any()):
        return classes
    start, end = generate_spatial_bounding_box(classes)
    box = (slice(None), *(slice(a, b) for a, b in zip(start, end, strict=True)))
    keep = KeepLargestConnectedComponent(applied_labels=list(range(1, num_classes)), is_onehot=False)
    cleaned = classes.clone()
    part = torch.as_tensor(keep(classes[box].clone()))  # MONAI's transform writes into its input
    cleaned[box] = part.to(classes)
    return cleaned


class LargestComponentChoice:
    """Ignite handler that compares, for each class, its validation Dice with and without its smaller components.

    Removing them makes voxels background, which changes no other class's Dice. So the classes can be chosen one by one,
    and the mean Dice of the cases they were chosen on never falls. A class is chosen if its mean over cases rises.

    Args:
        num_classes: number of classes, background included.
        output_transform: takes the evaluator's output, returns predictions and labels, lists of class indices
            ``(1, *S)``; None takes "pred" and "label".

    Attributes:
        dice: of the last validation, case (as :func:`~vqseg_bundle.handlers.case_metrics.identify_case` gives it) to
            the Dice of each foreground class after what was chosen is removed, NaN if it is in neither.
    """

    def __init__(self, num_classes: int, output_transform: Callable[[Any], Any] | None = None) -> None:
        self.num_classes = num_classes
        self.output_transform = output_transform or from_engine([CommonKeys.PRED, CommonKeys.LABEL])
        self.dice: dict[tuple[str, str], list[float]] = {}
        self._cases: dict[tuple[str, str], list[tuple[float, float]]] = {}
        self._chosen: dict[int, float] = {}

    def attach(self, engine: Engine) -> None:
        """Attach to a MONAI evaluator, before the handler that saves the best weights."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._choose)

    def record(self) -> dict[str, Any]:
        """The section "postprocessing" of ``model.json``: the last validation's choice, and what each class gains."""
        gains = {str(index): round(gain, 6) for index, gain in self._chosen.items()}
        return {"postprocessing": {"largest_component": list(self._chosen), "validation_dice_gain": gains}}

    def _reset(self, engine: Engine) -> None:
        self._cases = {}

    def _update(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        for item, pred, label in zip(batch, *self.output_transform(engine.state.output), strict=True):
            label = label.to(pred.device)
            raw = compute_class_dice(pred, label, self.num_classes)
            cleaned = compute_class_dice(keep_largest_components(pred, self.num_classes), label, self.num_classes)
            self._cases[identify_case(item)] = list(zip(raw, cleaned, strict=True))

    def _choose(self, engine: Engine) -> None:
        cases = {key: pairs for share in gather_objects(self._cases) for key, pairs in share.items()}
        self._chosen = {}
        for index, pairs in enumerate(zip(*cases.values(), strict=True), start=1):
            found = [after - before for before, after in pairs if not math.isnan(after - before)]
            mean = sum(found) / len(found) if found else 0.0
            if mean > 0:
                self._chosen[index] = mean
        self.dice = {
            key: [pair[index in self._chosen] for index, pair in enumerate(pairs, start=1)]
            for key, pairs in cases.items()
        }
