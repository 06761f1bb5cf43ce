"""Postprocessing that a model's record chooses, read when a volume is segmented."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.transforms import KeepLargestConnectedComponent, MapTransform

from vqseg_bundle.bundle.records.model_record import load_model_record

__all__ = ["KeepChosenComponentsd", "check_largest_component", "chosen_components"]


class KeepChosenComponentsd(MapTransform):
    """Keep the largest connected component of some classes (MONAI's transform).

    Without ``classes`` these are the ones that the record beside the weights names now, not those it named when the
    configuration was read: a MONAI Label server lives on while its model, and with it the choice, is trained anew.

    Args:
        keys: class maps ``(1, *S)``.
        classes: class indices; an empty list keeps everything, None asks the record.
        checkpoint: the weights, which have their record beside them; None, of an untrained network, chooses no class.
        allow_missing_keys: whether keys may be missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        classes: Sequence[int] | None,
        checkpoint: str | None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.classes = classes
        self.checkpoint = checkpoint

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with its class maps cleaned.

        Raises:
            ValueError: the record names what is no foreground class.
        """
        item = dict(data)
        classes = self._recorded() if self.classes is None else self.classes
        if classes:
            keep = KeepLargestConnectedComponent(applied_labels=list(classes), is_onehot=False)
            for key in self.key_iterator(item):
                item[key] = keep(item[key])
        return item

    def _recorded(self) -> list[int]:
        if self.checkpoint is None:
            return []
        path = Path(self.checkpoint)
        return chosen_components(load_model_record(path), path)


def chosen_components(record: Mapping[str, Any], path: Path) -> list[int]:
    """Classes whose smaller components are removed; none in records of 0.8 and earlier.

    Args:
        record: see :func:`~vqseg_bundle.bundle.load_model_record`.
        path: the weights it lies beside.

    Raises:
        ValueError: the record names what is no foreground class.
    """
    chosen = record.get("postprocessing", {}).get("largest_component", [])
    foreground = sorted(set(record["labels"]) - {0})
    if not isinstance(chosen, list) or not set(chosen) <= set(foreground):
        raise ValueError(
            f"{path.with_suffix('.json')}: key 'largest_component' of 'postprocessing' must list foreground classes "
            f"out of {foreground}, got {chosen!r}."
        )
    return chosen


def check_largest_component(classes: Any, record: Mapping[str, Any]) -> None:
    """Refuse a user's choice that names what is no foreground class of the model, before anything is written.

    Args:
        classes: the key ``largest_component``: class indices, or None for the model's own choice.
        record: see :func:`~vqseg_bundle.bundle.open_model_record`.

    Raises:
        SystemExit: it is no list, or names other classes.
    """
    foreground = {index: name for index, name in sorted(record["labels"].items()) if index > 0}
    # True is the number 1, to Python
    if classes is None or (
        isinstance(classes, list | tuple) and all(type(index) is int and index in foreground for index in classes)
    ):
        return
    allowed = ", ".join(f"{index} ({name})" for index, name in foreground.items())
    raise SystemExit(
        f"--largest_component: expected a list of the model's foreground classes, out of {allowed}, found {classes!r}. "
        f'Name them by index, such as "[{next(iter(foreground))}]"; "[]" keeps every component, and without the key '
        "the training's own choice is taken."
    )
