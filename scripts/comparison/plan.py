"""The runs of a comparison: methods x datasets x seeds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["ComparisonPlan", "Dataset", "Method", "Run", "SweepPoint", "folder_name"]


@dataclass(frozen=True)
class Dataset:
    """A cohort with its split.

    Attributes:
        name: shown in the report.
        dataset_dir: folder of the volumes, possibly with ``${VARIABLE}``; None for the embedded demo cohort.
        datalist: datalist file, also with variables; None if ``split`` makes one, or if it is in the folder.
        split: options of ``vqseg data``, or None.
        overrides: value by id.
        seeds: the seeds of the plan that are run; None for all.
        note: text below its table.
    """

    name: str
    dataset_dir: str | None = None
    datalist: str | None = None
    split: Mapping[str, Any] | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None
    note: str = ""


@dataclass(frozen=True)
class SweepPoint:
    """One value of a sweep.

    Attributes:
        sweep: name of the sweep, a line of the plot.
        axis: label of the plot's axis; sweeps of one axis share a plot.
        value: position on the axis.
    """

    sweep: str
    axis: str
    value: float | str


@dataclass(frozen=True)
class Method:
    """A compared configuration.

    Attributes:
        name: shown in the report.
        configs: overlays in ``configs/``, added to ``train.json``.
        overrides: value by id.
        datasets: names of its datasets; None for all.
        seeds: the seeds of the plan that are run; None for all.
        point: its place in a sweep, or None.
    """

    name: str
    configs: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    datasets: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    point: SweepPoint | None = None


@dataclass(frozen=True)
class Run:
    """One training and its evaluation.

    Attributes:
        dataset: what it is trained and evaluated on.
        method: the trained method.
        seed: seed of everything random in the training.
        split: the cases that are evaluated, "test" or "validation".
        overrides: value by id, merged from plan, dataset and method.
    """

    dataset: Dataset
    method: Method
    seed: int
    split: str
    overrides: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Its folder, relative to the comparison's output folder."""
        return Path("runs", folder_name(self.dataset.name), folder_name(self.method.name), f"seed{self.seed}")

    def __str__(self) -> str:
        return f"{self.dataset.name} / {self.method.name} / seed {self.seed}"


@dataclass(frozen=True)
class ComparisonPlan:
    """A whole comparison.

    Attributes:
        name: title of the report.
        source: the plan's file.
        seeds: seeds of the runs.
        split: the cases that are evaluated, "test" or "validation".
        datasets: by name, in the report's order.
        methods: by name, in the report's order.
        reference: name of the method that the others are tested against, or None.
        overrides: value by id, for all runs.
        note: text for the report.
    """

    name: str
    source: Path
    seeds: tuple[int, ...]
    split: str
    datasets: Mapping[str, Dataset]
    methods: Mapping[str, Method]
    reference: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def runs(self) -> list[Run]:
        """All runs, with seeds outermost, so that every method soon has a first result."""
        return [run for seed in self.seeds for run in self._runs_of(seed)]

    def _runs_of(self, seed: int) -> Iterator[Run]:
        for dataset in self.datasets.values():
            for method in self.methods.values():
                wanted = method.datasets is None or dataset.name in method.datasets
                if wanted and all(each.seeds is None or seed in each.seeds for each in (dataset, method)):
                    overrides = {**self.overrides, **dataset.overrides, **method.overrides}
                    yield Run(dataset, method, seed, self.split, overrides)


def folder_name(name: str) -> str:
    """A name as a folder name: lower-case letters, digits and dots, everything else as hyphens; may be empty."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")
