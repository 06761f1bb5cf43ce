"""Documents of which a part is written by a script: the part lies between two marker comments."""

from __future__ import annotations

from pathlib import Path

__all__ = ["markers", "write_between_markers"]


def markers(name: str) -> tuple[str, str]:
    """The comments that begin and end the part of that name."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def write_between_markers(document: Path, name: str, text: str) -> None:
    """Replace what a document holds between the markers of a name.

    Args:
        document: Markdown file.
        name: of the part, such as "benchmark".
        text: new content.

    Raises:
        ValueError: the document lacks the markers, has several, or has them the wrong way round.
    """
    begin, end = markers(name)
    old = document.read_text(encoding="utf-8")
    if old.count(begin) != 1 or old.count(end) != 1 or old.index(begin) > old.index(end):
        raise ValueError(f"{document}: expected one line {begin} and below it one line {end}; add them.")
    head, tail = old[: old.index(begin)], old[old.index(end) :]
    document.write_text(f"{head}{begin}\n\n{text}\n\n{tail}", encoding="utf-8")
