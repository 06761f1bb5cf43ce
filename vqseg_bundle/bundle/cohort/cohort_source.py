"""The cases of a training or evaluation: from a datalist, or listed in the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.reference_resolver import ReferenceResolver

from vqseg_bundle import data
from vqseg_bundle.bundle.records.model_record import load_model_record
from vqseg_bundle.bundle.settings.clean_exit import exit_cleanly
from vqseg_bundle.bundle.settings.running_workflow import running_parser

__all__ = ["open_cohort"]


def open_cohort(
    dataset_dir: str | None,
    datalist: str | None,
    demo_dir: str,
    uneven_slices: str = "refuse",
    lists: Mapping[str, str] | None = None,
    bundle_root: str = ".",
    parser: ConfigParser | None = None,
    allow_outside_files: bool = False,
) -> data.Cohort:
    """The cohort; faulty input ends the run with only a message.

    If the running configuration has a list of training cases, as set by MONAI Label, the cohort has the cases of its
    lists (:func:`vqseg_bundle.data.open_listed_cases`) and the classes of the bundle's own model; if there is also a
    datalist, its classes and its other cases are used. Otherwise see :func:`vqseg_bundle.data.open_cohort`.

    Args:
        dataset_dir: folder of the volumes, or None.
        datalist: datalist file, or None.
        demo_dir: folder for the demo cohort.
        uneven_slices: "refuse" or "accept" DICOM series whose slices are not evenly spaced.
        lists: split to the id under which the configuration may have a list of cases, such as
            ``{"training": "train#dataset#data"}``. Ids, not references, since their values normally refer to the
            cohort.
        bundle_root: the bundle's folder.
        parser: the running configuration's; None looks for it.
        allow_outside_files: whether a datalist may name files outside ``dataset_dir``.

    Raises:
        SystemExit: the cohort does not exist, or there is a list of cases but no model with their classes.
    """
    given = _given_lists(lists, running_parser(parser)) if lists else {}
    if "training" in given and not (dataset_dir or datalist):
        return exit_cleanly(_open_listed, given, (lists or {})["training"], bundle_root)
    cohort = exit_cleanly(data.open_cohort, dataset_dir, datalist, demo_dir, uneven_slices, allow_outside_files)
    if "training" not in given:
        return cohort
    splits = {**cohort.splits(), **given}
    listed = exit_cleanly(data.open_listed_cases, splits, cohort.labels, cohort.name, cohort.source)
    return replace(
        listed,
        listed=False,
        label_values=cohort.label_values,
        channel_names=cohort.channel_names,
        sparse=cohort.sparse,
    )


def _given_lists(lists: Mapping[str, str], parser: ConfigParser) -> dict[str, list[Any]]:
    found = {split: parser.get(id_) for split, id_ in lists.items()}
    return {split: cases for split, cases in found.items() if isinstance(cases, list)}


def _open_listed(given: Mapping[str, list[Any]], source: str, bundle_root: str) -> data.Cohort:
    source = source.replace(ReferenceResolver.sep, "#")
    weights = Path(bundle_root) / "models" / "model.pt"
    try:
        labels = load_model_record(weights)["labels"]
    except FileNotFoundError as error:
        raise ValueError(
            f"{source} is a list of cases, whose classes would be those of the model in bundle_root; {error} Or name "
            "the cases and their classes in a datalist, with the key datalist."
        ) from error
    return data.open_listed_cases(given, labels, Path(bundle_root).resolve().name, source)
