"""The image decoder for an evaluation's pictures, which deployed weights do not include."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vqseg_bundle import networks
from vqseg_bundle.handlers import read_checkpoint

__all__ = ["open_reconstructor"]

logger = logging.getLogger(__name__)

_TEACHER = "module."


def open_reconstructor(record: Mapping[str, Any], device: str) -> networks.ImageReconstructor | None:
    """The image decoder of deployed weights, from the training's ``resume.pt`` beside them.

    That file has the teacher at the end of the training. It is used only if the deployed weights are this teacher's:
    with a validation list they may be from an earlier step, with another image decoder.

    Args:
        record: the weights' record, with "checkpoint" and "network".
        device: the device.

    Returns:
        None if the file is missing, has no image decoder, or belongs to other weights.
    """
    checkpoint = Path(record["checkpoint"])
    resume = checkpoint.parent / "resume.pt"
    if not record["network"].get("reconstruction") or not resume.is_file():
        return None
    try:
        teacher = read_checkpoint(resume)["teacher"]
        network = networks.build_network(record["network"])
        state = {key.removeprefix(_TEACHER): value for key, value in teacher.items() if key.startswith(_TEACHER)}
        network.load_state_dict(state)
        deployed = read_checkpoint(checkpoint)
    except (RuntimeError, LookupError, AttributeError, TypeError, ValueError) as error:
        logger.warning("The report goes without reconstructions: %s cannot be used (%s).", resume, error)
        return None
    if not _are_equal(network.deployed_state_dict(), deployed):
        logger.info("The report goes without reconstructions: %s is of another step than %s.", resume, checkpoint)
        return None
    return networks.ImageReconstructor(network.eval()).to(torch.device(device))


def _are_equal(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())
