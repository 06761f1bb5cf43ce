"""The entry point of all commands: ``vqseg --help``."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

__all__ = ["COMMANDS", "main"]

#: module and purpose of each command; a module has ``main(arguments)`` and is imported when its command is run
COMMANDS = {
    "data": ("data", "build a datalist from a folder of volumes, split by patient"),
    "check": ("check", "look for faults in a cohort before training on it"),
    "bundle": ("bundle", "turn a finished training into a MONAI bundle"),
    "pack": ("pack", "pack a bundle for the MONAI Model Zoo"),
    "check-export": ("check_export", "compare TorchScript and ONNX files with their source weights"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; what follows its name is for the command itself."""
    options = _parser().parse_args(arguments)
    module, _ = COMMANDS[options.command]
    importlib.import_module(f"vqseg_bundle.commands.{module}").main(options.arguments)


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {purpose}" for name, (_, purpose) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="vqseg",
        description="Medical image segmentation from few labels, around the MONAI bundle.",
        epilog=f"commands:\n{listing}\n\n`vqseg COMMAND --help` explains one. Training, evaluation and inference run "
        "through\n`python -m monai.bundle`: see the README.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="options of the command")
    return parser
