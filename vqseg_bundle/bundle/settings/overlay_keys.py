"""Keys of overlays that nothing reads: mistyped ones, which MONAI adds to the configuration without a word."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from monai.bundle import DEFAULT_EXP_MGMT_SETTINGS, ConfigParser, ConfigWorkflow
from monai.bundle.reference_resolver import ReferenceResolver

from vqseg_bundle.bundle.settings.near_ids import near_ids_text
from vqseg_bundle.bundle.settings.running_workflow import WorkflowCall

__all__ = ["is_of_monai", "unread_keys"]

#: what a whole configuration has; an overlay adds to "imports" by a plus
_WHOLE = {"imports", "initialize"}
_WORD = re.compile(r"\w+")
_REFERENCE = re.compile(r"[@%](?:#|::)*(\w+)")


def unread_keys(call: WorkflowCall, former: Collection[str], running: Mapping[str, Any]) -> list[str]:
    """Refusals of the keys of overlays that no file before them has and that nothing refers to, one sentence each.

    A key may be new if an ``@id`` anywhere, an expression or a list of ids names it, if it can be run itself, is typed
    on the command line, too, or is read by MONAI (see :func:`is_of_monai`), and if it begins with an underscore. A
    configuration with imports and initialization of its own stands for itself, and so does the file of what is run,
    such as an ``evaluate.json`` over the ``train.json`` of an earlier version.

    Args:
        call: with the configuration files, of which those after the first are overlays.
        former: ids that are refused otherwise.
        running: the configuration with what the caller overrides.
    """
    contents = {file: dict(ConfigParser.load_config_file(file)) for file in call.config_files}
    read = {word for content in (*contents.values(), running) for word in _read_ids(content)}
    read |= {_first(id_) for id_ in (*call.ids, *former)}
    known: dict[str, Any] = {}
    found = []
    for number, (file, content) in enumerate(contents.items()):
        keys = {_first(key): value for key, value in content.items()}
        unread = [key for key, value in keys.items() if not (key in known or key in read or _is_run(value))]
        whole = keys.keys() >= _WHOLE or call.workflow.run_id in keys
        if number and not whole:
            others = {_first(key): value for each in contents if each != file for key, value in contents[each].items()}
            found += [_sentence(file, key, others) for key in unread if not _is_left_alone(key, call.workflow)]
        known |= keys
    return found


def is_of_monai(key: str, workflow_type: type[ConfigWorkflow]) -> bool:
    """Whether MONAI itself reads a key: an argument of the workflow, of experiment tracking, or ``_meta_``.

    Args:
        key: of the first level.
        workflow_type: the workflow's class.
    """
    own = {"workflow_name", "config_file", "args_file", ConfigParser.meta_key}
    own.update(inspect.signature(workflow_type).parameters)
    settings: Any
    for settings in DEFAULT_EXP_MGMT_SETTINGS.values():
        own.update(set(settings["configs"]).difference(settings["handlers_id"]))
    return key in own


def _is_left_alone(key: str, workflow: ConfigWorkflow) -> bool:
    run = {workflow.init_id, workflow.run_id, workflow.final_id}
    properties = {_first(each["id"]) for each in (workflow.properties or {}).values() if "id" in each}
    return key.startswith("_") or key in run | properties or is_of_monai(key, type(workflow))


def _sentence(file: Any, key: str, others: Mapping[str, Any]) -> str:
    return f"{file}: unknown key '{key}', which nothing in the configuration reads. {near_ids_text(key, others)}"


def _first(id_: str) -> str:
    """The first part of an id, without the plus of what is added to it."""
    return ReferenceResolver.split_id(ReferenceResolver.normalize_id(id_).removeprefix("+"))[0]


def _is_run(value: Any) -> bool:
    """Whether a value is a list of steps, which ``monai.bundle run ID`` takes."""
    return isinstance(value, list) and any(isinstance(item, str) and item[:1] in ("$", "@") for item in value)


def _read_ids(value: Any) -> Iterator[str]:
    """Names that a value refers to: after an ``@`` or ``%``, anywhere in an expression, or as a text of their own."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _read_ids(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _read_ids(item)
    elif isinstance(value, str):
        yield from (_WORD if value.startswith("$") else _REFERENCE).findall(value)
        if "@" not in value:
            yield _first(value) if value else value
