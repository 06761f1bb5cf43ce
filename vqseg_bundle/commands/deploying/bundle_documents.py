"""Metadata, model card and data licence of a made bundle, in the Model Zoo's form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vqseg_bundle.commands.deploying.run_folder import FinishedRun
from vqseg_bundle.common import file_digest

__all__ = ["bundle_metadata", "data_license", "describe_cohort", "model_readme"]

_LOOK_ALIKES = {ord(sign): chr(ord(sign) + 0xFEE0) for sign in "$@%"}


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
    values = {value: labels[index] for index, value in _file_values(run.record).items()}
    prediction = {"num_channels": len(labels), "channel_def": classes, "spatial_shape": patch_size}
    formats = default["network_data_format"]
    return _as_text(
        {
            **default,
            "version": version,
            "changelog": {version: f"Trained by vqseg_bundle {run.run['versions']['vqseg_bundle']}"},
            "name": name,
            "task": f"Segmentation of {', '.join(foreground)}",
            "description": f"A network that segments {', '.join(foreground)}, trained from few labels by VQ-Seg",
            "data_source": describe_cohort(run),
            "image_classes": f"volume of {channels} channel{'s' if channels > 1 else ''}, normalised per volume",
            "label_classes": f"values in label files: {_named(values)}",
            "pred_classes": f"logits, with the channels {_named(classes)}; after postprocessing, a class map on the "
            f"image's own grid, saved with the values {_named(values)}",
            "eval_metrics": run.metrics,
            "weights_sha256": file_digest(run.folder / "model.pt"),
            "intended_use": "research; not a medical device",
            "network_data_format": {
                "inputs": {"image": {**formats["inputs"]["image"], **image}},
                "outputs": {"pred": {**formats["outputs"]["pred"], **prediction}},
            },
        }
    )


def describe_cohort(run: FinishedRun) -> str:
    """Name, numbers of cases and digest of a run's cohort."""
    counts = ", ".join(f"{count} {split}" for split, count in run.cases.items())
    cohort, digest = run.record["info"].get("cohort", "of no name"), run.run.get("data_digest")
    return f"cohort {cohort}" + (f": {counts} cases" if counts else "") + (f" (data digest {digest})" if digest else "")


def _file_values(record: Mapping[str, Any]) -> dict[int, int]:
    """Class index to its value in label files and saved class maps."""
    return {index: record["label_values"].get(index, index) for index in sorted(record["labels"])}


def _named(classes: Mapping[Any, str]) -> str:
    return ", ".join(f"{number} {name}" for number, name in classes.items())


