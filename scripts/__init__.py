"""Research tools, which the package does not import.

Commands renamed after version 0.7 name their successors until version 0.9.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader

__all__ = ["FORMER_NAMES"]

#: former module in this folder, and its present command
FORMER_NAMES = {
    "scripts.check_data": "vqseg check",
    "scripts.check_export": "vqseg check-export",
    "scripts.make_bundle": "vqseg bundle",
    "scripts.make_datalist": "vqseg data",
    "scripts.pack_bundle": "vqseg pack",
    "scripts.compare": "python -m scripts.comparison",
    "scripts.convert_checkpoint": "python -m scripts.published",
    "scripts.measure_alignment": "python -m scripts.alignment",
    "scripts.plot_codebook": "python -m scripts.figures codebook",
    "scripts.plot_perturbation": "python -m scripts.figures perturbation",
}


class _FormerNames(MetaPathFinder, InspectLoader):
    """Finds a module without a file for each former name, which exits and names the new command."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if fullname in FORMER_NAMES else None

    def get_source(self, fullname: str) -> str:
        return f"raise SystemExit('python -m {fullname} is now {FORMER_NAMES[fullname]}, with the same options.')"


sys.meta_path.append(_FormerNames())
