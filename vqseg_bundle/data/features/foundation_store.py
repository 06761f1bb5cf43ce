"""Where a foundation model's features of whole slices lie on disk: one file a case, named by what made it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vqseg_bundle.common import replacing

from ..formats.volume_io import source_files
from .slice_grid import SliceGridRule

__all__ = ["FoundationFeatureStore", "content_digest", "load_features", "open_feature_store", "save_features"]

_BLOCK = 2**20
_FORMAT = 1  # of the files; a change of what is computed or how it is laid out needs another number


@dataclass(frozen=True)
class FoundationFeatureStore:
    """Feature files of some images.

    A file holds float16 ``(D, channels, h, w)``: the ``D`` slices of the preprocessed image, each on the grid that
    ``rule`` chooses for its size. It holds paths alone and so costs a worker process nothing.

    Args:
        folder: the folder of the files.
        files: path of an image to the name of its file.
        rule: chooses the slices' grids.
    """

    folder: Path
    files: Mapping[str, str]
    rule: SliceGridRule

    def path(self, image: str) -> Path:
        """The file of an image, which may not exist yet.

        Raises:
            ValueError: the image is none of the store's.
        """
        name = self.files.get(_key(image))
        if name is None:
            raise ValueError(
                f"{image}: its foundation-model features were not asked for before the training. List the case under "
                '"training" or "unlabeled" of the datalist, or use foundation_features \'exact\'.'
            )
        return self.folder / name


def open_feature_store(
    folder: str | Path, images: Iterable[str], rule: SliceGridRule, made_by: Mapping[str, Any]
) -> FoundationFeatureStore:
    """Name the file of every image by a digest of the image's content and of all that its features depend on.

    Runs that share a folder thus find each other's files where, and only where, they would compute the same.

    Args:
        folder: the folder of the files; made if missing.
        images: paths of images; repeated ones count once.
        rule: chooses the slices' grids.
        made_by: model, weights and preprocessing, as JSON.

    Raises:
        FileNotFoundError: an image is missing.
        ValueError: ``made_by`` has no JSON form.
    """
    try:
        recipe = json.dumps({"format": _FORMAT, "rule": vars(rule), "made_by": dict(made_by)}, sort_keys=True)
    except TypeError as error:
        raise ValueError(f"made_by must hold what JSON can, got {made_by}: {error}.") from error
    Path(folder).mkdir(parents=True, exist_ok=True)
    files = {}
    for image in dict.fromkeys(map(_key, images)):
        digest = hashlib.sha256(f"{recipe} {content_digest(image)}".encode()).hexdigest()
        files[image] = f"{digest[:32]}.npy"
    return FoundationFeatureStore(Path(folder), files, rule)


def content_digest(path: str | Path) -> str:
    """SHA-256 of a file, or of all files of a DICOM series."""
    digest = hashlib.sha256()
    for source in source_files(str(path)):
        with Path(source).open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def save_features(path: Path, features: np.ndarray) -> None:
    """Write features in one step, so that a file is either whole or not there.

    Args:
        path: the file to write.
        features: ``(D, channels, h, w)``; stored as float16.

    Raises:
        ValueError: a feature is not finite, or too large for float16.
    """
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(features, dtype=np.float16)
    if not np.isfinite(stored).all():
        raise ValueError(
            f"foundation_features 'cached': features up to {float(np.abs(features).max()):g} do not fit float16, which "
            "they are stored in; use foundation_features 'exact'."
        )
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, stored)


def load_features(path: str | Path) -> np.ndarray:
    """Map a file into memory: what is read of it stays in the system's page cache, which processes share.

    Raises:
        ValueError: the file is missing or damaged.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path}: these foundation-model features are missing or damaged ({error}). Delete the file and start "
            "again (resume goes on from the last checkpoint): it will be computed anew."
        ) from error


def _key(image: str) -> str:
    # the form in which LoadImaged keeps the name of what it read
    return str(Path(image).expanduser())
