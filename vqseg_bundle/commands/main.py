"""The entry point of all commands: ``vqseg --help``."""

from __future__ import annotations

import argparse
import gc
import importlib
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

__all__ = ["COMMANDS", "main", "quick_imports"]

#: function, in a module that is imported when its command is run, and purpose of each command, in a user's order
COMMANDS = {
    "choose": ("choose.main", "choose which scans to label first"),
    "data": ("data.main", "build a datalist from a folder of volumes, split by patient"),
    "check": ("check.main", "look for faults in a cohort before training on it"),
    "plan": ("workflows.plan", "show the settings that a training would choose"),
    "train": ("workflows.train", "train a network"),
    "evaluate": ("workflows.evaluate", "evaluate it on labelled patients, with a report"),
    "segment": ("workflows.segment", "segment a folder of volumes"),
    "bundle": ("bundle.main", "turn a finished training into a MONAI bundle"),
    "pack": ("pack.main", "pack a bundle for the MONAI Model Zoo"),
    "check-export": ("check_export.main", "compare TorchScript and ONNX files with their source weights"),
}

#: what MONAI imports if it is installed, for parts that the bundle does not use: two of seven seconds
_FOR_OTHERS = (
    *("huggingface_hub", "matplotlib.pyplot", "onnx", "scipy.signal", "segment_anything", "sklearn", "torchvision"),
    "transformers",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; what follows its name is for the command itself."""
    parser = _parser()
    options = parser.parse_args(arguments)
    module, function = COMMANDS[options.command][0].split(".")
    try:
        with quick_imports():
            command = getattr(importlib.import_module(f"vqseg_bundle.commands.{module}"), function)
            importlib.import_module("vqseg_bundle.common").print_any_name()
        # a decoder for GPUs, which MONAI looks for
        warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
        logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
        command(options.arguments)
    except Exception as error:
        common = importlib.import_module("vqseg_bundle.common")
        forbidden = common.find_permission_error(error)
        if forbidden is None:
            raise
        parser.exit(2, f"vqseg {options.command}: error: {common.permission_text(forbidden)}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"vqseg {options.command}: stopped by SIGINT.\n")


@contextmanager
def quick_imports(whole: bool = False) -> Iterator[None]:
    """Import without garbage collection, and leave what was imported out of later ones.

    Modules are no garbage: of ten seconds that MONAI took from start to exit, collections were three.

    Args:
        whole: whether MONAI finds all that is installed, for configurations that may name any part of it.
    """
    hidden = [] if whole else [name for name in _FOR_OTHERS if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: as if it were not installed
    gc.disable()
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
        gc.freeze()
        gc.enable()


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {purpose}" for name, (_, purpose) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="vqseg",
        description="Medical image segmentation from few labels, around the MONAI bundle.",
        epilog=f"commands:\n{listing}\n\n`vqseg COMMAND --help` explains one. plan, train, evaluate and segment print "
        "the `python -m\nmonai.bundle run ...` that they run, and take the same keys.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="options of the command")
    return parser
