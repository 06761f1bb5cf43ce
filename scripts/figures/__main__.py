"""Draw a trained run's codebook, or the effect of perturbations: ``python -m scripts.figures codebook --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from scripts.figures import codebook, overview, perturbation
from scripts.tool import check_new, errors_told, tool_parser

__all__ = ["main"]

_FIGURES = {"codebook": codebook, "overview": overview, "perturbation": perturbation}


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the figure named by the first argument."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(prog="python -m scripts.figures", description="Draw a figure.")
    parser.add_argument("figure", choices=_FIGURES, help="the figure; FIGURE --help shows its options")
    name = parser.parse_args(words[:1]).figure
    parser = tool_parser(f"figures {name}", _FIGURES[name].DESCRIPTION, _FIGURES[name].EPILOG)
    _FIGURES[name].add_options(parser)
    parser.add_argument("--output", required=True, help=f"file of the figure, such as {name}.png")
    parser.add_argument("--force", action="store_true", help="overwrite the file")
    options = parser.parse_args(words[1:])
    with errors_told(parser):
        output = Path(options.output)
        _check_output(output, options.force)
        _FIGURES[name].draw(options, output)
        print(f"wrote {output}")


def _check_output(output: Path, overwrite: bool) -> None:
    """Refuse, before any work, a file that cannot or must not be written; its folder is created if missing."""
    formats = Figure().canvas.get_supported_filetypes()
    if output.suffix.lstrip(".").lower() not in formats:
        raise ValueError(
            f"--output {output}: expected a file ending in one of {', '.join(sorted(formats))}, such as figure.png."
        )
    check_new("--output", output, overwrite)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--output {output}: cannot be written ({error.strerror}); give another place.") from error


if __name__ == "__main__":
    main()
