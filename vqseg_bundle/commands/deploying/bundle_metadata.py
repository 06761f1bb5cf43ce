"""``configs/metadata.json`` of a bundle made of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .run_folder import FinishedRun

__all__ = ["bundle_metadata", "describe_cohort"]


def bundle_metadata(run: FinishedRun, default: Mapping[str, Any], name: str, version: str) -> dict[str, Any]:
    """This bundle's metadata with the run's labels, sizes, data and figures.

    Args:
        run: the run.
        default: this bundle's ``configs/metadata.json``.
        name: title of the model.
        version: version of the new bundle.
    """
    labels, channels = run.record["labels"], run.record["network"]["in_channels"]
    patch_size = list(run.record["preprocessing"]["patch_size"])
    foreground = [label for index, label in sorted(labels.items()) if index > 0]
    image = {"num_channels": channels, "channel_def": _image_channels(channels), "spatial_shape": patch_size}
    # the logits' channels count up, regardless of the labels' numbers
    classes = {str(channel): labels[index] for channel, index in enumerate(sorted(labels))}
    prediction = {"num_channels": len(labels), "channel_def": classes, "spatial_shape": patch_size}
    formats = default["network_data_format"]
    return {
        **default,
        "version": version,
        "changelog": {version: f"Trained by vqseg_bundle {run.run['versions']['vqseg_bundle']}"},
        "name": name,
        "task": f"Segmentation of {', '.join(foreground)}",
        "description": f"A network that segments {', '.join(foreground)}, trained from few labels by VQ-Seg",
        "data_source": describe_cohort(run),
        "image_classes": f"volume of {channels} channel{'s' if channels > 1 else ''}, normalised per volume",
        "label_classes": ", ".join(f"{index} {label}" for index, label in sorted(labels.items())),
        "eval_metrics": run.metrics,
        "intended_use": "research; not a medical device",
        "network_data_format": {
            "inputs": {"image": {**formats["inputs"]["image"], **image}},
            "outputs": {"pred": {**formats["outputs"]["pred"], **prediction}},
        },
    }


def describe_cohort(run: FinishedRun) -> str:
    """Name, numbers of cases and digest of a run's cohort."""
    counts = ", ".join(f"{count} {split}" for split, count in run.cases.items())
    cohort, digest = run.record["info"].get("cohort", "of no name"), run.run.get("data_digest")
    return f"cohort {cohort}" + (f": {counts} cases" if counts else "") + (f" (data digest {digest})" if digest else "")


def _image_channels(count: int) -> dict[str, str]:
    return {"0": "image"} if count == 1 else {str(index): f"image_{index}" for index in range(count)}
