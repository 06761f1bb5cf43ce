"""The plan of a training: all rules in their order, with the user's values in place of the rules' where given."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from vqseg_bundle.planning.cache_rules import choose_cache_on_disk, choose_cache_rate, prepared_gb
from vqseg_bundle.planning.decisions import Decision, Decisions, PlanError, Ruled
from vqseg_bundle.planning.fingerprint import Fingerprint, Machine
from vqseg_bundle.planning.geometry_rules import choose_image_size, choose_spacing, choose_spatial_dims, view_budget
from vqseg_bundle.planning.network_rules import (
    FUSED_LEVEL,
    NetworkLimits,
    choose_channels,
    choose_code_level,
    choose_patch_size,
    choose_reconstruction_channels,
    choose_strides,
    first_width,
    total_stride,
)
from vqseg_bundle.planning.time_rules import Pace, choose_steps_in_time
from vqseg_bundle.planning.training_rules import (
    choose_batch_size,
    choose_intensity_statistics,
    choose_intensity_window,
    choose_max_iterations,
    choose_normalize_nonzero,
    step_memory_gb,
)

__all__ = ["PLANNED_IDS", "Plan", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """The planned values, by the last part of the configuration's ids, and how each was decided.

    Attributes:
        spatial_dims: dimensions of the network.
        intensity_window: lowest and highest intensity to keep, or None.
        intensity_statistics: mean and deviation to standardise by, or None for each scan's own.
        normalize_nonzero: whether each scan's own are of the voxels that are not zero.
        spacing: mm to resample to, or None.
        image_size: voxels to resize to, or None.
        patch_size: voxels of a view.
        strides: between the network's levels.
        channels: of the network's levels.
        code_level: level of the codes; None is the deepest.
        reconstruction_channels: of the image decoder's levels.
        labeled_batch_size: labelled views a step.
        unlabeled_batch_size: unlabelled views a step.
        max_iterations: steps.
        cache_rate: share of the prepared scans that is kept in memory.
        cache_on_disk: whether the others are kept on disk.
        decisions: the same values with their reasons, in the order in which they were made.
        memory_gb: estimated memory of a training step, GB (1e9 bytes).
    """

    spatial_dims: int
    intensity_window: list[float] | None
    intensity_statistics: list[float] | None
    normalize_nonzero: bool
    spacing: list[float] | None
    image_size: list[int] | None
    patch_size: list[int]
    strides: list[Any]
    channels: list[int]
    code_level: int | None
    reconstruction_channels: list[int]
    labeled_batch_size: int
    unlabeled_batch_size: int
    max_iterations: int
    cache_rate: float
    cache_on_disk: bool
    decisions: tuple[Decision, ...]
    memory_gb: float

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Value, rule and reason by id."""
        return {made.id: {"value": made.value, "rule": made.rule, "why": made.why} for made in self.decisions}

    def table(self) -> list[str]:
        """Lines for the log: id, value and reason."""
        rows = [(made.id.rpartition("#")[2], str(made.value), made.why) for made in self.decisions]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        return [f"{name:<{widths[0]}}  {value:<{widths[1]}}  {why}" for name, value, why in rows]


_NETWORK = ("strides", "channels", "code_level", "reconstruction_channels")
#: attribute of a plan to the configuration's id
PLANNED_IDS = {
    field.name: f"network_def#{field.name}" if field.name in _NETWORK else field.name
    for field in fields(Plan)
    if field.name not in ("decisions", "memory_gb")
}


def make_plan(
    fingerprint: Fingerprint,
    machine: Machine,
    given: Mapping[str, tuple[Any, str]] | None = None,
    demo: bool = False,
    budget: tuple[float, Pace] | None = None,
) -> Plan:
    """Plan a training.

    Args:
        fingerprint: the cohort's.
        machine: what the training runs on.
        given: value and origin by id, for those of :data:`PLANNED_IDS` on which no rule shall decide; the other rules
            follow from them.
        demo: whether it is the demo cohort, for which every machine plans the same small network.
        budget: minutes for the steps, and the pace that was measured; None lets the number of scans decide.

    Raises:
        PlanError: given values contradict each other.
    """
    machine = replace(machine, device="cpu") if demo else machine
    return _Planner(fingerprint, machine, given or {}, demo, budget).plan()


