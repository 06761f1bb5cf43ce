"""Types and ranges of the settings that are single values, and what a resumed training may change: one table.

Settings that a component of the configuration refuses itself, such as ``slice_axis`` or ``perturb_mode``, are not here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = ["NESTED_SETTINGS", "SETTINGS", "Setting", "check_kinds", "check_values", "has_setting"]


class Setting(NamedTuple):
    """What a setting may be.

    Attributes:
        expected: in words, for the message.
        fits: whether a value is so.
        optional: whether it may be None.
        resume: whether a resumed training may have another value: "free" without a word, "asked" with
            ``resume_changed``, or "fixed" never.
    """

    expected: str
    fits: Callable[[Any], bool]
    optional: bool = False
    resume: str = "fixed"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _flag(resume: str = "free") -> Setting:
    return Setting("true or false", lambda value: isinstance(value, bool), resume=resume)


def _whole(least: int, most: float = math.inf, resume: str = "fixed") -> Setting:
    span = f"from {least} to {most}" if most < math.inf else f"of at least {least}"
    fits = lambda value: _is_number(value) and isinstance(value, int) and least <= value <= most  # noqa: E731
    return Setting(f"a whole number {span}", fits, resume=resume)


def _positive(optional: bool = False, resume: str = "fixed") -> Setting:
    return Setting("a positive number", lambda value: _is_number(value) and value > 0, optional, resume)


def _share(most: str = "1]", resume: str = "fixed") -> Setting:
    below = most == "1)"
    return Setting(
        f"a number in [0, {most}",
        lambda value: _is_number(value) and 0 <= value <= 1 and not (below and value == 1),
        resume=resume,
    )


def _rate() -> Setting:
    # below nothing is learnt in float32, above Adam's steps are larger than any weight
    return Setting("a number from 1e-12 to 1", lambda value: _is_number(value) and 1e-12 <= value <= 1, resume="asked")


def _weight() -> Setting:
    return Setting("a number that is not negative", lambda value: _is_number(value) and value >= 0)


def _between(least: float, most: float) -> Setting:
    return Setting(f"a number from {least} to {most}", lambda value: _is_number(value) and least <= value <= most)


def _word(*words: str, resume: str = "fixed") -> Setting:
    return Setting(f"{', '.join(words[:-1])} or {words[-1]}", lambda value: value in words, resume=resume)


SETTINGS: Mapping[str, Setting] = {
    "resume": _flag(),
    "resume_changed": _flag(),
    "seed": _whole(0, 2**32 - 1),
    "rank": _whole(0, 2**31 - 1, "free"),
    "amp": Setting("true, false or auto", lambda value: isinstance(value, bool) or value == "auto", resume="asked"),
    "threads": Setting(
        "a whole number of at least 1, or auto",
        lambda value: (
            value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**15)
        ),
        resume="asked",
    ),
    "device": Setting("the name of a device", lambda value: isinstance(value, str), resume="asked"),
    "num_workers": _whole(0, 1024, "free"),
    "cache_rate": _share(resume="free"),
    "cache_on_disk": _flag(),
    "inference_memory_gb": _positive(optional=True, resume="free"),
    "activation_checkpointing": _flag(),
    "data_check": _word("full", "headers", resume="free"),
    "allow_no_labeled": _flag(),
    "allow_outside_files": _flag(),
    "uneven_slices": _word("refuse", "accept"),
    "evaluation_split": _word("test", "validation", resume="free"),
    "normalize_nonzero": _flag("fixed"),
    "in_channels": _whole(1, 10_000),
    "spatial_dims": Setting("2 or 3", lambda value: isinstance(value, int) and value in (2, 3)),
    "max_iterations": _whole(1, 10**9, "asked"),
    "time_budget": _positive(optional=True),
    "iterations_per_epoch": _whole(1, 10**9),
    "val_interval": _whole(1, 10**9, "asked"),
    "checkpoint_minutes": _positive(optional=True, resume="free"),
    "final_codebook_cases": _whole(0, 10**9, "free"),
    "labeled_batch_size": _whole(1, 100_000),
    "unlabeled_batch_size": _whole(1, 100_000),
    "learning_rate": _rate(),
    "encoder_learning_rate": _rate(),
    "ramp_up_share": _share(),
    "quarter_turns": _share(),
    "mirroring": _share(),
    "perturb_prob": _share(),
    "perturb_start_share": _share(),
    "perturb_end_share": _share(),
    "bottleneck_perturb_prob": _share(),
    "ema_decay": _share("1)"),
    "confidence_threshold": _share("1)"),
    **{f"lambda_{name}": _weight() for name in ("u", "reconstruction", "a", "commitment", "entropy", "dice")},
    "foundation_features": _word("exact", "cached"),
    "foundation_image_size": _whole(1, 10_000)._replace(optional=True),
    "foundation_feature_gb": _positive(resume="free"),
    "dicom_seg": _flag(),
    "code_reliance": _flag(),
    "process_timeout_minutes": _positive(resume="free"),
    "federated_rounds": _whole(1, 10**6),
}
"""Top-level keys of the configurations."""

_LISTS = ("train#", "train#unlabeled_", "validate#")
NESTED_SETTINGS: Mapping[str, Setting] = {
    "network_def#dropout": _share("1)"),
    "network_def#embedding_dim": _whole(1, 100_000),
    "network_def#code_level": _whole(0)._replace(optional=True),
    "network_def#quantizer#entropy_tokens": _whole(1)._replace(optional=True),
    "optimizer#lr": _rate(),
    "optimizer#weight_decay": _between(0, 10),
    "lr_scheduler#power": _between(0, 100),
    "lr_scheduler#total_iters": _whole(1),
    "codebook_maintenance#patience": _whole(0),
    "codebook_maintenance#interval": _whole(1),
    "codebook_maintenance#total_iterations": _whole(1),
    **{f"{part}dataset#cache_rate": _share() for part in _LISTS},
    **{f"{part}dataloader#batch_size": _whole(1, 100_000) for part in _LISTS},
    **{f"{part}dataloader#num_workers": _whole(0, 1024) for part in _LISTS},
    **{f"train#{part}dataloader#sampler#num_samples": _whole(1) for part in ("", "unlabeled_")},
    **{f"train#trainer#{name}": _whole(1) for name in ("max_epochs", "epoch_length", "max_iterations")},
    "train#trainer#max_grad_norm": _positive(optional=True),
    "train#trainer#ramp_up_share": _share(),
    "train#trainer#amp": _flag(),
    "train_handlers#validation#interval": _whole(1),
    "train_handlers#checkpoint#minutes": _positive(optional=True),
    "validate#inferer#overlap": _share("1)"),
    "validate#inferer#batch_size": _whole(1),
    "validate#key_metric#val_mean_dice#num_classes": _whole(2),
    "validate#evaluator#amp": _flag(),
}
"""Parts of components, most of which refuse a senseless value late or not at all."""

#: what takes them would do without, the rest of the configuration would not
_NEVER_NONE = {"record", "train#unlabeled_dataloader", "validate#inferer", "validate#key_metric"}
_REFUSED_BY_ITSELF = {"network_def::skip_connections"}  # a flag, a word or a list of both


def check_values(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with plain values of settings, one sentence each; empty if nothing is.

    Args:
        values: by key; expressions, which MONAI evaluates later, and keys without a rule are skipped.
    """
    found = []
    for key, value in values.items():
        setting = SETTINGS.get(key) or NESTED_SETTINGS.get(key)
        if setting is None or (value is None and setting.optional):
            continue
        if isinstance(value, str) and value.startswith(("$", "@")):
            continue
        if not setting.fits(value):
            also = ", or none" if setting.optional else ""
            found.append(f"--{key}: expected {setting.expected}{also}, found {value!r}.")
    return found


