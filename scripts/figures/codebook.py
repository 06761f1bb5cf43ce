"""The figure of a codebook's evolution during training and its use."""

from __future__ import annotations

import argparse
from pathlib import Path

from scripts.figures.codebook_figure import save_codebook_figure
from scripts.figures.codebook_history import load_history, project_codes
from scripts.figures.token_map import map_tokens
from scripts.figures.trained_network import display_slice, load_case, open_trained

__all__ = ["DESCRIPTION", "EPILOG", "add_options", "draw"]

DESCRIPTION = "Draw how a codebook changed during training, and how it is used."
EPILOG = """what it shows:
  the codebook at the snapshots in RUN/codebook, all in one plane, with codes in use marked; the share of tokens per
  code; with --image, a slice and its tokens in the colours of their codes, similar codes in similar colours (network:
  RUN/model.pt)

examples:
  python -m scripts.figures codebook --run OUT --output codebook.png
  python -m scripts.figures codebook --run OUT --image DIR/images/a.nii.gz --method tsne --output codebook.png
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command-line options of the figure."""
    add = parser.add_argument
    add("--run", required=True, help="output folder of a training")
    add("--image", help="a volume whose tokens are shown")
    add("--slice", type=int, help="number of the slice shown, from 0 (default: the middle one)")
    add("--method", choices=("pca", "tsne"), default="pca", help="default: pca; tsne: scikit-learn")
    add("--seed", type=int, default=0, help="of t-SNE")


def draw(options: argparse.Namespace, output: Path) -> None:
    """Draw the figure, and print the number of codes in use."""
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
