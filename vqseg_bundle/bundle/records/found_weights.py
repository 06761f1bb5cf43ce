"""Where evaluation and inference find their weights."""

from __future__ import annotations

import logging
from pathlib import Path

from vqseg_bundle.bundle.records.run_record import default_run

__all__ = ["find_checkpoint"]

logger = logging.getLogger(__name__)


def find_checkpoint(
    checkpoint: str | None, output_dir: str | None, bundle_root: str, own_training: bool = False
) -> Path:
    """Choose the weights for evaluation or inference, and log the choice.

    Args:
        checkpoint: an explicit file, relative to the working directory; None looks for one.
        output_dir: the first place to look, for its ``model.pt``; None skips it.
        bundle_root: the last place to look, for its ``models/model.pt``.
        own_training: without ``output_dir``, look first in the default folder of a training.

    Returns:
        The path of an existing file.

    Raises:
        FileNotFoundError: the explicit file does not exist, there is none in any place, what is in the place is none,
            or the output folder is of a training that has saved none yet.
    """
    if checkpoint is not None:
        if not Path(checkpoint).is_file():
            inside = Path(checkpoint) / "model.pt"
            advice = f"give {inside}, which is in it" if inside.is_file() else "give the path of a trained model.pt"
            raise FileNotFoundError(f"checkpoint '{checkpoint}' is not a file: {advice}.")
        logger.info("Weights: %s (key checkpoint)", checkpoint)
        return Path(checkpoint)
    trained = Path(default_run(bundle_root)) / "model.pt"
    places = {"bundle_root": Path(bundle_root) / "models" / "model.pt"}
    if output_dir is not None:
        places = {"output_dir": Path(output_dir) / "model.pt", **places}
    elif own_training:
        places = {"bundle_root, as no output_dir is given": trained, **places}
    for key, path in places.items():
        _refuse_other(path)
        if path.is_file():
            if output_dir is not None and key != "output_dir":
                key = f"{key}, as {output_dir} has no model.pt"
                if (Path(output_dir) / "resume.pt").is_file():
                    raise FileNotFoundError(
                        f"output_dir {output_dir}: its training was interrupted before it had weights to use (there is "
                        "resume.pt, but no model.pt); go on with it by --resume true."
                    )
            logger.info("Weights: %s (found by key %s)", path, key)
            if output_dir is None and path != trained and trained.is_file():
                logger.warning(
                    "%s, of a training without output_dir, is not what is used; for that give --output_dir %s.",
                    trained,
                    trained.parent,
                )
            return path
    raise FileNotFoundError(
        f"no trained weights found at {' or '.join(map(str, places.values()))}: train first "
        "(run training with the same output_dir), or name a file with the key checkpoint."
    )


def _refuse_other(path: Path) -> None:
    """Refuse what stands in the weights' place, without which those of the next place would be taken."""
    if path.is_dir():
        raise FileNotFoundError(f"{path}: expected a file of weights, found a folder; put the file there.")
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(
            f"{path}: expected a file of weights, found a link that leads nowhere ({path.readlink()}); put the file "
            "there, or take the link out."
        )
