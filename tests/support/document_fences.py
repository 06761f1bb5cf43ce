"""The fenced blocks of the documents, and how their commands are made short; of the standard library alone."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["LANGUAGES", "SHORT_TRAINING", "Fence", "commands", "read_fences", "shortened"]

#: of a block after ``` ; "text" is what a command printed, "mermaid" a diagram
LANGUAGES = ("sh", "python", "json", "text", "mermaid")

#: what a training in a document is run with, in place of what is written there
SHORT_TRAINING = {
    "max_iterations": 2,
    "iterations_per_epoch": 2,
    "labeled_batch_size": 1,
    "unlabeled_batch_size": 1,
    "device": "cpu",
}
_FENCE = re.compile(r"^```(?P<language>\S*)[^\n]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"(?:^|(?<=\s))#.*$", re.MULTILINE)
_REASON = re.compile(r"<!-- not run: ((?:(?!-->).)+) -->\n\Z", re.DOTALL)


class Fence(NamedTuple):
    """A fenced block.

    Attributes:
        place: document and line, to name it by.
        language: what stands after the backticks.
        text: what stands between them.
        reason: why the tests do not run it, from ``<!-- not run: REASON -->`` on the line before; None where they do.
    """

    place: str
    language: str
    text: str
    reason: str | None


def read_fences(document: Path) -> list[Fence]:
    """All blocks of a document, in their order."""
    content = document.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(content):
        before = content[: match.start()]
        reason = _REASON.search(before)
        place = f"{document.parent.name}/{document.name}, line {before.count(chr(10)) + 1}"
        found.append(Fence(place, match["language"], match["text"], reason and reason[1]))
    return found


def commands(text: str) -> list[list[str]]:
    """The words of each command of a shell block: a line, or several that backslashes join."""
    lines = _COMMENT.sub("", text.replace("\\\n", " ")).splitlines()
    return [words for words in map(shlex.split, lines) if words]


def shortened(words: Sequence[str]) -> list[str]:
    """A command as it is run: a training with :data:`SHORT_TRAINING`, anything else as it is."""
    words = list(words)
    if not ("train" in words or ("monai.bundle" in words and "training" in words)):
        return words
    for key, value in SHORT_TRAINING.items():
        option = f"--{key}"
        if option in words:
            words[words.index(option) + 1] = str(value)
        else:
            words += [option, str(value)]
    return words
