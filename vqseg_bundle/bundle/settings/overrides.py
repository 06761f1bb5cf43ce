"""Read ``--key value`` on the command line of ``monai.bundle`` as a user would expect."""

from __future__ import annotations

import atexit
import gc
import inspect
import logging
import os
import sys
import warnings
from collections.abc import Mapping
from os import PathLike
from pydoc import ErrorDuringImport, locate
from typing import Any

from monai.bundle import ConfigComponent, ConfigParser
from monai.bundle.reference_resolver import ReferenceResolver

from vqseg_bundle.bundle.machine.processes import end_on_signals
from vqseg_bundle.bundle.settings.argument_types import check_arguments
from vqseg_bundle.bundle.settings.near_ids import near_ids_text
from vqseg_bundle.bundle.settings.overlay_keys import is_of_monai, unread_keys
from vqseg_bundle.bundle.settings.overlay_order import overruled_settings, undone_parts
from vqseg_bundle.bundle.settings.read_parts import check_parts
from vqseg_bundle.bundle.settings.running_workflow import (
    WorkflowCall,
    find_call,
    is_command_line,
    running_parser,
    typed_words,
)
from vqseg_bundle.bundle.settings.setting_table import NESTED_SETTINGS, check_kinds, check_values
from vqseg_bundle.common import expand_user, print_any_name

__all__ = ["adapt_tracking", "prepare_overrides"]

logger = logging.getLogger(__name__)

_HANDLERS, _SETTINGS, _TARGET = "train#handlers", "tracking_handler", "MLFlowHandler"


def adapt_tracking(parser: ConfigParser) -> None:
    """Give the trainer's MLFlowHandler, added by ``--tracking``, the arguments in "tracking_handler".

    MONAI's default reads one loss from the first item of a decollated output; the semi-supervised trainer has named
    terms and does not decollate. MONAI also writes a second copy of the configuration as an artifact, named by the text
    of "output_dir", which fails if a config leaves that open: a config sets ``"save_execute_config": false`` and names
    its own files in "tracking_handler".

    Args:
        parser: the running configuration, not yet parsed; unchanged without ``--tracking`` or the key.
    """
    settings = parser.get(_SETTINGS)
    if settings is None:
        return
    handlers = parser.get(_HANDLERS)
    if handlers:
        # new mappings: the existing one is MONAI's own default, which later runs in this process read
        parser[_HANDLERS] = [
            {**handler, **settings} if isinstance(handler, dict) and handler.get("_target_") == _TARGET else handler
            for handler in handlers
        ]


_PATHS = (
    *("bundle_root", "dataset_dir", "datalist", "output_dir", "checkpoint", "encoder_weights", "foundation_weights"),
    "foundation_feature_dir",
    "plan_file",
    "initial_weights",
    "plan_output",
)
#: ids of 0.7 and before; an overlay that still sets one would be ignored
_FORMER_IDS = {
    "trained": "train#trainer#network",
    "deployed": "teacher",
    "load_transforms": "load_image and load_label",
    "image_transforms": "volume_transforms",
    "label_transforms": "volume_transforms, for images and labels",
}
#: warnings, by how they begin, of MONAI and PyTorch about MONAI's own code, which a user can do nothing about
_IDLE_WARNINGS = (
    "NvImgCodecPydicomReader",
    "Using a non-tuple sequence for multidimensional indexing",
    "User provided device_type of 'cuda'",
    "monai.metrics.utils get_mask_edges:always_return_as_numpy",
    "`?torch.cuda.amp.GradScaler",
)
_WORDS: dict[str, bool | None] = {"none": None, "true": True, "false": False}


