"""The bundle's own network and trainer, built from its configuration, one iteration a call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.bundle import ConfigParser

from scripts.benchmark.published_step import PublishedPerturbation, PublishedQuantizer
from vqseg_bundle.engines import STRONG, SemiSupervisedTrainer
from vqseg_bundle.losses import VQSegTargets

__all__ = ["CLASSES", "WITHOUT_VQ", "bundle_parser", "prepare_step", "trainer_step"]

#: Classes of the segmentation, background included.
CLASSES = 4
#: Overrides that leave a mean teacher of the same U-Net: no quantiser, no image decoder, no code-use entropy.
WITHOUT_VQ: dict[str, Any] = {
    "network_def#num_embeddings": None,
    "lambda_reconstruction": 0.0,
    "lambda_entropy": 0.0,
}

_CONFIGS = Path(__file__).resolve().parents[2] / "configs"
_ENDLESS = 10**6


def bundle_parser(configs: tuple[str, ...], overrides: Mapping[str, Any]) -> ConfigParser:
    """The bundle's configuration, overridden as on the command line; parts are built where asked for.

    Args:
        configs: file names in ``configs/``.
        overrides: value by id.
    """
    parser = ConfigParser()
    parser.read_config([str(_CONFIGS / name) for name in configs])
    parser.update({"labels": [f"class {index}" for index in range(CLASSES)], "foundation_model": "none", **overrides})
    return parser


def prepare_step(
    configs: tuple[str, ...], overrides: Mapping[str, Any], device: str, reference_code: str | None = None
) -> Callable[[], None]:
    """A trainer on two batches of random images; each call of what is returned is one iteration.

    Args:
        configs: file names in ``configs/``.
        overrides: value by id.
        device: "cpu" or "cuda".
        reference_code: checkout whose quantiser, QPM and entropy term stand in for the bundle's, or None.
    """
    torch.manual_seed(0)
    parser = bundle_parser(configs, {"device": device, **overrides})
    part = parser.get_parsed_content
    network, training_module = part("network"), part("training_module")
    if reference_code:
        network.quantizer = PublishedQuantizer(reference_code, network.quantizer).to(device)
        training_module.perturbation = PublishedPerturbation(reference_code, network.quantizer, part("perturb_prob"))
    labeled = [_labeled_batch(part("labeled_batch_size"), part("patch_size"))]
    return trainer_step(parser, device, labeled, [_batch(part("unlabeled_batch_size"), part("patch_size"))])


def trainer_step(
    parser: ConfigParser, device: str, labeled: Iterable[Mapping[str, Any]], unlabeled: Iterable[Mapping[str, Any]]
) -> Callable[[], None]:
    """The trainer of a configuration, without handlers; each call of what is returned is one iteration.

    Args:
        parser: the configuration.
        device: "cpu" or "cuda".
        labeled: batches with "image", "label" and the strong view.
        unlabeled: batches with "image" and the strong view.
    """
    part = parser.get_parsed_content
    trainer = SemiSupervisedTrainer(
        device=torch.device(device),
        max_epochs=1,
        epoch_length=_ENDLESS,
        train_data_loader=labeled,
        unlabeled_data_loader=unlabeled,
        network=part("trained"),
        student=part("network"),
        teacher=part("teacher"),
        loss_function=part("loss"),
        targets=VQSegTargets,
        optimizer=part("optimizer"),
        mixer=part("train#mixer"),
        foundation_model=part("foundation"),
        max_grad_norm=part("train#trainer#max_grad_norm"),
        generator=torch.Generator(device).manual_seed(0),
        amp=part("amp"),
    )
    # an interrupted run goes on where it was
    trainer.add_event_handler(Events.ITERATION_COMPLETED, trainer.interrupt)
    trainer.logger.setLevel(logging.CRITICAL)  # the engine reports its own garbage collection as an exception
    return trainer.run


def _batch(size: int, patch: list[int]) -> dict[str, torch.Tensor]:
    image = torch.randn(size, 1, *patch, generator=torch.Generator().manual_seed(3))
    return {"image": image, STRONG: image + 0.1}


def _labeled_batch(size: int, patch: list[int]) -> dict[str, torch.Tensor]:
    label = torch.randint(CLASSES, (size, 1, *patch), generator=torch.Generator().manual_seed(4))
    return {**_batch(size, patch), "label": label}
