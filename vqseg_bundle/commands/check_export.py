"""Compare exported networks with their source weights: ``vqseg check-export --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.inferers import Inferer
from tqdm import tqdm

from vqseg_bundle.common import project_folder
from vqseg_bundle.data import DataError, check_cases

from .deploying.export_comparison import Agreement, compare_exports
from .deploying.exported import Exported, Source, open_exported
from .deploying.run_folder import DeploymentError, load_network

__all__ = ["main"]

_EPILOG = """Volumes are preprocessed and cut into windows as in inference; each window goes through both networks. At
least 99.99 % of the tokens must get the same code; in a window whose codes all agree, logits may differ by 1e-4.
Volumes that inference could not use are named and left out.

example:
  vqseg check-export --checkpoint OUT/model.pt --exported model.ts model.onnx --dataset-dir FOLDER
"""
_CODES, _LOGITS = 0.9999, 1e-4


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, and print one line per exported file."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.limit is not None and options.limit < 1:
        parser.error(f"--limit must be at least 1, got {options.limit}.")
    try:
        agreements = _compare(Path(options.checkpoint), [Path(path) for path in options.exported], options)
    except PermissionError:
        raise  # the entry point says it
    except (DeploymentError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    for name, agreement in agreements.items():
        print(_line(name, agreement))
    faults = _faults(agreements, options.checkpoint)
    if faults:
        parser.exit(1, "".join(f"{parser.prog}: {fault}\n" for fault in faults))


def _compare(checkpoint: Path, paths: list[Path], options: argparse.Namespace) -> dict[str, Agreement]:
    if not checkpoint.is_file():
        raise DeploymentError(f"--checkpoint {checkpoint} is not a file: name the model.pt that was exported.")
    network = load_network(checkpoint).eval()
    exports = {str(path): open_exported(path, network) for path in paths}
    config = ConfigParser.load_config_file(project_folder() / "configs" / "inference.json")
    config |= {"checkpoint": str(checkpoint), "dataset_dir": options.dataset_dir, "device": "cpu"}
    part = ConfigParser({**config, "network_def": network, "window_batch_size": 1}).get_parsed_content
    inferer: Inferer = part("inferer")
    window = [1, network.arguments["in_channels"], *part("patch_size")]
    for name, exported in exports.items():
        _check_window(name, exported, window)
    cases = _usable(part("cases")[: options.limit], part("model_record"))
    transform: Any = part("preprocessing")
    images = (transform(case) for case in tqdm(cases, desc="comparing", unit="volume", disable=None))
    agreements = compare_exports(images, inferer, Source(network), exports)
    for name, exported in exports.items():
        if exported.has_image_decoder():
            raise DeploymentError(f"{name} holds the image decoder, which only training needs: export model.pt again.")
    return agreements


def _usable(cases: Sequence[Mapping[str, str]], record: Mapping[str, Any]) -> list[Mapping[str, str]]:
    """The volumes that inference would segment; it names the others, as inference does, before the first window."""
    preprocessing = record["preprocessing"]
    clipped = bool(preprocessing["intensity_window"])
    try:
        checked = check_cases(cases, record["labels"], preprocessing["in_channels"], clipped=clipped)
    except DataError as error:  # all of them
        raise DeploymentError(f"--dataset-dir: {error}") from error
    for fault in checked.errors:
        print(f"left out: {fault}", file=sys.stderr)
    return checked.sound


def _check_window(name: str, exported: Exported, window: list[int]) -> None:
    taken = window if exported.window is None else exported.window
    if len(taken) != len(window) or any(size not in (None, own) for size, own in zip(taken, window, strict=True)):
        raise DeploymentError(
            f"{name} takes windows of {exported.window}, inference cuts {window}: export it with --input_shape "
            f'"{window}".'
        )


def _agrees(agreement: Agreement) -> bool:
    same = agreement.tokens - agreement.differing_tokens
    return same >= _CODES * agreement.tokens and agreement.largest_difference <= _LOGITS


def _faults(agreements: Mapping[str, Agreement], checkpoint: str) -> list[str]:
    """What speaks against the exports, a line of each kind."""
    apart = [name for name, agreement in agreements.items() if not _agrees(agreement)]
    blind = [name for name, agreement in agreements.items() if _agrees(agreement) and not agreement.equal_windows]
    faults = [f"{', '.join(apart)} differ from {checkpoint}: export again."] if apart else []
    if blind:
        faults.append(
            f"{', '.join(blind)}: expected a window with equal codes, whose logits can be compared, found none: name "
            f"other volumes in --dataset-dir, or export {checkpoint} again."
        )
    return faults


def _line(name: str, found: Agreement) -> str:
    return (
        f"{name}: {found.volumes} volumes, {found.windows:,} windows; {found.differing_tokens:,} of {found.tokens:,} "
        f"codes differ; logits by at most {found.largest_difference:.1e} in the {found.equal_windows:,} windows with "
        "equal codes"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vqseg check-export",
        description="Run TorchScript and ONNX files and their source weights on volumes, and compare them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="FILE", help="model.pt, with model.json beside it")
    add("--exported", required=True, nargs="+", metavar="FILE", help="files that end in .ts or .onnx")
    add("--dataset-dir", required=True, metavar="FOLDER", help="volumes to run them on")
    add("--limit", type=int, metavar="N", help="only the first N volumes")
    return parser
