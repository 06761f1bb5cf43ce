"""Turn a checkpoint of the published VQ-Seg code into model.pt and model.json of this bundle.

``python -m scripts.published --help``
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from scripts.published.parity import Comparison, compare
from scripts.published.published_checkpoint import ConversionError, convert, read_published
from scripts.tool import errors_told, tool_parser
from vqseg_bundle.bundle import write_model_record
from vqseg_bundle.networks import VQNetwork, describe_network

__all__ = ["main"]

_EPILOG = """examples:
  python -m scripts.published --checkpoint segmentation_model_iter14000.pth --output OUT \\
      --labels "background,right ventricle,myocardium,left ventricle"
  python -m monai.bundle run --config_file configs/inference.json --dataset_dir FOLDER --checkpoint OUT/model.pt \\
      --output_dir OUT

  git clone https://github.com/script-Yang/VQ-Seg && pip install einops
  python -m scripts.published --reference-code VQ-Seg
"""
#: largest permitted difference of logits, in units of the largest one
_TOLERANCE = 1e-4
_CONFIG = Path(__file__).parents[2] / "configs" / "inference.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert, compare, or both; print what was written and measured."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.checkpoint and not options.reference_code:
        parser.error("give --checkpoint FILE --output DIR, --reference-code DIR, or all three")
    if bool(options.checkpoint) != bool(options.output):
        parser.error("--checkpoint and --output belong together")
    checkpoint = Path(options.checkpoint).expanduser() if options.checkpoint else None
    with errors_told(parser):
        if checkpoint is not None:
            _convert(checkpoint, Path(options.output).expanduser(), options)
        if options.reference_code:
            _prove(options.reference_code, checkpoint)


def _convert(checkpoint: Path, output: Path, options: argparse.Namespace) -> None:
    weights, record = output / "model.pt", output / "model.json"
    for path in (weights, record):
        if path.exists():
            raise ConversionError(f"--output {output}: {path.name} exists there; give another folder.")
    wrong = [size for size in (*options.patch_size, *(options.image_size or ())) if size < 1]
    if wrong or any(size % 14 for size in options.patch_size):
        raise ConversionError(
            f"--patch-size must be multiples of 14 and sizes positive, got {options.patch_size}, {options.image_size}."
        )
    network = convert(read_published(checkpoint))
    labels = _labels(options.labels, network)
    preprocessing = _preprocessing(options.patch_size, options.image_size)
    try:
        output.mkdir(parents=True, exist_ok=True)
        torch.save(network.deployed_state_dict(), weights)
    except (OSError, RuntimeError) as error:  # the second is torch.save's
        raise ConversionError(f"--output {output}: cannot be written ({error}); give another place.") from error
    info = {"converted_from": checkpoint.name}
    write_model_record(record, describe_network(network), labels, preprocessing, info)
    arguments = network.arguments
    print(f"{arguments['encoder']}, {arguments['num_embeddings']} codes, labels: {', '.join(labels.values())}")
    print(f"wrote {weights} and {record}")


def _preprocessing(patch_size: list[int], image_size: list[int] | None) -> dict[str, Any]:
    """The preprocessing of inference for these sizes, with the defaults otherwise."""
    parser = ConfigParser(ConfigParser.load_config_file(_CONFIG))
    default = parser.get("untrained")
    # the orientation of its slices is unknown
    sizes = {"patch_size": patch_size, "image_size": image_size, "orientation": None}
    parser["model_record"] = {**default, "preprocessing": {**default["preprocessing"], **sizes}}
    return parser.get_parsed_content("preprocessing_record")


def _labels(names: str | None, network: VQNetwork) -> dict[int, str]:
    count = network.arguments["out_channels"]
    if names is None:
        return {index: f"label_{index}" if index else "background" for index in range(count)}
    given = [name.strip() for name in names.split(",")]
    if len(given) != count or "" in given or len(set(given)) < count:
        raise ConversionError(f'--labels: the checkpoint has {count} classes, expected as many names, found "{names}".')
    return dict(enumerate(given))


def _prove(reference_code: str, checkpoint: Path | None) -> None:
    print(f"published code against its conversion, {checkpoint.name if checkpoint else 'random weights'}:")
    comparisons = compare(reference_code, checkpoint)
    for found in comparisons:
        print(_line(found))
    if not all(map(_agree, comparisons)):
        raise ConversionError(f"they differ: expected equal codes and logits within {_TOLERANCE:g} of the largest.")


def _agree(found: Comparison) -> bool:
    """Whether the logits are equal, or differ only by codes of which ours are nearer."""
    if found.differing_codes:
        return found.differing_codes == found.nearer_codes
    return found.relative_difference <= _TOLERANCE


def _line(found: Comparison) -> str:
    nearer = f", ours nearer in float64 for {found.nearer_codes}" if found.differing_codes else ""
    return (
        f"  {found.size[0]} x {found.size[1]}: {found.differing_codes} of {found.tokens} codes differ{nearer} "
        f"({found.distinct_codes} distinct), logits by at most {found.largest_difference:.1e} "
        f"of {found.largest_logit:.3g} ({found.relative_difference:.1e})"
    )


def _parser() -> argparse.ArgumentParser:
    parser = tool_parser(
        "published",
        "Turn a checkpoint of the published VQ-Seg code (https://github.com/script-Yang/VQ-Seg) into model.pt and "
        "model.json, for evaluation and inference by this bundle.",
        _EPILOG,
    )
    add = parser.add_argument
    add("--checkpoint", metavar="FILE", help="file saved by the published train.py")
    add("--output", metavar="DIR", help="folder for model.pt and model.json")
    add("--labels", metavar="NAMES", help='class names, "background,first,..." (default: label_1, ...)')
    add("--patch-size", type=int, nargs=2, default=[224, 224], metavar=("H", "W"), help="default: 224 224")
    add("--image-size", type=int, nargs=2, metavar=("H", "W"), help="in-plane size to resize to (default: unchanged)")
    add(
        "--reference-code",
        metavar="DIR",
        help="a checkout of the published code: run both networks on the same images and compare; with the checkpoint, "
        "or without one with random weights",
    )
    return parser


if __name__ == "__main__":
    main()
