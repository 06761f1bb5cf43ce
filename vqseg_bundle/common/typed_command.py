"""How a user types the commands of this package, for the lines that say what to type next."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["begun_by", "path_from_here", "typed_command", "vqseg_words"]

_begun: list[str] = []


def vqseg_words() -> list[str]:
    """How ``vqseg`` can be typed here: by its name if the shell finds it, else by its path or Python's."""
    if shutil.which("vqseg"):
        return ["vqseg"]
    script = Path(sys.executable).with_name("vqseg")
    return [path_from_here(str(script))] if script.is_file() else ["python", "-m", "vqseg_bundle"]


def path_from_here(place: str) -> str:
    """A path, relative to the working directory if it lies below."""
    path, here = Path(place), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


@contextmanager
def begun_by(words: Sequence[str]) -> Iterator[None]:
    """Remember what was typed while another program, such as ``monai.bundle``, runs in this process for it."""
    _begun[:] = words
    try:
        yield
    finally:
        _begun.clear()


def typed_command() -> list[str]:
    """The words of the ``vqseg`` command that runs; empty if another program was typed."""
    return list(_begun)
