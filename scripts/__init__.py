"""Research tools, which the package does not import.

Commands that moved into ``vqseg`` with version 0.8 still run under their former names, with the same options.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader

__all__ = ["FORMER_NAMES"]

#: former module in this folder, and the command of ``vqseg`` that it runs
FORMER_NAMES = {
    "scripts.check_data": "check",
    "scripts.check_export": "check-export",
    "scripts.make_bundle": "bundle",
    "scripts.make_datalist": "data",
    "scripts.pack_bundle": "pack",
}


class _FormerNames(MetaPathFinder, InspectLoader):
    """Finds a module without a file for each former name, which runs the command and names it."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if fullname in FORMER_NAMES else None

    def get_source(self, fullname: str) -> str:
        command = FORMER_NAMES[fullname]
        return (
            "import sys\n"
            "from vqseg_bundle.commands.main import main\n"
            f"print('python -m {fullname} is now: vqseg {command}', file=sys.stderr)\n"
            f"main(['{command}', *sys.argv[1:]])\n"
        )


sys.meta_path.append(_FormerNames())
