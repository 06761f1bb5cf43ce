"""The figure of QPM and dropout at growing strength."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scripts.figures.kept_class import kept_class
from scripts.figures.perturbation_figure import save_perturbation_figure
from scripts.figures.perturbation_sweep import radius_curves, sweep
from scripts.figures.trained_network import TrainedNetwork, display_slice, load_case, open_trained
from vqseg_bundle.layers import QuantizedPerturbation, VectorQuantizer

__all__ = ["DESCRIPTION", "EPILOG", "add_options", "draw"]

DESCRIPTION = "Draw what QPM and dropout do at growing strength."
EPILOG = """what it shows:
  the KL radius of dropout and of the QPM, in the codebook of --checkpoint and in an untrained one; with --image, the
  prediction and its Dice under both at growing strength, against --label or the unperturbed prediction

examples:
  python -m scripts.figures perturbation --output radius.png
  python -m scripts.figures perturbation --checkpoint OUT/model.pt --image DIR/images/a.nii.gz \\
      --label DIR/labels/a.nii.gz --output perturbation.png
"""

_CONFIG = Path(__file__).parents[2] / "configs" / "train.json"
#: the radius of dropout is infinite at 1
_CURVE = [round(float(value), 3) for value in np.linspace(0.0, 0.95, 20)]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command-line options of the figure."""
    add = parser.add_argument
    add("--checkpoint", help="weights of a training, OUT/model.pt")
    add("--image", help="a volume to segment")
    add("--label", help="its label")
    add("--slice", type=int, help="number of the slice shown, from 0 (default: the one with most label)")
    add("--strengths", default="0,0.1,0.3,0.5,0.7,0.9", help="eps and rates (default: %(default)s)")
    add("--temperature", default="auto", help="of the QPM (default: auto, as in training)")
    add("--neighbors", type=float, help="codes that a moved token is spread over, in place of --temperature")
    add("--dropout-mode", choices=("channel", "element"), default="channel", help="default: channel")
    add("--draws", type=int, default=3, help="draws per strength (default: 3)")
    add("--seed", type=int, default=0, help="of the draws and the random codebook (default: 0)")


def draw(options: argparse.Namespace, output: Path) -> None:
    """Draw the figure, and print its numbers."""
    if options.image and not options.checkpoint:
        raise ValueError("--image needs --checkpoint: the network that is to segment it.")
    if options.label and not options.image:
        raise ValueError("--label needs --image: the volume that it belongs to.")
    if options.draws < 1:
        raise ValueError(f"--draws must be at least 1, got {options.draws}.")
    strengths, temperature = _strengths(options.strengths), _temperature(options.temperature)
    trained = open_trained(Path(options.checkpoint)) if options.checkpoint else None
    case = None
    if trained is not None and options.image:
        case = load_case(trained, Path(options.image), Path(options.label) if options.label else None)
        number = display_slice(case, options.slice)
    curves = radius_curves(_codebooks(trained, options.seed), _CURVE, temperature)
    for name, values in curves.items():
        print(f"{name}: KL radius {values[_CURVE.index(0.5)]:.3g} at 0.5, {values[_CURVE.index(0.9)]:.3g} at 0.9")
    if trained is None or case is None:
        save_perturbation_figure(output, _CURVE, curves)
    else:
        perturbation = QuantizedPerturbation(0.0, temperature, neighbors=options.neighbors)
        if case.label is not None:
            kept = kept_class(trained, case, perturbation, options.seed)
            print(
                f"QPM's moves keep the class of {kept.all_tokens:.0%} of the tokens ({kept.all_random:.0%} with random "
                f"codes), of {kept.foreground:.1%} of the foreground's ({kept.foreground_random:.1%})"
            )
        results = sweep(trained, case, strengths, perturbation, options.draws, options.seed, options.dropout_mode)
        for result in results:
            print(f"{result.method} {result.strength:g}: Dice {np.mean(result.dice):.3f}")
        classes = list(trained.labels.values())[1:]
        save_perturbation_figure(output, _CURVE, curves, case, results, number, classes)


def _codebooks(trained: TrainedNetwork | None, seed: int) -> dict[str, Tensor]:
    """The trained codebook, if given, and an untrained one of the same kind."""
    if trained is None:
        network: dict[str, Any] = json.loads(_CONFIG.read_text(encoding="utf-8"))["network_def"]
        sizes = {"num_embeddings": network["num_embeddings"], "embedding_dim": network["embedding_dim"]}
        settings = {key: network["quantizer"][key] for key in ("codebook_type", "normalize")}
    else:
        like = trained.quantizer
        sizes = {"num_embeddings": like.num_embeddings, "embedding_dim": like.embedding_dim}
        settings = {"codebook_type": "mapped" if like.codebook.follows_gradient else "ema", "normalize": like.normalize}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        codebooks = {"random codebook": VectorQuantizer(2, **sizes, **settings).project_codebook()}
        return codebooks if trained is None else {"trained codebook": trained.quantizer.project_codebook(), **codebooks}


def _strengths(text: str) -> list[float]:
    try:
        strengths = [float(word) for word in text.split(",")]
    except ValueError as error:
        raise ValueError(f'--strengths: expected numbers such as "0,0.3,0.9", found "{text}".') from error
    if not all(0.0 <= strength < 1.0 for strength in strengths):
        raise ValueError(f"--strengths must lie in [0, 1): dropout of rate 1 keeps nothing. Found {text}.")
    return strengths


def _temperature(text: str) -> float | str:
    try:
        temperature = text if text == "auto" else float(text)
    except ValueError as error:
        raise ValueError(f'--temperature: expected "auto" or a positive number, found "{text}".') from error
    if not isinstance(temperature, str) and not temperature > 0:
        raise ValueError(f'--temperature: expected "auto" or a positive number, found "{text}".')
    return temperature
