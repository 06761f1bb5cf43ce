"""Two clients of MONAI's federated learning, one of them without labels, and a server that averages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from ignite.engine import Events
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, FlStatistics, WeightType
from monai.fl.utils.exchange_object import ExchangeObject
from support.bundle_runs import ROOT, TINY, process_kept, run_here, write_cohort
from torch import Tensor

ROUNDS, STEPS = 2, 3
CONFIGS = ["configs/train.json", "configs/federated.json"]
#: images that each client trains on: the server's weights
IMAGES = {"labeled": 4, "unlabeled": 2}


class Federation(NamedTuple):
    """What a federated training of two rounds left behind."""

    folder: Path
    clients: dict[str, MonaiAlgo]
    sent: list[dict[str, dict[str, Tensor]]]
    averages: list[dict[str, Tensor]]
    received: list[dict[str, Tensor]]
    teachers: dict[str, list[dict[str, Tensor]]]
    iterations: list[int]
    terms: dict[str, Any]


def _client(name: str, folder: Path) -> MonaiAlgo:
    cohort = write_cohort(folder / name)
    if name == "unlabeled":
        cohort.datalist["training"] = []
        cohort.save()
    settings = {
        **TINY,
        "confidence_threshold": 0.0,
        "iterations_per_epoch": STEPS,
        "federated_rounds": ROUNDS,
        "bundle_root": str(ROOT),
    }
    places = {"dataset_dir": str(cohort.root), "output_dir": str(folder / f"out_{name}")}
    client = MonaiAlgo(
        bundle_root=str(ROOT),
        local_epochs=1,
        send_weight_diff=False,
        config_train_filename=CONFIGS,
        config_evaluate_filename=["configs/train.json", "configs/federated.json", "configs/federated_evaluate.json"],
        train_kwargs={**settings, **places},
        eval_kwargs={**TINY, **places, "bundle_root": str(ROOT)},
    )
    client.initialize(extra={ExtraItems.CLIENT_NAME: name})
    return client


def _average(sent: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    total = sum(IMAGES.values())
    return {
        key: sum(IMAGES[name] / total * weights[key] for name, weights in sent.items())
        for key in next(iter(sent.values()))
    }


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("federation")
    with process_kept():
        clients = {name: _client(name, folder) for name in IMAGES}
        found = Federation(folder, clients, [], [], [], {name: [] for name in IMAGES}, [], {})
        for name, client in clients.items():
            trainer: Any = client.trainer
            trainer.add_event_handler(
                Events.EPOCH_STARTED,
                lambda engine, kept: kept.append({k: v.clone() for k, v in engine.teacher.module.state_dict().items()}),
                found.teachers[name],
            )
        weights = clients["labeled"].get_weights().weights
        for _ in range(ROUNDS):
            sent = {}
            found.received.append({key: value.clone() for key, value in weights.items()})
            for name, client in clients.items():
                client.train(ExchangeObject(weights={key: value.clone() for key, value in weights.items()}))
                reply = client.get_weights()
                assert reply.weight_type == WeightType.WEIGHTS
                found.iterations.append(reply.statistics[FlStatistics.NUM_EXECUTED_ITERATIONS])
                found.terms[name] = client.trainer.state.output["terms"]
                sent[name] = {key: value.clone() for key, value in reply.weights.items()}
            weights = _average(sent)
            found.sent.append(sent)
            found.averages.append(weights)
        yield found


def test_every_round_of_every_client_takes_its_steps(federation: Federation) -> None:
    assert federation.iterations == [STEPS] * (ROUNDS * len(IMAGES))
    for client in federation.clients.values():
        trainer: Any = client.trainer
        assert (trainer.state.iteration, trainer.total_iterations) == (ROUNDS * STEPS, ROUNDS * STEPS)
        assert trainer.optimizer.param_groups[0]["lr"] == 0.0


def test_the_client_without_labels_learns_from_pseudo_labels(federation: Federation) -> None:
    assert federation.terms["unlabeled"].labeled_segmentation.item() == 0.0
    assert federation.terms["unlabeled"].unlabeled_segmentation.item() > 0.0
    assert federation.terms["labeled"].labeled_segmentation.item() > 0.0
    key = "network.encoder.stages.2.conv1.conv.weight"
    for sent, received in zip(federation.sent, federation.received, strict=True):
        assert not torch.equal(sent["unlabeled"][key], received[key])
        assert not torch.equal(sent["labeled"][key], sent["unlabeled"][key])


def test_the_second_round_starts_from_the_weighted_average(federation: Federation) -> None:
    """Student and teacher alike, on each client; 4 and 2 images: 2/3 of one, 1/3 of the other."""
    first, average = federation.sent[0], federation.averages[0]
    for key, value in average.items():
        torch.testing.assert_close(value, 2 / 3 * first["labeled"][key] + 1 / 3 * first["unlabeled"][key])
    for teachers in federation.teachers.values():
        assert len(teachers) == ROUNDS
        for key, value in teachers[1].items():
            torch.testing.assert_close(value, average[f"network.{key}"], rtol=0, atol=0)


def test_the_average_is_evaluated_as_any_model(federation: Federation) -> None:
    client: Any = federation.clients["labeled"]
    network = client.train_workflow.parser.get_parsed_content("network")
    client.trainer.network.load_state_dict(federation.averages[-1])
    out = federation.folder / "global"
    out.mkdir()
    torch.save(network.deployed_state_dict(), out / "model.pt")
    (out / "model.json").write_text((federation.folder / "out_labeled" / "model.json").read_text())
    places = {"dataset_dir": str(federation.folder / "labeled"), "output_dir": str(out), "device": "cpu"}
    # the client measures what the network gives, without the postprocessing that its record chose
    run_here("evaluating", "train.json", "evaluate.json", **places, amp=False, largest_component=[])
    summary = json.loads((out / "summary.json").read_text())
    assert summary["num_cases"] == 2
    written = set((federation.folder / "out_labeled").iterdir())
    found = client.evaluate(ExchangeObject(weights=federation.averages[-1])).metrics
    assert found["val_mean_dice"] == pytest.approx(summary["overall"]["dice"]["mean"], abs=1e-5)
    assert set((federation.folder / "out_labeled").iterdir()) == written


def test_a_log_line_is_written_once(federation: Federation) -> None:
    """MONAI's client initializes its workflow twice. The test's clients share a process, and so their logs."""
    log = (federation.folder / "out_unlabeled" / "training.log").read_text()
    assert log.count("Epoch[2] Metrics -- val_mean_dice") == len(IMAGES)
