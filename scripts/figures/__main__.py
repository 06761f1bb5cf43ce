"""Draw a trained run's codebook, or what a perturbation does: ``python -m scripts.figures codebook --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from scripts.figures import codebook, overview, perturbation

__all__ = ["main"]

_FIGURES = {"codebook": codebook.main, "overview": overview.main, "perturbation": perturbation.main}


def main(arguments: Sequence[str] | None = None) -> None:
    """Hand the words behind the figure's name to the figure."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(prog="python -m scripts.figures", description="Draw a figure.")
    parser.add_argument("figure", choices=_FIGURES, help="which; FIGURE --help tells its options")
    _FIGURES[parser.parse_args(words[:1]).figure](words[1:])


if __name__ == "__main__":
    main()