class _Planner:
    """The rules in their order: geometry, network, training."""

    def __init__(
        self,
        fingerprint: Fingerprint,
        machine: Machine,
        given: Mapping[str, tuple[Any, str]],
        demo: bool,
        budget: tuple[float, Pace] | None,
    ) -> None:
        self.fingerprint, self.machine, self.demo, self.budget = fingerprint, machine, demo, budget
        self.given = {id_: value for id_, (value, _) in given.items()}
        self.decisions = Decisions(given)

    def plan(self) -> Plan:
        dims = self._decide("spatial_dims", self._choose_dims)
        self._decide("intensity_window", choose_intensity_window, self.fingerprint)
        window_given = "intensity_window" in self.given
        self._decide("intensity_statistics", choose_intensity_statistics, self.fingerprint, window_given)
        self._decide("normalize_nonzero", choose_normalize_nonzero, self.fingerprint)
        channels = self.given.get(PLANNED_IDS["channels"])
        budget = view_budget(self.machine, dims, channels[0] if channels else first_width(self.machine.device))
        median = self._decide_sizes(dims, budget)
        strides, patch = self._decide_strides(dims, budget, median)
        channels = self._decide("channels", choose_channels, self.machine.device, dims, len(strides))
        if len(channels) != len(strides) + 1:
            raise PlanError(
                f"network_def#channels {channels} want {len(channels) - 1} strides, network_def#strides are {strides} "
                f"for patch_size {patch}: give both, or other channels or a larger patch_size."
            )
        widths = self.given.get(PLANNED_IDS["reconstruction_channels"])
        level = self._decide("code_level", choose_code_level, strides, widths)
        self._decide("reconstruction_channels", choose_reconstruction_channels, channels, strides, level)
        return self._decide_training(patch, channels[0])

    def _decide_training(self, patch: Sequence[int], width: int) -> Plan:
        sized = (float(self._shapes().prod(axis=1).sum()), self.machine, patch, width)
        labeled = self._decide("labeled_batch_size", choose_batch_size, *sized)
        unlabeled = self._decide("unlabeled_batch_size", choose_batch_size, *sized)
        if self.budget is None:
            self._decide("max_iterations", choose_max_iterations, self.fingerprint, unlabeled, self.demo)
        else:
            timed = (*self.budget, len(self.fingerprint.shapes), labeled + unlabeled)
            self._decide("max_iterations", choose_steps_in_time, *timed)
        self._decide_cache(patch)
        made = self.decisions.made()
        memory = step_memory_gb(math.prod(patch), width, labeled + unlabeled, self.machine)
        values = {decision.id.rpartition("#")[2]: decision.value for decision in made}
        return Plan(**values, decisions=made, memory_gb=memory)

    def _decide_cache(self, patch: Sequence[int]) -> None:
        """Decide where the scans are kept."""
        needed = prepared_gb(self.fingerprint, self._shapes(), patch)
        rate = self._decide("cache_rate", choose_cache_rate, needed, self.machine.scans_gb)
        self._decide("cache_on_disk", choose_cache_on_disk, needed, rate, self.machine.disk_gb)

    def _decide_sizes(self, dims: int, budget: int) -> list[float]:
        """Decide on spacing and image size; the median shape that they give, along the network's axes."""
        patch, image_size = self.given.get("patch_size"), self.given.get("image_size")
        self._decide(
            "spacing", choose_spacing, self.fingerprint, dims, image_size is not None, budget, patch is not None
        )
        given = self.given.get("spacing") is not None
        self._decide("image_size", choose_image_size, self.fingerprint, dims, given, budget, patch)
        return [float(side) for side in np.median(self._shapes()[:, :dims], axis=0)]

    def _shapes(self) -> np.ndarray:
        """Of the scans, by the spacing and image size decided on."""
        spacing, image_size = (self.decisions.value(name) for name in ("spacing", "image_size"))
        return self.fingerprint.resampled(spacing and tuple(spacing), image_size and tuple(image_size))

    def _decide_strides(self, dims: int, budget: int, median: Sequence[float]) -> tuple[list[Any], list[int]]:
        spacing = self.decisions.value("spacing") or self.fingerprint.median_spacing.tolist()
        sides = (*spacing, *self.fingerprint.median_spacing.tolist()[len(spacing) :])[:dims]
        channels = self.given.get(PLANNED_IDS["channels"])
        at_the_bottleneck = self.given.get(PLANNED_IDS["code_level"], FUSED_LEVEL) is None
        limits = NetworkLimits(tuple(sides), channels and len(channels) - 1, at_the_bottleneck)
        strides = self.given.get(PLANNED_IDS["strides"])
        patch = self._decide("patch_size", choose_patch_size, median, limits, budget, strides)
        strides = self._decide("strides", choose_strides, patch, limits)
        total_stride(strides, dims)
        return strides, patch

    def _choose_dims(self) -> Ruled:
        """As many as a given patch has, otherwise by :func:`choose_spatial_dims`."""
        patch = self.given.get("patch_size")
        if patch is not None:
            return Ruled(len(patch), "numbers of patch_size")
        return choose_spatial_dims(self.fingerprint, self.machine, self.demo)

    def _decide(self, name: str, rule: Callable[..., Ruled], *arguments: Any) -> Any:
        return self.decisions.decide(PLANNED_IDS[name], rule, *arguments)