def _as_text(content: Any) -> Any:
    """The content with look-alikes for the signs by which MONAI would evaluate a text, or read the file it names.

    MONAI parses the metadata with the configuration. Here the texts are only shown; ``model.json`` has them unchanged.
    """
    if isinstance(content, Mapping):
        return {key: _as_text(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_as_text(value) for value in content]
    if not isinstance(content, str):
        return content
    start = content[:1].translate(_LOOK_ALIKES)
    return start + re.sub("[@%](?=#)", lambda found: found[0].translate(_LOOK_ALIKES), content[1:])


def _image_channels(count: int) -> dict[str, str]:
    return {"0": "image"} if count == 1 else {str(index): f"image_{index}" for index in range(count)}


_README = """# Model overview

{description} [1]: {architecture}, {codes}.

## Data

Trained on {cohort}.
Terms of use: [data_license.txt](data_license.txt).

| class index | value in files | structure |
| --- | --- | --- |
{labels}

## Training configuration

{iterations} steps with patches of {patch_size}; `configs/train.json` has everything else as it was run.

### Memory

`cache_rate` sets the share of volumes kept in memory, `activation_checkpointing` saves memory at the cost of time,
`inference_memory_gb` limits how many slices or windows go through the network at once.

## Input and output

Input: volumes with {channels} channel(s), as NIfTI, NRRD, MHA, DICOM series, pictures or NPY. Intensities:
{normalization}.

Output: logits, whose channels are the class indices; after postprocessing, a class map on the image's own grid, saved
as NIfTI with the "value in files" of each class (by an evaluation with the values of its own label files), for DICOM
series also as DICOM SEG.

## Performance

{performance}

## MONAI bundle commands

In the bundle's folder; `configs/metadata.json` lists the packages needed (`required_packages_version`).

```sh
# segment a folder of volumes
python -m monai.bundle run --config_file configs/inference.json --dataset_dir FOLDER --output_dir OUT

# evaluate on the test cases of a datalist
python -m monai.bundle run evaluating --config_file "['configs/train.json','configs/evaluate.json']" \\
    --dataset_dir DIR --datalist DIR/datalist.json --checkpoint models/model.pt --output_dir OUT

# train with the same settings on a cohort with the same labels
python -m monai.bundle run training --config_file configs/train.json \\
    --dataset_dir DIR --datalist DIR/datalist.json --output_dir OUT

# TorchScript and ONNX
python -m monai.bundle ckpt_export --net_id network_def --filepath models/model.ts --ckpt_file models/model.pt \\
    --meta_file configs/metadata.json --config_file configs/inference.json
python -m monai.bundle onnx_export --net_id network_def --filepath models/model.onnx --ckpt_file models/model.pt \\
    --meta_file configs/metadata.json --config_file configs/inference.json
```

# System configuration

Python 3.10 or newer; a CPU is enough, CUDA is used if available. Trained with PyTorch {torch}, MONAI {monai}.

# Limitations

Research software, not a medical device.

# References

[1] Yang, Xing, Zhu. VQ-Seg: Vector-Quantized Token Perturbation for Semi-Supervised Medical Image Segmentation.
NeurIPS 2025. https://arxiv.org/abs/2601.10124

# License

Code: Apache-2.0, see [LICENSE](../LICENSE). Data: [data_license.txt](data_license.txt).
"""


def model_readme(run: FinishedRun, metadata: Mapping[str, Any]) -> str:
    """The text of ``docs/README.md``, with the Model Zoo's sections.

    Args:
        run: the run.
        metadata: the new bundle's.
    """
    network, preprocessing = run.record["network"], run.record["preprocessing"]
    return _README.format(
        description=metadata["description"],
        architecture=f"{network['spatial_dims']}D {network.get('architecture', 'U-Net')}",
        codes=_codes(network),
        cohort=describe_cohort(run),
        labels="\n".join(
            f"| {index} | {value} | {run.record['labels'][index]} |"
            for index, value in _file_values(run.record).items()
        ),
        iterations=_iterations(run),
        patch_size=" x ".join(map(str, preprocessing["patch_size"])),
        channels=network["in_channels"],
        normalization=preprocessing["normalization"],
        performance=_performance(run.metrics),
        torch=run.run["versions"]["torch"],
        monai=run.run["versions"]["monai"],
    )


def data_license(run: FinishedRun) -> str:
    """The text of ``docs/data_license.txt`` if the user gives none, to be completed."""
    return (
        "The bundle contains no data. Its weights were trained on\n"
        f"{describe_cohort(run)}.\n\n"
        "The terms of that data were not stated when the bundle was made.\n"
        "Write them here before you share the bundle.\n"
    )


def _codes(network: Mapping[str, Any]) -> str:
    """What of the network is quantised, and by how many codewords."""
    count, level = network.get("num_embeddings"), network.get("code_level")
    if not count:
        return "without quantisation"
    if level is None:  # codes at the deepest level, of which records say nothing
        return f"its bottleneck quantised by {count:,} codewords"
    also = ", and its bottleneck by as many of its own" if network.get("quantized_bottleneck") else ""
    return f"its fused features at level {level} quantised by {count:,} codewords{also}"


def _iterations(run: FinishedRun) -> str:
    count = run.config.get("max_iterations")
    return f"{count:,}" if isinstance(count, int) else "The default number of"


def _performance(metrics: Mapping[str, Any]) -> str:
    if not metrics:
        return "The run has no figures: it was trained without a validation list and not evaluated."
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    lines = ["| split | " + " | ".join(names) + " |", "| --- " * (len(names) + 1) + "|"]
    for split, values in metrics.items():
        lines.append(f"| {split} | " + " | ".join(str(values.get(name, "")) for name in names) + " |")
    note = "Means over foreground classes of the mean over cases."
    if "validation" in metrics:
        # of the two, only an evaluation counts its cases
        evaluated = "an evaluation of the weights, which were chosen on these cases"
        best = "the best during training, by which the weights were chosen"
        note += f"\nValidation: {evaluated if 'cases' in metrics['validation'] else best}."
    return "\n".join(lines) + "\n\n" + note
