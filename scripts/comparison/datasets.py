"""A plan's data: environment variables filled in, the datalist made if the plan says how, the cohort opened."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.comparison.plan import ComparisonPlan, Dataset, folder_name
from scripts.comparison.plan_file import ROOT
from vqseg_bundle.commands import data as make_datalist
from vqseg_bundle.data import Cohort, data_digest, open_cohort

__all__ = ["OpenedDataset", "expand", "file_digest", "open_dataset"]

_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class OpenedDataset:
    """An available dataset.

    Attributes:
        arguments: configuration ids that select it, with their values.
        labels: class index to name.
        digest: SHA-256 of the data and their split.
        labeled: number of labelled patients.
        unlabeled: number of unlabelled patients.
    """

    arguments: Mapping[str, str]
    labels: Mapping[int, str]
    digest: str
    labeled: int
    unlabeled: int


def open_dataset(
    plan: ComparisonPlan, dataset: Dataset, datalists: Path, dataset_dir: str | None = None
) -> OpenedDataset:
    """Open a dataset of a plan.

    Args:
        plan: the plan.
        dataset: one of its datasets.
        datalists: folder for datalists made by the plan, as ``<dataset>.json``.
        dataset_dir: folder instead of the plan's, or None.

    Raises:
        ValueError: a variable is not set, a folder or file is missing or not as expected, or nothing is to be
            evaluated; the message names the plan's file and the dataset.
    """
    try:
        arguments = _arguments(dataset, datalists, dataset_dir)
        cohort = open_cohort(
            arguments.get("dataset_dir"),
            arguments.get("datalist"),
            str(ROOT / "data" / "demo_cohort"),
            allow_outside_files=bool({**plan.overrides, **dataset.overrides}.get("allow_outside_files")),
        )
        _check_cohort(cohort, plan.split)
        return OpenedDataset(
            arguments=arguments,
            labels=cohort.labels,
            digest=data_digest(cohort),
            labeled=_patients(cohort.training),
            unlabeled=_patients(cohort.unlabeled),
        )
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"{plan.source}: datasets.{dataset.name}: {error}") from error


def expand(text: str) -> str:
    """Replace ``${NAME}`` by environment variables.

    Raises:
        ValueError: one is not set.
    """
    missing = [name for name in _VARIABLE.findall(text) if not os.environ.get(name)]
    if missing:
        raise ValueError(f"'{text}' needs the environment variable {missing[0]}, which is not set; set it.")
    return _VARIABLE.sub(lambda found: os.environ[found[1]], text)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _arguments(dataset: Dataset, datalists: Path, dataset_dir: str | None) -> dict[str, str]:
    if dataset_dir is None and dataset.dataset_dir is None:
        return {}
    try:
        folder = Path(dataset_dir or expand(dataset.dataset_dir or "")).expanduser().resolve()
    except ValueError as error:
        raise ValueError(f"{error} Or give --dataset-dir '{dataset.name}=DIR'.") from error
    arguments = {"dataset_dir": str(folder)}
    if dataset.datalist is not None:
        arguments["datalist"] = str(Path(expand(dataset.datalist)).expanduser().resolve())
    if dataset.split is not None:
        made = datalists.resolve() / f"{folder_name(dataset.name)}.json"
        _make_datalist(folder, dataset.split, made)
        arguments["datalist"] = str(made)
    return arguments


def _make_datalist(folder: Path, split: Mapping[str, Any], output: Path) -> None:
    options = {key: str(value) for key, value in split.items()}
    for key in {"split_file", "labeled_file"} & set(options):
        options[key] = str(folder / Path(expand(options[key])).expanduser())
    words = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            make_datalist.main([f"--dataset-dir={folder}", f"--output={output}", "--force", *words])
    except SystemExit as error:
        raise ValueError(said.getvalue().strip().rpartition("error: ")[2]) from error


def _check_cohort(cohort: Cohort, split: str) -> None:
    cases = cohort.splits()[split]
    bare = [case["case"] for case in cases if "label" not in case]
    if not cases or bare:
        raise ValueError(
            f"the plan evaluates the {split} cases; expected at least one in {cohort.source}, each with a label, "
            f"found {f'{bare[0]} without one' if bare else 'none'}."
        )


def _patients(cases: Sequence[Mapping[str, str]]) -> int:
    return len({case["patient"] for case in cases})