def prepare_overrides() -> None:
    """Check and complete the overrides given to ``monai.bundle`` (see :mod:`running_workflow` for the call).

    An id in no config file is refused, with the nearest known ones. Accepted unchanged are the arguments of the
    workflow itself (``run_id``, ``meta_file``, ``logging_file``, ``tracking``, ...), those of experiment tracking
    (``experiment_name``, ``run_name``, ...), ``_meta_``, and further arguments of a component (``optimizer#eps``).

    The words none, true and false (any case) become None, True and False, except for a key to which a config file
    itself gives that word as text: with ``"foundation_model": "none"`` both ``--foundation_model none`` and
    ``--foundation_model None`` give the text "none". A None passed from code is ignored, as MONAI documents it.

    Paths are taken literally: ``--dataset_dir 20240131``, ``(a,b)`` or ``true`` is a folder of that name; only none is
    not a path. Quotes around one are part of a name that exists, and otherwise left out. A leading ``~`` is the user's
    folder, as no shell expands it in ``--output_dir=~/OUT``; a folder of that name is ``./~``.

    Raises:
        SystemExit: an id to override, or the id to run, is unknown or of an earlier version; the message names it and
            the nearest known ids, or the new one. Or a setting has a value of the wrong type or range, or an id one
            without parts that the configuration reads; or an overlay undoes an earlier one, or has a key that nothing
            reads.
        RuntimeError: called outside a config expression.
    """
    call = find_call()
    if call is None:
        running_parser().parse(reset=True)
        return
    parser = call.workflow.parser
    declared = ConfigParser(ConfigParser.load_config_files(call.config_files))
    ids = [id_ for id_ in call.ids if not is_of_monai(ReferenceResolver.split_id(id_)[0], type(call.workflow))]
    paths = {key: _expanded(key, path) for key, path in _given_paths(call).items()}
    _refuse_evaluated_paths(paths)
    if is_command_line():
        print_any_name()
        end_on_signals()
        # Python's last collection would look at a million objects of modules, for two seconds
        atexit.register(gc.freeze)
        for message in _IDLE_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
    for key, path in paths.items():
        parser[key] = path
    refusals = [_refusal(id_, declared, parser) for id_ in ids if not _is_known(id_, declared, parser)]
    refusals += _former_ids(parser) + undone_parts(call.config_files)
    refusals += unread_keys(call, _FORMER_IDS, parser.get())
    if is_command_line() and call.workflow.run_id not in parser:
        refusals.append(
            f"Unknown id '{call.workflow.run_id}' to run. {near_ids_text(call.workflow.run_id, declared.get())}"
        )
    if refusals:
        raise SystemExit("\n".join([*refusals, f"Configuration: {', '.join(map(str, call.config_files))}."]))
    for sentence in overruled_settings(call.config_files):
        logger.warning(sentence)
    # only the word none clears a path; true and false are names
    names = {key for key, path in paths.items() if str(path).lower() != "none"}
    _set_words(parser, [id_ for id_ in ids if id_ not in names], call)
    nested = {key: value for key in NESTED_SETTINGS if (value := parser.get(key)) is not None}
    given = {id_: (_usual(id_, declared, parser), parser.get(id_)) for id_ in ids}
    refusals = check_values({**parser.get(), **nested}) + check_kinds(given)
    refusals = refusals or check_parts({id_: value for id_, (_, value) in given.items()}, parser.get())
    refusals = refusals or check_arguments(given, parser)
    if refusals:
        raise SystemExit("\n".join(refusals))
    adapt_tracking(parser)
    parser.parse(reset=True)


def _given_paths(call: WorkflowCall) -> dict[str, Any]:
    """Path by key, as typed; the command line's parser would make 20240131 a number, (a,b) a tuple, and a#b an a."""
    paths = {key: value for key, value in call.values.items() if key in _PATHS}
    if is_command_line():
        typed = {key: word for key, word in typed_words(sys.argv[1:]).items() if key in paths}
        # that parser removes quotes within the shell's own, which may be part of a name
        unquoted = {key for key, word in typed.items() if word[:1] in "'\"" and isinstance(paths[key], str)}
        paths |= {key: word for key, word in typed.items() if key not in unquoted or os.path.lexists(word)}
    return paths


def _expanded(key: str, value: Any) -> Any:
    """A path, or each of those between the commas of "checkpoint", with the user's folder in place of ``~``."""
    if not isinstance(value, str | PathLike):
        return value
    text = os.fspath(value)
    several = key == "checkpoint" and "," in text and not os.path.lexists(expand_user(text))
    found = ",".join(expand_user(part.strip()) for part in text.split(",")) if several else expand_user(text)
    return value if found == text else found


