"""Whether a resumed training has the settings and data of the interrupted one."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from vqseg_bundle import data
from vqseg_bundle.bundle.settings.setting_table import SETTINGS
from vqseg_bundle.common import process_rank, read_json

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


def check_unchanged(
    output_dir: str, resume: bool, resume_changed: bool, cohort: data.Cohort, parser: ConfigParser
) -> None:
    """Refuse to resume a training with other settings or data than the interrupted one's; nothing is written.

    Compared are the digest of the data and all plain values that both configurations have. Expressions are not, since
    they depend on the machine. The accepted differences are logged; ``resumed_config.json`` records the settings.

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
    differences = dict(_differences(former, parser.get()))
    fixed = [text for key, text in differences.items() if _may_change(key) == "fixed"]
    asked = [text for key, text in differences.items() if _may_change(key) == "asked"]
    digest, found = _read(folder / "run.json").get("data_digest"), data.data_digest(cohort)
    if digest not in (None, found):
        fixed.append(f"the data: digest {str(digest)[:12]}, now {found[:12]} (cases, splits, labels or files' content)")
    if fixed or (asked and not resume_changed):
        remedy = "Resume with those of the interrupted training"
        if not fixed:
            remedy += ", or accept these by --resume_changed true"
        listing = "".join(f"\n  {text}" for text in fixed + asked)
        raise SystemExit(f"resume: settings differ from those of the training in {output_dir}:{listing}\n{remedy}.")
    for text in asked:
        logger.warning("resumed with a changed setting: %s", text)


def _differences(former: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Id and description of each plain value that differs."""
    before, after = dict(_leaves(former)), dict(_leaves(now))
    for key, value in after.items():
        if before.get(key, value) != value:
            yield key, f"{key}: {before[key]!r}, now {value!r}"


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
    elif not (isinstance(config, str) and config.startswith(("$", "@"))):
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
