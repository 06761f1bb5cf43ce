"""VQ-Seg: semi-supervised segmentation with vector-quantised perturbation, as a MONAI bundle.

From Python: ``from vqseg_bundle import load, segment, train``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.12.2"

#: imported when they are first asked for, as MONAI takes seconds
_LATE = ("Prediction", "Predictor", "load", "segment", "train")


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("vqseg_bundle.bundle"), name)
