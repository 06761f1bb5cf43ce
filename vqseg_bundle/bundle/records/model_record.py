"""The record beside the weights: ``model.json`` has everything needed to use ``model.pt``.

Evaluation and inference read network, labels and preprocessing from it, so that inference needs no datalist and weights
are never applied with a configuration other than their own.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vqseg_bundle.common import json_value, permission_text, read_json, write_json
from vqseg_bundle.data import channel_key, channels_differ, check_orientation, name_slice_axis, parse_label_values
from vqseg_bundle.handlers import read_checkpoint
from vqseg_bundle.networks import VQNetwork

__all__ = [
    "SCHEMA_VERSION",
    "check_compatible",
    "check_files_hold",
    "load_model_record",
    "load_weights",
    "model_record",
    "write_model_record",
]

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
_SECTIONS = ("network", "labels", "preprocessing", "info")
_ABSENT = "(not given)"


def model_record(
    network: Mapping[str, Any],
    labels: Mapping[Any, str],
    preprocessing: Mapping[str, Any],
    info: Mapping[str, Any],
    label_values: Mapping[int, int] | None = None,
) -> dict[str, Any]:
    """The content of ``model.json`` beside ``model.pt``.

    Args:
        network: constructor arguments of the deployed network.
        labels: class index (an int or its text) to class name, background included.
        preprocessing: the steps before the network, such as ``spatial_dims``, ``orientation``, ``slice_axis``,
            ``patch_size``, ``image_size``, ``spacing`` (mm) and ``normalization``.
        info: anything else worth knowing, such as the iteration, the validation score or the cohort's digest.
        label_values: class index to its value in label files and written predictions; None or empty for class indices.

    Raises:
        ValueError: a label index is not a whole number.
    """
    record = {
        "schema_version": SCHEMA_VERSION,
        "network": dict(network),
        "labels": {str(index): name for index, name in sorted(_integer_keys(labels, "labels").items())},
        "preprocessing": dict(preprocessing),
        "info": dict(info),
    }
    if label_values:
        record["label_values"] = {str(index): value for index, value in label_values.items()}
    return record


def write_model_record(path: str | Path, *sections: Mapping[Any, Any], **more: Any) -> None:
    """Write the record of a model, atomically.

    Args:
        path: the file to write, ``model.json`` beside ``model.pt``.
        sections: see :func:`model_record`.
        more: further sections, by name.

    Raises:
        ValueError: see :func:`model_record`, or a value cannot be written as JSON.
    """
    write_json(path, model_record(*sections, **more))


def load_model_record(checkpoint: str | Path) -> dict[str, Any]:
    """Read the record beside a checkpoint, ``model.json`` for ``model.pt``.

    Args:
        checkpoint: path of the weights.

    Returns:
        The sections ``network``, ``labels`` (int to name), ``preprocessing`` and ``info``, ``label_values`` (int to
        int, empty for class indices), and ``schema_version``.

    Raises:
        FileNotFoundError: the checkpoint has no record.
        ValueError: the record cannot be read, is not JSON, of another schema version, or lacks a section.
    """
    path = Path(checkpoint).with_suffix(".json")
    try:
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} not found: {Path(checkpoint).name} cannot be used without the record that training writes "
                "beside it. Copy it from the training's output_dir, or train again."
            )
        record = read_json(path)
    except PermissionError as error:
        raise ValueError(permission_text(error)) from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); copy it again or train again.") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(record).__name__}.")
    if record.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"{path}: key 'schema_version' must be {SCHEMA_VERSION}, got {record.get('schema_version')!r}: "
            "the model was written by another version of this bundle; train again or use that version."
        )
    for section in _SECTIONS:
        if not isinstance(record.get(section), dict):
            raise ValueError(f"{path}: key '{section}' must hold a JSON object, got {record.get(section)!r}.")
    record["labels"] = _integer_keys(record["labels"], f"{path}: key 'labels'")
    # records of 0.6 and earlier lack the key
    where = f"{path}: key 'label_values'"
    record["label_values"] = parse_label_values(record.get("label_values"), len(record["labels"]), where)
    return record


def load_weights(network: VQNetwork, checkpoint: str | Path) -> None:
    """Load weights early enough to refuse a mismatch with a message, unlike a MONAI engine.

    Args:
        network: receives the weights; they may lack its image decoder.
        checkpoint: path of the weights.

    Raises:
        ValueError: the file cannot be read, or has no weights, non-finite ones, or those of another network.
    """
    try:
        state = read_checkpoint(Path(checkpoint))
    except ValueError as error:
        if isinstance(error.__cause__, PermissionError):
            raise
        raise ValueError(
            f"{error} Copy the file again, or name other weights; a training that is gone on with (--resume true) or "
            "started anew writes it anew."
        ) from error
    try:
        network.load_state_dict(state, strict=False)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise ValueError(f"{checkpoint}: {error}") from error


def check_compatible(record: Mapping[str, Any], **expected: Mapping[Any, Any]) -> None:
    """Refuse weights for another network, other labels or another preprocessing.

    Args:
        record: from :func:`load_model_record`.
        expected: section name to its content in the configuration, e.g. ``network={...}, labels={...}``. Both sides
            must have the same keys; considered equal are tuples and lists, a label index and its text, an axis of
            volumes with a known orientation and its name, and no orientation and None.

    Raises:
        ValueError: a section is unknown or differs; each differing key is named with both values.
    """
    differences = []
    for section, wanted in expected.items():
        if section not in _SECTIONS:
            raise ValueError(f"section must be one of {', '.join(_SECTIONS)}, got '{section}'.")
        trained, asked = (_comparable(section, values) for values in (record[section], wanted))
        for key in dict.fromkeys([*trained, *asked]):
            old, new = trained.get(key, _ABSENT), asked.get(key, _ABSENT)
            if old != new:
                differences.append(f"  {section}#{key}: weights {old}, configuration {new}")
    if differences:
        raise ValueError(
            "The checkpoint does not fit the configuration:\n" + "\n".join(differences) + "\n"
            "Use the configuration it was trained with, or another checkpoint."
        )


def check_files_hold(
    record: Mapping[str, Any], channel_names: Sequence[str], label_values: Mapping[int, int] | None = None
) -> None:
    """Refuse a cohort whose files have other channels than the weights', or channels or classes in another order.

    Args:
        record: from :func:`load_model_record`.
        channel_names: of the cohort's images, empty if unknown; of one channel they are not considered. Names of a
            sequence of MRI are equal if they mean the same; others that differ are only logged.
        label_values: class index to its value in the cohort's labels, empty for class indices; None ignores them, as in
            an evaluation, whose classes do not depend on them.

    Raises:
        ValueError: they differ.
    """
    _check_channels([str(name) for name in record["info"].get("channel_names", [])], channel_names)
    if label_values is not None and dict(label_values) != record["label_values"]:
        known, given = (list(values.values()) or "class indices" for values in (record["label_values"], label_values))
        raise ValueError(
            f"label_values: the training had {known}, the datalist says {given}; resume with the datalist of the "
            "interrupted training, or train anew."
        )


def _check_channels(trained: Sequence[str], given: Sequence[str]) -> None:
    keys = [[channel_key(name) for name in names] for names in (trained, given)]
    if len(trained) < 2 or not given or keys[0] == keys[1]:
        return
    found = f"channel_names: the weights were trained on channels {', '.join(trained)}, here they are"
    if sorted(keys[0]) == sorted(keys[1]):
        raise ValueError(f"{found} in the order {', '.join(given)}; list each image's files as the training did.")
    if channels_differ(trained, given):
        raise ValueError(
            f"{found} {', '.join(given)}; list the same files of each image as the training did, or use weights of "
            "these channels."
        )
    logger.warning("%s called %s; see that each is the same.", found, ", ".join(given))


def _comparable(section: str, values: Mapping[Any, Any]) -> dict[str, Any]:
    plain = _plain(values)
    if section == "network" and isinstance(plain.get("quantizer"), dict):
        # what belongs to the training, not the network: records of 0.7 and earlier have the first, of 0.9 the second
        for key in ("commitment_cost", "entropy_tokens"):
            plain["quantizer"].pop(key, None)
    if section != "preprocessing":
        return plain
    plain.setdefault("orientation", None)  # records of 0.6 and earlier lack the key
    plain.setdefault("intensity_statistics", None)  # and those of 0.8 and earlier these two
    plain.setdefault("normalize_nonzero", False)
    if "slice_axis" in plain:
        check_orientation(plain["orientation"])
        plain["slice_axis"] = name_slice_axis(plain["slice_axis"], plain["orientation"])
    return plain


def _plain(section: Mapping[Any, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(dict(section), default=json_value))


def _integer_keys(labels: Mapping[Any, str], where: str) -> dict[int, str]:
    try:
        return {int(index): str(name) for index, name in labels.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} must map whole numbers to class names, got {dict(labels)}.") from error
