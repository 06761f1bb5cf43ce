"""The figure of a codebook: ``python -m scripts.figures codebook --help``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure

from scripts.figures.codebook_history import Snapshot, load_history, project_codes
from scripts.figures.token_map import TokenMap, map_tokens
from scripts.figures.trained_network import display_slice, load_case, open_trained
from vqseg_bundle.handlers import codebook_perplexity

__all__ = ["DESCRIPTION", "EPILOG", "add_options", "draw", "save_codebook_figure", "sorted_shares"]

_COLUMNS = 3
_USED, _UNUSED = "tab:blue", "0.72"
_METHODS = {"pca": "principal components", "tsne": "t-SNE"}


def sorted_shares(counts: np.ndarray) -> np.ndarray:
    """Share of tokens of each code in use, the most used first.

    Args:
        counts: tokens per code, ``(K,)``.

    Returns:
        one number per code in use; they sum to 1.
    """
    held = np.sort(counts[counts > 0])[::-1]
    return held / max(1, held.sum())


def save_codebook_figure(
    history: Sequence[Snapshot],
    places: Sequence[np.ndarray],
    path: Path,
    method: str = "pca",
    tokens: TokenMap | None = None,
    title: str = "",
) -> None:
    """Draw the snapshots, their use and, if given, the tokens of a slice.

    Args:
        history: at least one snapshot.
        places: positions of the codes of each, ``(K, 2)``.
        path: file to write, in the format of its ending.
        method: method of the positions, for the caption.
        tokens: tokens of a slice, or None.
        title: title of the slice.
    """
    rows = -(-len(history) // _COLUMNS)
    figure = Figure(figsize=(9.0, 2.7 * rows + 3.1), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[2.7 * rows, 3.1]).ravel()
    _draw_evolution(above, history, places)
    above.suptitle(f"codebook during training, {_METHODS[method]}; codes in use blue, the others grey", fontsize=10)
    panels = below.subplots(1, _COLUMNS if tokens is not None else 2, squeeze=False)[0]
    _draw_use(panels[0], history)
    if tokens is None:
        _draw_course(panels[1], history)
    else:
        _draw_image(panels[1], tokens)
        panels[1].set_title(title, fontsize=9)
        _draw_tokens(panels[2], tokens)
        for panel in panels[1:]:
            panel.set_xticks([])
            panel.set_yticks([])
    figure.savefig(path, dpi=85)


def _draw_evolution(figure: Any, history: Sequence[Snapshot], places: Sequence[np.ndarray]) -> None:
    rows = -(-len(history) // _COLUMNS)
    panels = figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False).flatten()
    for panel, snapshot, place in zip(panels, history, places, strict=False):
        for chosen, color, size in ((~snapshot.used, _UNUSED, 3), (snapshot.used, _USED, 6)):
            panel.scatter(*place[chosen].T, s=size, color=color, linewidths=0)
        share = snapshot.iteration / snapshot.total_iterations
        use = f"{snapshot.used.sum():,} of {len(snapshot.counts):,} codes hold {snapshot.counts.sum():,} tokens"
        panel.set_title(f"step {snapshot.iteration:,} ({share:.0%})\n{use}", fontsize=8.5)
        panel.set_xticks([])
        panel.set_yticks([])
    for panel in panels[len(history) :]:
        panel.set_axis_off()


def _draw_use(panel: Any, history: Sequence[Snapshot]) -> None:
    shades = colormaps["viridis"](np.linspace(0.0, 0.9, len(history)))
    for snapshot, color in zip(history, shades, strict=True):
        shares = sorted_shares(snapshot.counts)
        perplexity = codebook_perplexity(torch.from_numpy(snapshot.counts))
        label = f"step {snapshot.iteration:,}: {perplexity:.0f}"
        panel.plot(np.arange(1, len(shares) + 1), shares, color=color, label=label)
    panel.set_yscale("log")
    panel.set_xlabel("code, most used first", fontsize=8.5)
    panel.set_ylabel("share of the tokens", fontsize=8.5)
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.25)
    panel.legend(title="perplexity", fontsize=7, title_fontsize=7.5)


def _draw_course(panel: Any, history: Sequence[Snapshot]) -> None:
    steps = [snapshot.iteration for snapshot in history]
    used = [snapshot.used.sum() for snapshot in history]
    perplexity = [codebook_perplexity(torch.from_numpy(snapshot.counts)) for snapshot in history]
    panel.plot(steps, used, marker="o", label="codes in use")
    panel.plot(steps, perplexity, marker="o", label="perplexity")
    panel.axhline(len(history[0].counts), color="0.6", linestyle="--", linewidth=0.8, label="codes")
    panel.set_ylim(bottom=0)
    panel.set_xlabel("step", fontsize=8.5)
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.25)
    panel.legend(fontsize=7)


def _draw_image(panel: Any, tokens: TokenMap) -> np.ndarray:
    image = tokens.view.show(tokens.image)
    panel.imshow(image, cmap="gray", aspect=tokens.view.aspect)
    return image


def _draw_tokens(panel: Any, tokens: TokenMap) -> None:
    height, width = _draw_image(panel, tokens).shape
    places = tokens.view.show(tokens.places)
    codes = tokens.tokens.ravel()
    panel.imshow(tokens.colors[codes[places]], alpha=0.65, aspect=tokens.view.aspect, interpolation="nearest")
    rows, columns = (np.flatnonzero(np.diff(line)) + 0.5 for line in (places[:, 0], places[0]))
    panel.hlines(rows, -0.5, width - 0.5, color="white", linewidth=0.3)
    panel.vlines(columns, -0.5, height - 0.5, color="white", linewidth=0.3)
    shown = np.unique(places)
    panel.set_title(f"its {len(shown)} tokens, {len(np.unique(codes[shown]))} codes", fontsize=9)


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