def _refuse_evaluated_paths(paths: Mapping[str, Any]) -> None:
    """Refuse paths that MONAI would evaluate because of their first character, or split at a ``#``."""
    for key, value in paths.items():
        if not isinstance(value, str | PathLike):
            dash = ", and ./-x for a name such as -x" if value is True else ""
            raise SystemExit(f"--{key}: expected a path, found {value!r}. Give a path, in a file in quotes{dash}.")
        value = str(value)
        if not value:
            raise SystemExit(f"--{key}: expected a path, found an empty text. Give a path, or leave --{key} out.")
        if value.startswith(("$", "@")):
            raise SystemExit(
                f"--{key}: expected a path, found '{value}', which MONAI would evaluate because of its first sign. "
                f"Write ./{value} for a file or folder of that name."
            )
        if "#" in value:
            raise SystemExit(
                f"--{key}: expected a path without #, which MONAI would read as ::, found '{value}'. Rename the "
                "folder, or give a link to it."
            )


def _is_known(id_: str, declared: ConfigParser, running: ConfigParser) -> bool:
    if id_ in declared:
        return True
    arguments = _arguments(id_, running)
    name = ReferenceResolver.split_id(id_)[-1]
    return arguments is not None and (not arguments or name in arguments or name in ConfigComponent.non_arg_keys)


def _arguments(id_: str, running: ConfigParser) -> list[str] | None:
    """List the arguments of the component above ``id_``: [] if it takes any, None if it is not a component."""
    parameters = _parameters(id_, running)
    if parameters is None:
        return None
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return [] if takes_any else list(parameters)


def _parameters(id_: str, running: ConfigParser) -> Mapping[str, inspect.Parameter] | None:
    """Those of the component above ``id_``: empty if they are unknown, None if it is not a component."""
    parent_id = ReferenceResolver.split_id(id_, last=True)[0]
    config = running.get(parent_id) if parent_id else None
    if config is None or not ConfigComponent.is_instantiable(config):
        return None
    target: Any = ConfigComponent(config, locator=running.locator).resolve_module_name()
    try:
        target = locate(target) if isinstance(target, str) else target
        return inspect.signature(target).parameters
    except (TypeError, ValueError, ErrorDuringImport):
        return {}


def _usual(id_: str, declared: ConfigParser, running: ConfigParser) -> Any:
    """The configuration's own value, or, for a text that is given to another argument, that argument's default."""
    if id_ in declared or not isinstance(running.get(id_), str):
        return declared.get(id_)
    parameter = (_parameters(id_, running) or {}).get(ReferenceResolver.split_id(id_)[-1])
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def _refusal(id_: str, declared: ConfigParser, running: ConfigParser) -> str:
    shown = id_.replace(ReferenceResolver.sep, "#")
    parent = shown.rpartition("#")[0]
    arguments = [f"{parent}#{name}" for name in _arguments(id_, running) or []]
    return f"Unknown key '--{shown}'. {near_ids_text(shown, declared.get(), arguments)}"


def _former_ids(parser: ConfigParser) -> list[str]:
    """Refusals of former ids, unless the whole configuration is of then."""
    if "volume_transforms" not in parser:
        return []
    return [f"'{old}' of version 0.7 and before is now {new}." for old, new in _FORMER_IDS.items() if old in parser]


def _set_words(parser: ConfigParser, ids: list[str], call: WorkflowCall) -> None:
    """Replace the words none, true and false by their values."""
    files = [ConfigParser.load_config_file(path) for path in call.config_files]
    texts = {
        (ReferenceResolver.normalize_id(key), value.lower())
        for content in files
        for key, value in content.items()
        if isinstance(value, str)
    }
    for id_ in ids:
        value = "none" if id_ in call.none_ids else parser.get(id_)
        if not isinstance(value, str) or value.lower() not in _WORDS:
            continue
        word = value.lower()
        parser[id_] = word if (id_, word) in texts else _WORDS[word]
