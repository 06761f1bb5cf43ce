"""Draw how a codebook changed during training, and how it is used: ``python -m scripts.figures codebook --help``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from scripts.figures.codebook_figure import save_codebook_figure
from scripts.figures.codebook_history import load_history, project_codes
from scripts.figures.outcome import check_output
from scripts.figures.token_map import map_tokens
from scripts.figures.trained_network import display_slice, load_case, open_trained

__all__ = ["main"]

_EPILOG = """what it shows:
  the codebook at the snapshots in RUN/codebook, all in one plane, codes in use told from the others; the share of the
  tokens that each code holds; with --image, a slice and its tokens, each in the colour of its code: like codes, like
  colours (network: RUN/model.pt)

examples:
  python -m scripts.figures codebook --run OUT --output codebook.png
  python -m scripts.figures codebook --run OUT --image DIR/images/a.nii.gz --method tsne --output codebook.png
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the figure."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        _draw(options)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    except ModuleNotFoundError as error:
        if error.name != "sklearn":
            raise
        parser.exit(2, f"{parser.prog}: error: --method tsne needs scikit-learn: pip install scikit-learn\n")


def _draw(options: argparse.Namespace) -> None:
    output = Path(options.output)
    check_output(output, options.force)
    run = Path(options.run)
    history = load_history(run)
    tokens, title = None, ""
    if options.image:
        trained = open_trained(run / "model.pt")
        case = load_case(trained, Path(options.image), None)
        number = display_slice(case, options.slice)
        tokens, title = map_tokens(trained, case, number), f"{case.name}, slice {number}"
    if options.method == "tsne":
        print(f"t-SNE of {sum(len(snapshot.counts) for snapshot in history):,} codes, a minute or more")
    places = project_codes(history, options.method, options.seed)
    save_codebook_figure(history, places, output, options.method, tokens, title)
    for snapshot in history:
        print(f"step {snapshot.iteration:>7,}: {snapshot.used.sum():,} of {len(snapshot.counts):,} codes in use")
    print(f"wrote {output}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.figures codebook",
        description=__doc__.split(":", maxsplit=1)[0] if __doc__ else None,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", required=True, help="output folder of a training")
    parser.add_argument("--image", help="a volume whose tokens are shown")
    parser.add_argument("--slice", type=int, help="number of the slice shown, from 0 (default: the middle one)")
    parser.add_argument("--method", choices=("pca", "tsne"), default="pca", help="default: pca; tsne: scikit-learn")
    parser.add_argument("--seed", type=int, default=0, help="of t-SNE")
    parser.add_argument("--output", required=True, help="file of the figure, such as codebook.png")
    parser.add_argument("--force", action="store_true", help="overwrite the file")
    return parser
