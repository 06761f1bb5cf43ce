"""Configurations of a bundle made of a run: the run's network, labels and preprocessing become its defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from .run_folder import FinishedRun

__all__ = ["COPIED_CONFIGS", "find_local_paths", "inference_config", "literal", "processes_config", "training_config"]

#: configurations that fit any network and are copied unchanged
COPIED_CONFIGS = ("evaluate.json", "inference_trt.json", "logging.conf", "multi_gpu_evaluate.json")
#: settings of the machine, the data and this one training, which do not belong in a shared bundle
_PLACES = (
    "bundle_root",
    "dataset_dir",
    "datalist",
    "output_dir",
    "checkpoint",
    "initial_weights",
    "plan_file",
    "resume",
    "resume_changed",
    "data_check",
    "allow_outside_files",
    "device",
    "amp",
    "threads",
    "num_workers",
    "foundation_weights",
    "foundation_feature_dir",
    "encoder_weights",
)
#: planned since 0.10 for the machine and the cohort; earlier runs refer to no plan for them
_PLANNED_PLACES = ("cache_rate", "cache_on_disk", "time_budget")
_TRACKING = ("tracking_uri", "experiment_name", "run_name", "execute_config", "save_execute_config")
_TRACKER = "MLFlowHandler"
_PREPROCESSING = (
    "spatial_dims",
    "in_channels",
    "slice_axis",
    "spacing",
    "image_size",
    "patch_size",
    "intensity_window",
)
#: in the records of 0.9 and later
_SINCE_0_9 = ("intensity_statistics", "normalize_nonzero")


def training_config(run: FinishedRun, default: Mapping[str, Any], processes: Mapping[str, Any]) -> dict[str, Any]:
    """``configs/train.json`` of the new bundle: the run's, without its paths.

    Labels and preprocessing are written out, so they no longer depend on the cohort; training on a cohort with other
    labels ends with a message.

    Args:
        run: the run.
        default: this bundle's ``configs/train.json``.
        processes: this bundle's ``configs/multi_gpu_train.json``; its changes to a run in several processes are undone.
    """
    config: dict[str, Any] = _without_tracker(run.config)
    if "chosen_orientation" not in config:
        config = _with_orientation(config)
    if "label_values" not in config:
        config = _with_label_values(config, default)
    if "distributed" in config:
        config = _in_one_process(config, default, processes)
        if "trained" in config:  # of 0.7 and before, where several processes shared it in place of the trainer's
            config["trained"] = "$@training_module.to(@device)"
    for key in (*_PLACES, *_TRACKING):
        if key in default:
            config[key] = default[key]
        elif key in _TRACKING:
            config.pop(key, None)
        elif key in config:
            config[key] = None
    if set(_PLANNED_PLACES) <= set(config):
        config |= {key: default[key] for key in _PLANNED_PLACES if key in default}
    config |= {key: literal(run.record["preprocessing"].get(key)) for key in _PREPROCESSING}
    config |= {key: literal(value) for key, value in run.record["preprocessing"].items() if key in _SINCE_0_9}
    config["labels"] = literal(run.record["labels"])
    config["same_labels"] = (
        "$@cohort.labels == @labels or sys.exit('the cohort has the labels ' + str(@cohort.labels) + ', this bundle is "
        "of a model with ' + str(@labels) + ': give a cohort with the same by dataset_dir or datalist.')"
    )
    config["initialize"] = _checking_labels(config["initialize"])
    return config


def processes_config(default: Mapping[str, Any]) -> dict[str, Any]:
    """``configs/multi_gpu_train.json`` of the new bundle, which checks the labels as its ``train.json`` does."""
    return {**default, "initialize": _checking_labels(default["initialize"])}


def inference_config(run: FinishedRun, default: Mapping[str, Any]) -> dict[str, Any]:
    """``configs/inference.json`` of the new bundle, which includes its network, labels and preprocessing.

    Args:
        run: the run.
        default: this bundle's ``configs/inference.json``.
    """
    sections = {key: run.record[key] for key in ("network", "labels", "preprocessing")}
    return {**default, "untrained": literal(sections)}


def find_local_paths(config: Any, prefix: str = "") -> Iterator[str]:
    """Ids under which a configuration still has an absolute path.

    Args:
        config: a configuration or a part of one.
        prefix: the part's id.
    """
    if isinstance(config, str) and not config.startswith(("$", "@")) and Path(config).is_absolute():
        yield prefix
    items = config.items() if isinstance(config, Mapping) else enumerate(config) if isinstance(config, list) else ()
    for key, value in items:
        yield from find_local_paths(value, f"{prefix}#{key}" if prefix else str(key))


def literal(value: Any) -> Any:
    """A value for a configuration that MONAI does not evaluate, whatever texts it holds.

    MONAI runs a text that starts with ``$``, replaces ``@name`` anywhere in an expression, ``@#`` and ``%#`` in any
    text, and reads the file that a text starting with ``%`` names. A value with texts thus becomes an expression that
    is one Python literal, without these signs.

    Args:
        value: of JSON's types; mappings may have whole numbers as keys.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    text = repr(value)
    for sign in "@%#":
        text = text.replace(sign, f"\\x{ord(sign):02x}")
    return f"${text}"


def _checking_labels(initialize: list[Any]) -> list[Any]:
    """The check goes before the other checks, after the bundle is on the path and the overrides are read."""
    first = initialize.index("@check") if "@check" in initialize else len(initialize)
    return [*initialize[:first], "@same_labels", *initialize[first:]]


def _with_orientation(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run of 0.6 or earlier used the stored orientation of volumes, which an evaluation may override."""
    return {
        **config,
        "trained_orientation": None,
        "chosen_orientation": "@trained_orientation",
        "preprocessing_record": {**config["preprocessing_record"], "orientation": "@trained_orientation"},
        "load_transforms": [
            *config["load_transforms"],
            {
                "_target_": "vqseg_bundle.data.OrientVolumed",
                "_disabled_": "$@chosen_orientation is None",
                "keys": "image",
                "orientation": "@chosen_orientation",
            },
        ],
    }


def _with_label_values(config: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """A run of 0.6 or earlier knew only class indices in label files; another cohort may have other values."""
    loads = [
        {**step, "label_values": "@label_values"} if isinstance(step, Mapping) and step.get("is_label") else step
        for step in config["load_transforms"]
    ]
    return {**config, "label_values": default["label_values"], "load_transforms": loads}


def _in_one_process(
    config: Mapping[str, Any], default: Mapping[str, Any], processes: Mapping[str, Any]
) -> dict[str, Any]:
    parser, defaults = ConfigParser(dict(config)), ConfigParser(dict(default))
    for id_ in processes:
        if id_ in defaults:
            parser[id_] = defaults[id_]
        else:
            parser.get().pop(id_, None)
    return dict(parser.get())


def _without_tracker(config: Any) -> Any:
    if isinstance(config, Mapping):
        return {key: _without_tracker(value) for key, value in config.items()}
    if isinstance(config, list):
        kept = [item for item in config if not (isinstance(item, Mapping) and item.get("_target_") == _TRACKER)]
        return [_without_tracker(item) for item in kept]
    return config
