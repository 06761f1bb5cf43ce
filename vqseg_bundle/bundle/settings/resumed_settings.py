"""Whether a resumed training has the settings and data of the interrupted one."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from vqseg_bundle import __version__, data
from vqseg_bundle.bundle.settings.setting_table import SETTINGS
from vqseg_bundle.common import process_rank, read_json, shell_line

__all__ = ["check_unchanged"]

logger = logging.getLogger(__name__)

#: parts of a configuration that do not change what is learnt, or that are compared by what they lead to
_OTHERS = (
    *(
        "bundle_root",
        "dataset_dir",
        "datalist",
        "output_dir",
        "checkpoint",
        "initial_weights",
        "imports",
        "initialize",
        "run",
        "training",
    ),
    *("tracking_uri", "tracking_handler", "experiment_name", "run_name", "save_execute_config", "execute_config"),
    *("foundation_weights", "foundation_feature_dir", "encoder_weights", "evaluating", "_meta_"),
    *("check", "start", "build", "validate", "validation_handlers"),
)
#: handlers that an experiment's tracking, or a look at a training, adds
_ADDED = "train#handlers"


def check_unchanged(
    output_dir: str, resume: bool, resume_changed: bool, cohort: data.Cohort, parser: ConfigParser
) -> None:
    """Refuse to resume a training with other settings or data than the interrupted one's; nothing is written.

    Compared are the digest of the data and all plain values; one that only one configuration has counts if the other is
    of the same version of the bundle. Expressions are not compared, since they depend on the machine. The accepted
    differences are logged; ``resumed_config.json`` records the settings.

    Args:
        output_dir: folder with ``config.json`` and ``run.json`` of the interrupted training.
        resume: whether to resume.
        resume_changed: accept other values of settings that may change, and of arguments of components, see
            :data:`~vqseg_bundle.bundle.settings.setting_table.SETTINGS`.
        cohort: the opened cohort.
        parser: the running configuration's.

    Raises:
        SystemExit: they differ; the message lists the differences and what to do.
    """
    if not resume or process_rank() != 0:
        return
    folder = Path(output_dir)
    former = _read(folder / "resumed_config.json") or _read(folder / "config.json")
    record = _read(folder / "run.json")
    same_version = record.get("versions", {}).get("vqseg_bundle") == __version__
    differences = dict(_differences(former, parser.get(), same_version))
    fixed = [text for key, text in differences.items() if _may_change(key) == "fixed"]
    asked = [text for key, text in differences.items() if _may_change(key) == "asked"]
    digest = record.get("data_digest")
    found = data.data_digest(cohort, known=digest)
    if digest not in (None, found):
        fixed.append(f"the data: digest {str(digest)[:12]}, now {found[:12]} (cases, splits, labels or files' content)")
    if fixed or (asked and not resume_changed):
        remedy = "Resume with those of the interrupted training"
        if not fixed:
            remedy += ", or accept these by --resume_changed true"
        elif digest not in (None, found):
            remedy += ", or train anew (leave resume out), or fine-tune in another output_dir: "
            remedy += shell_line(["--initial_weights", str(folder / "model.pt")])
        listing = "".join(f"\n  {text}" for text in fixed + asked)
        raise SystemExit(f"resume: settings differ from those of the training in {output_dir}:{listing}\n{remedy}.")
    for text in asked:
        logger.warning("resumed with a changed setting: %s", text)


def _differences(former: Mapping[str, Any], now: Mapping[str, Any], same_version: bool) -> Iterator[tuple[str, str]]:
    """Id and description of each plain value that differs, or, of the same version, that only one of them has."""
    before, after = dict(_leaves(former)), dict(_leaves(now))
    for key, value in after.items():
        found = before.get(key, value)
        if found != value and not (_is_expression(found) or _is_expression(value)):
            yield key, f"{key}: {found!r}, now {value!r}"
    if former and same_version:
        yield from _given_once(before, after, "{}: {}, now not given")
        yield from _given_once(after, before, "{}: not given, now {}")


def _given_once(values: Mapping[str, Any], others: Mapping[str, Any], text: str) -> Iterator[tuple[str, str]]:
    """What only the first has; of a component that the other lacks, only its id."""
    known = {_beginning(key, count) for key in others for count in range(1, key.count("#") + 2)}
    for key, value in values.items():
        if key in known or key.startswith(_ADDED) or _is_expression(value):
            continue
        beginnings = (_beginning(key, count) for count in range(1, key.count("#") + 2))
        absent = next(each for each in beginnings if each not in known)
        yield absent, text.format(absent, repr(value) if absent == key else "given")


def _beginning(key: str, count: int) -> str:
    return "#".join(key.split("#")[:count])


def _is_expression(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("$", "@"))


def _leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(config, Mapping):
        for key, value in config.items():
            if prefix or key not in _OTHERS:
                yield from _leaves(value, f"{prefix}#{key}" if prefix else str(key))
    elif isinstance(config, list | tuple) and any(isinstance(item, Mapping) for item in config):
        for index, value in enumerate(config):
            yield from _leaves(value, f"{prefix}#{index}")
    elif isinstance(config, list | tuple):
        yield prefix, list(config)
    else:
        yield prefix, config


def _may_change(key: str) -> str:
    setting = SETTINGS.get(key)
    if setting is not None:
        return setting.resume
    # sizes and the like, which the model's record holds, too, are told apart there
    return "asked" if "#" in key else "fixed"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        # runs of early versions have no such file, and a lost record must not cost the training
        return {}
    return content if isinstance(content, dict) else {}