def has_setting(id_: str) -> bool:
    """Whether :func:`check_values` knows what an id may be, given with ``::`` between its parts."""
    return id_ in SETTINGS or id_.replace("::", "#") in NESTED_SETTINGS


def check_kinds(values: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """What is wrong with values of another kind than the configuration's own, one sentence each.

    A number may be replaced by a list, and a component by another one; a text never stands for either, nor nothing for
    a list, such as one of transforms.

    Args:
        values: by id the value in the configuration files and the one that is used; expressions are skipped.
    """
    found = []
    for key, (usual, value) in values.items():
        shown = key.replace("::", "#")
        if value is None and shown in _NEVER_NONE:
            found.append(f"--{shown}: expected a value, as in the configuration, found none. Leave --{shown} out.")
            continue
        expected = _expected_kind(usual, value)
        if expected and not has_setting(key) and key not in _REFUSED_BY_ITSELF:
            refusal = f"--{shown}: expected {expected}, as in the configuration, found {value!r}."
            found.append(f"{refusal} Give one, or leave --{shown} out.")
    return found


def _expected_kind(usual: Any, value: Any) -> str:
    """What a value should be, in words; empty if it may stand for the usual one."""
    if isinstance(value, str) and value.startswith(("$", "@")):
        return ""
    if isinstance(usual, list) and not usual:  # others are joined to it
        return "" if isinstance(value, list) else "a list"
    if value is None:
        return ""
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    if isinstance(usual, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(usual, int | float):
        return "a number" if isinstance(value, str) else ""
    if isinstance(usual, dict) and "_target_" in usual:
        fits = isinstance(value, dict) and bool({"_target_", "_disabled_"} & value.keys())
        return "" if fits else "a component"
    holds = (isinstance(usual, list | dict) and usual) or (isinstance(usual, str) and usual.startswith("@"))
    return "at least one entry" if holds and isinstance(value, list | dict) and not value else ""
