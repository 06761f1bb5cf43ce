"""Information that MONAI does not pass to config expressions: their parser, and the arguments of ``monai.bundle``.

MONAI evaluates ``initialize`` with only the configuration's own values. It has no reference to the parser, no record of
which values the caller overrode, and has already dropped those given as None. Both are found on the call stack, here
and nowhere else: configurations take the parser once, as the id ``parser``, and pass it on as an argument.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from types import FrameType
from typing import Any, NamedTuple

from monai.bundle import ConfigParser, ConfigWorkflow, create_workflow
from monai.bundle.reference_resolver import ReferenceResolver
from monai.utils import ensure_tuple

__all__ = ["WorkflowCall", "find_call", "is_command_line", "running_parser", "typed_words"]

_FLAG = re.compile(r"--|-[A-Za-z]")


class WorkflowCall(NamedTuple):
    """The arguments of MONAI's ``create_workflow``.

    Attributes:
        workflow: the workflow it makes.
        config_files: in the order of merging.
        ids: overridden ids, including those in ``args_file``.
        none_ids: ids given as None on the command line.
        values: value by id as given, except None.
    """

    workflow: ConfigWorkflow
    config_files: tuple[str, ...]
    ids: list[str]
    none_ids: list[str]
    values: dict[str, Any]


def running_parser(parser: ConfigParser | None = None) -> ConfigParser:
    """The parser that evaluates the calling config expression; ``running_parser().get()`` is its config.

    Args:
        parser: returned unchanged; None, as in configurations of 0.7 and earlier, looks for it.

    Raises:
        RuntimeError: called outside a config expression.
    """
    if parser is not None:
        return parser
    for frame in _callers():
        owner = frame.f_locals.get("self")
        if isinstance(owner, ConfigParser):
            return owner
    raise RuntimeError("running_parser() works only inside a config expression, such as one of `initialize`.")


def find_call() -> WorkflowCall | None:
    """The ``create_workflow`` that initialises the nearest workflow on the stack, if it was made that way."""
    workflow: ConfigWorkflow | None = None
    for frame in _callers():
        owner = frame.f_locals.get("self")
        if workflow is None:
            workflow = owner if isinstance(owner, ConfigWorkflow) else None
        elif owner is not workflow:
            return _read_call(workflow, frame) if frame.f_code is create_workflow.__code__ else None
    return None


def is_command_line() -> bool:
    """Whether ``python -m monai.bundle`` is running."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name == "monai.bundle.__main__"


def typed_words(arguments: Sequence[str]) -> dict[str, str]:
    """The words typed after each ``--key`` or ``-key`` or in ``--key=word``, by key; the last one counts."""
    words: dict[str, str] = {}
    for word, following in zip_longest(arguments, arguments[1:], fillvalue="--"):
        name, sign, value = word.lstrip("-").partition("=")
        if _FLAG.match(word) and (sign or not _FLAG.match(following)):
            words[name.replace("-", "_")] = value if sign else following
    return words


def _callers() -> Iterator[FrameType]:
    frame = inspect.currentframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def _read_call(workflow: ConfigWorkflow, frame: FrameType) -> WorkflowCall:
    arguments = inspect.getargvalues(frame)
    given: dict[str, Any] = arguments.locals[arguments.keywords or "kwargs"]
    stored: dict[str, Any] = {}
    args_file = arguments.locals["args_file"] or ()
    for source in [args_file] if isinstance(args_file, dict) else ensure_tuple(args_file):
        stored.update(source if isinstance(source, dict) else ConfigParser.load_config_file(source))
    # MONAI merges a key that starts with "+" into the one without it
    ids = [ReferenceResolver.normalize_id(key).removeprefix("+") for key in {**stored, **given}]
    none_ids = [ReferenceResolver.normalize_id(key) for key, value in given.items() if value is None]
    config_file = arguments.locals["config_file"] or stored.get("config_file")
    values = {key: value for key, value in {**stored, **given}.items() if value is not None}
    return WorkflowCall(workflow, ensure_tuple(config_file), ids, none_ids if is_command_line() else [], values)
