"""A training's snapshots of the codebook, and their positions in the pictures."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["Snapshot", "load_history", "project_codes"]

_KEYS = ("codebook", "counts", "iteration", "total_iterations", "window")


class Snapshot(NamedTuple):
    """A codebook during training; see :class:`vqseg_bundle.handlers.CodebookSnapshots`.

    Attributes:
        iteration: the step that used it.
        total_iterations: length of the training.
        window: steps whose tokens were counted.
        codebook: ``(K, D)``, float32.
        counts: ``(K,)``, int64, tokens per code.
    """

    iteration: int
    total_iterations: int
    window: int
    codebook: np.ndarray
    counts: np.ndarray

    @property
    def used(self) -> np.ndarray:
        """``(K,)``, bool: codes with at least one token."""
        return self.counts > 0


def load_history(run: Path) -> list[Snapshot]:
    """Read all snapshots of a training, in the order of their steps.

    Args:
        run: the training's output folder.

    Raises:
        FileNotFoundError: the folder or snapshots in it are missing.
        ValueError: a file is not a snapshot, or two are of different codebooks.
    """
    if not run.is_dir():
        raise FileNotFoundError(f"--run {run} is not a folder: name the output_dir of a training.")
    paths = sorted((run / "codebook").glob("iteration_*.npz"))
    if not paths:
        raise FileNotFoundError(
            f"{run / 'codebook'} holds no iteration_*.npz: a training whose network has a quantiser writes them from "
            "its first step on. Train again, or name another folder."
        )
    history = [_read(path) for path in paths]
    shapes = {snapshot.codebook.shape for snapshot in history}
    if len(shapes) > 1:
        raise ValueError(f"{run / 'codebook'}: expected snapshots of one codebook, found sizes {sorted(shapes)}.")
    return sorted(history, key=lambda snapshot: snapshot.iteration)


def project_codes(history: Sequence[Snapshot], method: str = "pca", seed: int = 0) -> list[np.ndarray]:
    """Positions of all codes in a plane common to all snapshots.

    Args:
        history: at least one snapshot.
        method: "pca", or "tsne" (needs scikit-learn; takes many minutes for 16,384 codes or more).
        seed: seed of t-SNE.

    Returns:
        ``(K, 2)`` for each snapshot.

    Raises:
        ValueError: the method is unknown, or scikit-learn is not installed.
    """
    codes = np.concatenate([snapshot.codebook for snapshot in history])
    if method == "pca":
        centered = codes - codes.mean(axis=0)
        # of the D x D matrix: a decomposition of all codes of all snapshots would be large
        _, directions = np.linalg.eigh(centered.T @ centered)
        places = centered @ directions[:, :-3:-1]
    elif method == "tsne":
        try:
            from sklearn.manifold import TSNE
        except ModuleNotFoundError as error:
            raise ValueError("--method tsne needs scikit-learn: pip install scikit-learn") from error
        perplexity = min(30.0, (len(codes) - 1) / 3)
        places = TSNE(random_state=seed, init="pca", perplexity=perplexity).fit_transform(codes)
    else:
        raise ValueError(f'method must be "pca" or "tsne", got {method!r}.')
    return np.split(places, len(history))


def _read(path: Path) -> Snapshot:
    try:
        with np.load(path, allow_pickle=False) as stored:
            missing = [key for key in _KEYS if key not in stored]
            if missing:
                raise ValueError(f"it lacks {', '.join(missing)}")
            codebook, counts = stored["codebook"].astype(np.float32), stored["counts"].astype(np.int64)
            iteration, total, window = (int(stored[key]) for key in ("iteration", "total_iterations", "window"))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: expected a snapshot of a codebook, {error}; remove it or train again.") from error
    if codebook.ndim != 2 or counts.shape != codebook.shape[:1]:
        raise ValueError(f"{path}: expected a count a code, found {counts.shape} for a codebook {codebook.shape}.")
    return Snapshot(iteration, total, window, codebook, counts)
