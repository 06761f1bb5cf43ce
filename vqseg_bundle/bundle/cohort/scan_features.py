"""Features of scans for a choice among them, after the preprocessing of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose

from vqseg_bundle import data, networks
from vqseg_bundle.bundle.cohort.run_geometry import training_orientation
from vqseg_bundle.common import LateModule, cache_folder, project_folder
from vqseg_bundle.handlers.report import middle_slice

__all__ = ["ScanFeatures"]

#: the training's settings that change what a slice looks like, with what they are here unless given
_SETTINGS = {"in_channels": 1, "slice_axis": "auto", "intensity_window": None, "spacing": None, "image_size": None}
_FOUNDATION = LateModule("vqseg_bundle.networks.foundation", "foundation")
_TRANSFORMS = ("load_image", "volume_transforms")
_LARGEST_GRID = (
    16  # patches along a side: a vector of the whole slice needs no more, and costs a fifth of the native 37
)


@dataclass(frozen=True)
class ScanFeatures:
    """Makes a vector and a picture of each scan.

    With a foundation model the vector is the mean of its patch features over evenly spaced slices; without one it is
    :func:`vqseg_bundle.data.volume_statistics`. Scans are preprocessed as in ``configs/train.json``, without padding.

    Attributes:
        images: all scans of the cohort, which determine the slice axis.
        settings: the training's ``in_channels``, ``slice_axis``, ``intensity_window``, ``spacing`` and ``image_size``.
        model: name of the foundation model, or "none".
        weights: its file; None downloads it.
        slices: number of slices, evenly spaced over the volume.
        device: the model's device.
    """

    images: Sequence[str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: str = "none"
    weights: str | None = None
    slices: int = 8
    device: str = "cpu"

    def summarize(self, progress: bool = True, use_cache: bool = True) -> list[data.ScanSummary]:
        """The vectors and pictures of all scans, in order, those made before from the user's cache folder.

        Raises:
            ValueError: a setting, the model's name or its weights are refused, or a scan's features are not finite.
            FileNotFoundError: there are no weights.
        """
        folder = cache_folder("scan_features") if use_cache else None
        return data.summarize_scans(self.images, self._summarize, folder, self._made_by(), progress)

    def _made_by(self) -> dict[str, Any]:
        """All that the features depend on, besides the scans; refuses missing weights, even if features are known."""
        if self.model == "none":
            return {"config": self._config, "features": "statistics"}
        if self.weights is None or not Path(self.weights).is_file():
            digest = f"download of {self._network.__class__.__name__}"
        else:
            digest = data.content_digest(self.weights)
        return {"config": self._config, "features": self.model, "weights": digest, "slices": self.slices}

    @cached_property
    def _config(self) -> dict[str, Any]:
        """The parts of the training's configuration that matter, and the settings."""
        config = ConfigParser.load_config_file(project_folder() / "configs" / "train.json")
        settings = {**_SETTINGS, **self.settings}
        orientation = training_orientation("", goes_on=False)
        axis = data.cohort_slice_axis(self.images, settings["slice_axis"], orientation)
        fixed = {"chosen_orientation": orientation, "chosen_slice_axis": axis, "crop_size": [1, 1, 1]}
        # each scan by itself: the features undo a cohort's scale, and a choice comes before its statistics
        fixed |= {"intensity_statistics": None, "normalize_nonzero": False, "label_padding": 0}
        return {**{key: config[key] for key in (*_TRANSFORMS, "pixdim", "resized")}, **settings, **fixed}

    @cached_property
    def _transform(self) -> Compose:
        parser = ConfigParser(self._config)
        return Compose([step for key in _TRANSFORMS for step in parser.get_parsed_content(key)])

    @cached_property
    def _network(self) -> networks.FoundationModel:
        specification = _FOUNDATION.FOUNDATION_SPECS.get(self.model)
        size = specification and min(specification.image_size, _LARGEST_GRID * specification.patch_size)
        network = networks.build_foundation_model(self.model, self.weights, size)
        if network is None:
            raise ValueError(f"foundation_model must name a model, got '{self.model}'.")
        return network.to(torch.device(self.device))

    def _summarize(self, image: str) -> data.ScanSummary:
        volume = self._transform({"image": image})["image"]
        picture, row_to_column = middle_slice(volume)
        if self.model == "none":
            return data.ScanSummary(data.volume_statistics(volume), picture, row_to_column)
        with torch.inference_mode():
            batch = volume.as_tensor()[None].to(torch.device(self.device))
            maps = self._network(batch, depth=min(self.slices, volume.shape[-1]))  # (1, channels, h, w, slices)
        return data.ScanSummary(maps.mean((2, 3, 4))[0].cpu().numpy(), picture, row_to_column)
