"""MONAI Label's application for bundles, with an order of its own in which to label: its ``main.py``.

MONAI Label takes strategies and scores from its application, never from a bundle. So this file takes the place of the
``main.py`` of the application for bundles, which becomes ``monaibundle_main.py`` beside it (docs/monai-label.md). It
runs in the server's environment; the package is found once a bundle has been opened.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import monaibundle_main
import numpy as np
from monai.transforms import SaveImaged
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.tasks.infer.bundle import BundleInferTask

__all__ = ["LeastSure", "UncertaintyScoring", "VQSegApp"]

logger = logging.getLogger(__name__)

#: what tells scans apart depends on these of the model's settings
_SETTINGS = ("in_channels", "slice_axis", "intensity_window", "spacing", "image_size")


class UncertaintyScoring(ScoringMethod):
    """Notes of each image how unsure the model is of it and what it looks like, for :class:`LeastSure`.

    The uncertainty is that of ``vqseg choose --model``, measured while the image is segmented. Only images without a
    label that these weights have not scored yet are segmented.

    Args:
        model: name of the bundle.
        bundle: its folder.
        task: segments an image; writes nothing.
    """

    def __init__(self, model: str, bundle: str, task: BundleInferTask) -> None:
        super().__init__(f"How unsure {model} is of each image: the entropy where it sees structures")
        self.key = _note_key(model)
        self.model_file = Path(bundle) / "models" / "model.json"
        self.task = task

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any]:
        """Score the images that can be used; returns how many there are in all, and how many were segmented."""
        from vqseg_bundle.bundle import ScanFeatures

        weights = self.model_file.with_suffix(".pt").stat().st_mtime
        preprocessing = json.loads(self.model_file.read_text(encoding="utf-8"))["preprocessing"]
        listed = datastore.list_images()
        images = _usable({image: datastore.get_image_uri(image) for image in listed}, preprocessing)
        settings = {key: preprocessing[key] for key in _SETTINGS}
        summaries = ScanFeatures(list(images.values()), settings).summarize(progress=False)
        unlabeled, segmented = set(datastore.get_unlabeled_images()), 0
        self.task.clear_cache()  # the weights may be new
        for (image, path), summary in zip(images.items(), summaries, strict=True):
            note = dict(datastore.get_image_info(image).get(self.key, {}))
            note["features"] = [round(float(value), 6) for value in summary.features]
            if image in unlabeled and note.get("weights") != weights:
                device = {"device": request["device"]} if "device" in request else {}
                _, data = self.task({"image": path, "logging": "error", "cache_transforms": False, **device})
                note |= {"uncertainty": float(data["uncertainty"]), "weights": weights, "time": int(time.time())}
                segmented += 1
            datastore.update_image_info(image, {self.key: note})
        self.task.clear_cache()
        return {"total": len(listed), "executed": segmented}


class LeastSure(Strategy):
    """Names the next image to label as ``vqseg choose --model --count 1`` does.

    Of the third of the images that the model is least sure of, it is the one that stands for most of those that are
    unlike what is labelled, or was named since the last scores. When all have been named, it begins again.

    Args:
        model: name of the bundle, whose scores are read.
    """

    def __init__(self, model: str) -> None:
        super().__init__(f"Among the images that {model} is least sure of, one unlike those labelled or named before")
        self.key = _note_key(model)

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any] | None:
        """The image's id; without scores the first one in the alphabet; None if all are labelled."""
        from vqseg_bundle.data import choose_rows, least_sure, standardize

        unlabeled = sorted(datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels")))
        infos = {image: datastore.get_image_info(image) for image in sorted(datastore.list_images())}
        notes = {image: info[self.key] for image, info in infos.items() if self.key in info}
        scored = [image for image in unlabeled if "uncertainty" in notes.get(image, {})]
        if not scored:
            logger.warning("%s: no image has a score yet; run the scoring", request["strategy"])
            return {"id": unlabeled[0]} if unlabeled else None
        named = {image: infos[image].get("strategy", {}).get(request["strategy"], {}).get("ts", -1) for image in scored}
        candidates = [image for image in scored if named[image] < notes[image]["time"]] or scored
        others = [image for image in notes if image not in candidates and (image not in unlabeled or image in scored)]
        features = np.array([notes[image]["features"] for image in [*candidates, *others]])
        eligible = least_sure([notes[image]["uncertainty"] for image in candidates], 1)
        fixed = range(len(candidates), len(features))
        image = candidates[choose_rows(standardize(features), 1, fixed, eligible=eligible).chosen[0]]
        return {"id": image, "uncertainty": notes[image]["uncertainty"]}


class VQSegApp(monaibundle_main.MyApp, MONAILabelApp):  # MONAI Label finds it by its own class among the direct bases
    """The application for bundles with a strategy and its scores for each model, in place of epistemic scores."""

    def init_strategies(self) -> dict[str, Strategy]:
        """Ours first, so that it is what Slicer offers first."""
        return {**{f"uncertainty_{model}": LeastSure(model) for model in self.models}, **super().init_strategies()}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """One for each model, of the model's name."""
        from vqseg_bundle.data import SaveDicomSegd

        writers = [SaveImaged, SaveDicomSegd]
        tasks = {
            model: BundleInferTask(bundle, self.conf, skip_writer=True, post_filter=writers)
            for model, bundle in self.models.items()
        }
        return {model: UncertaintyScoring(model, self.models[model], task) for model, task in tasks.items()}


def _usable(images: dict[str, str], preprocessing: dict[str, Any]) -> dict[str, str]:
    """The images without those that cannot be used, of which each is logged with the reason."""
    from vqseg_bundle.data import check_cases

    cases = [{"image": path} for path in images.values()]
    clipped = bool(preprocessing["intensity_window"])
    checked = check_cases(cases, {}, preprocessing["in_channels"], clipped=clipped)
    for error in checked.errors:
        logger.warning("not scored: %s", error)
    sound = {case["image"] for case in checked.sound}
    return {image: path for image, path in images.items() if path in sound}


def _note_key(model: str) -> str:
    """Where an image's note lies in the datastore."""
    return f"vqseg_{model}"
