"""Shared parts of the research tools: a parser, errors as messages, writing of files and documents."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["check_new", "errors_told", "markers", "tool_parser", "write_between_markers"]


def tool_parser(name: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """The parser of a tool.

    Args:
        name: name of the tool, after ``python -m scripts.``.
        description: what it does.
        epilog: what it shows or writes, and examples; printed verbatim.
    """
    return argparse.ArgumentParser(
        prog=f"python -m scripts.{name}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


@contextmanager
def errors_told(parser: argparse.ArgumentParser) -> Iterator[None]:
    """End with status 2 and the message of a ``ValueError`` or ``OSError``, without a traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


def check_new(option: str, path: Path, overwrite: bool) -> None:
    """Refuse, before any work, to overwrite a file.

    Raises:
        ValueError: it exists and must not.
    """
    if path.exists() and not overwrite:
        raise ValueError(f"{option} {path}: the file exists; give another name, or --force to overwrite it.")


def markers(name: str) -> tuple[str, str]:
    """The comments around the part of a document that a tool writes."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def write_between_markers(document: Path, name: str, text: str) -> None:
    """Replace the part of a document between the markers of a name.

    Raises:
        ValueError: the document lacks the markers, or has several or in the wrong order.
    """
    begin, end = markers(name)
    old = document.read_text(encoding="utf-8")
    if old.count(begin) != 1 or old.count(end) != 1 or old.index(begin) > old.index(end):
        raise ValueError(f"{document}: expected one line {begin} and below it one line {end}; add them.")
    head, tail = old[: old.index(begin)], old[old.index(end) :]
    document.write_text(f"{head}{begin}\n\n{text}\n\n{tail}", encoding="utf-8")
