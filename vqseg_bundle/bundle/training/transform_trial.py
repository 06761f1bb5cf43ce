"""One case through each chain of transforms before a training begins, so that a chain that cannot work is refused."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from monai.bundle import ConfigParser
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

from vqseg_bundle.bundle.settings.components import build_cleanly
from vqseg_bundle.bundle.training.step_trial import random_states_kept
from vqseg_bundle.common import process_rank
from vqseg_bundle.data import DataError

__all__ = ["try_transforms"]

logger = logging.getLogger(__name__)


def try_transforms(chains: Sequence[Mapping[str, Any]], parser: ConfigParser) -> None:
    """Prepare the first case of each list as a training would; nothing is kept, random states are as before.

    Args:
        chains: each with "id", such as "train#preprocessing"; "cases", its list; "axes", the spatial axes of what it
            makes; "views", names of further images that it must make, if any.
        parser: the running configuration's.

    Raises:
        SystemExit: a chain fails, or does not make what the training takes; the message names the chain.
        Exception: the same failure in Python's development mode (``python -X dev``), to see where.
    """
    if process_rank() != 0:
        return
    for chain in chains:
        if not chain["cases"]:
            continue
        id_, case = chain["id"].replace("::", "#"), chain["cases"][0]  # MONAI writes # as ::
        build_cleanly([id_], parser)
        with random_states_kept():
            made = _prepared(id_, parser.get_parsed_content(id_), case)
        names = [str(Keys.IMAGE), *([str(Keys.LABEL)] if "label" in case else []), *chain.get("views", ())]
        for name in dict.fromkeys(names):
            _check(id_, name, made.get(name), chain["axes"])


def _prepared(id_: str, transform: Any, case: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        made = transform(dict(case))
    except Exception as error:  # whatever a transform raises
        if sys.flags.dev_mode:
            raise
        logger.debug("refused transforms", exc_info=True)
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, DataError):
            cause = cause.__cause__
        if isinstance(cause, DataError):
            raise SystemExit(str(cause)) from error
        reason = (str(cause).strip().splitlines() or [""])[0]
        raise SystemExit(
            f"{id_}: {case.get('case', 'the first case')} cannot be prepared ({type(cause).__name__}: {reason}). "
            "Correct the transforms that you have given; python -X dev shows where it fails."
        ) from error
    made = made[0] if isinstance(made, Sequence) and made else made
    return made if isinstance(made, Mapping) else {}


def _check(id_: str, name: str, found: Any, axes: int) -> None:
    if not isinstance(found, Tensor) or found.ndim != axes + 1:
        shown = f"shape {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise SystemExit(
            f'{id_}: expected transforms that make "{name}" of channels and {axes} spatial axes, found '
            f"{'none' if found is None else shown}; give the transforms that are missing."
        )
