"""The figure of a codebook: its evolution, the use of its codes, and the codes of an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure

from scripts.figures.codebook_history import Snapshot
from scripts.figures.token_map import TokenMap
from vqseg_bundle.handlers import codebook_perplexity

__all__ = ["save_codebook_figure", "sorted_shares"]

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
