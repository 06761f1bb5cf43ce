"""The file that a picture is written to."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

__all__ = ["check_output"]


def check_output(output: Path, overwrite: bool) -> None:
    """Refuse, before any work, a file that cannot or must not be written; its folder is made if missing.

    Args:
        output: the file.
        overwrite: whether it may exist.

    Raises:
        ValueError: the file exists, its folder cannot be made, or its ending is no format that matplotlib writes.
    """
    formats = Figure().canvas.get_supported_filetypes()
    if output.suffix.lstrip(".").lower() not in formats:
        raise ValueError(
            f"--output {output}: expected a file ending in one of {', '.join(sorted(formats))}, such as figure.png."
        )
    if output.exists() and not overwrite:
        raise ValueError(f"--output {output}: the file exists; give another name, or --force to overwrite it.")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--output {output}: cannot be written ({error.strerror}); give another place.") from error
