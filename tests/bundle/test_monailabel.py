"""MONAI Label 0.8.5's real server runs a made bundle, driven by REST as 3D Slicer drives it: ``-m monailabel``."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest
from support.bundle_runs import LABELS, TINY, CohortFolder, as_arguments, make_volumes, run_command
from support.deployment_parts import Client, install_app, serving

from vqseg_bundle import load
from vqseg_bundle.commands import bundle as make_bundle
from vqseg_bundle.data import choose_rows, foreground_uncertainty, least_sure, standardize

pytestmark = [pytest.mark.monailabel, pytest.mark.timeout(3600)]

MODEL, LABELED, UNLABELED = "tiny", 3, 5
STRATEGY = f"uncertainty_{MODEL}"
#: long enough for every class to be found somewhere
SHORT = {**TINY, "max_iterations": 60, "iterations_per_epoch": 20}


class Served(NamedTuple):
    """A server with a study folder of 8 images.

    Attributes:
        client: its REST interface.
        bundle: the served bundle's folder.
        studies: the study folder.
        labels: labels of all images, outside the study folder.
        log: what the server prints.
    """

    client: Client
    bundle: Path
    studies: Path
    labels: Path
    log: Path


@pytest.fixture(scope="module")
def served(shared_cohort: CohortFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    train(folder / "run", dataset_dir=shared_cohort.root)
    make_bundle.main(["--run", str(folder / "run"), "--output", str(folder / MODEL)])
    studies, labels = folder / "studies", folder / "labels"
    studies.mkdir()
    labels.mkdir()
    for seed in range(LABELED + UNLABELED):
        image, label = make_volumes(seed + 40, affine=np.diag([-1.5, -1.5, 6.0, 1.0]))
        nib.save(image, studies / f"scan_{seed}.nii.gz")
        nib.save(label, labels / f"scan_{seed}.nii.gz")
    bundle, log = install_app(folder, MODEL), folder / "server.log"
    with serving(folder, MODEL, studies, log) as client:
        yield Served(client, bundle, studies, labels, log)


def train(output_dir: Path, **changes: Any) -> None:
    """Our own training command."""
    words = as_arguments({**SHORT, "output_dir": output_dir, **changes})
    result = run_command("run", "training", "--config_file", "configs/train.json", *words)
    assert result.returncode == 0, result.stdout + result.stderr


def rest_prediction(served: Served, image: str, folder: Path) -> np.ndarray:
    path = folder / f"{image}_rest.nii.gz"
    path.write_bytes(served.client.infer(MODEL, image))
    found, expected = nib.load(path), nib.load(served.studies / f"{image}.nii.gz")
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-5)
    assert found.shape == expected.shape
    return np.asarray(found.dataobj)


def own_prediction(served: Served, image: str, folder: Path) -> np.ndarray:
    """By the command of the documents, in this environment and not in the server's."""
    given = {"dataset_dir": served.studies / f"{image}.nii.gz", "output_dir": folder, "device": "cpu"}
    words = ["run", "--config_file", "configs/inference.json", *as_arguments(given)]
    result = run_command(*words, cwd=served.bundle)
    assert result.returncode == 0, result.stdout + result.stderr
    return np.asarray(nib.load(folder / "predictions" / f"{image}_pred.nii.gz").dataobj)


def dice(one: np.ndarray, other: np.ndarray) -> list[float]:
    return [
        2
        * float(((one == index) & (other == index)).sum())
        / max(int((one == index).sum() + (other == index).sum()), 1)
        for index in range(1, len(LABELS))
    ]


def submit_labels(served: Served) -> None:
    for index in range(LABELED):
        served.client.submit_label(f"scan_{index}", served.labels / f"scan_{index}.nii.gz")


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def succeeded(task: dict[str, Any]) -> None:
    assert task["status"] == "DONE", "\n".join(task["details"][-40:])


def test_info_has_the_labels_and_the_dimension(served: Served) -> None:
    info = served.client.info()
    model = info["models"][MODEL]
    assert model["labels"] == {"shell": 1, "core": 2}
    assert model["type"] == "segmentation"
    assert model["dimension"] == 2, "of the network; whole volumes are segmented all the same"
    assert list(info["trainers"]) == list(info["scoring"]) == [MODEL]
    assert info["datastore"]["total"] == LABELED + UNLABELED


def test_infer_gives_what_our_own_inference_gives(served: Served, tmp_path: Path) -> None:
    for image in ("scan_0", "scan_7"):
        rest, own = rest_prediction(served, image, tmp_path), own_prediction(served, image, tmp_path / image)
        assert set(np.unique(own)) == {0, 1, 2}
        np.testing.assert_array_equal(rest, own)
        assert dice(rest, own) == [1.0, 1.0]


def test_twenty_infers_at_once_give_one_result(served: Served, tmp_path: Path) -> None:
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda _: served.client.infer(MODEL, "scan_1"), range(20)))
    results = []
    for index, content in enumerate(found):
        (tmp_path / f"{index}.nii.gz").write_bytes(content)
        results.append(np.asarray(nib.load(tmp_path / f"{index}.nii.gz").dataobj))
    assert len(results) == 20
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def notes(served: Served) -> dict[str, dict[str, Any]]:
    objects = served.client.datastore()["objects"]
    return {name: entry["image"]["info"][f"vqseg_{MODEL}"] for name, entry in objects.items()}


def expected_sample(found: dict[str, dict[str, Any]], taken: list[str]) -> str:
    """What ``vqseg choose --model --count 1`` takes of these scores and features."""
    free = [name for name in sorted(found) if name not in taken]
    features = standardize(np.array([found[name]["features"] for name in [*free, *taken]]))
    eligible = least_sure([found[name]["uncertainty"] for name in free], 1)
    return free[choose_rows(features, 1, range(len(free), len(features)), eligible=eligible).chosen[0]]


def test_the_scores_are_those_of_our_own_choice(served: Served) -> None:
    succeeded(served.client.score(MODEL))
    found, predictor = notes(served), load(served.bundle / "models" / "model.pt", "cpu")
    assert len(found) == LABELED + UNLABELED
    for image in ("scan_0", "scan_7"):
        own = predictor(served.studies / f"{image}.nii.gz", probabilities=True).probabilities
        assert own is not None
        assert found[image]["uncertainty"] == pytest.approx(foreground_uncertainty(own), rel=1e-4)
    assert len({note["uncertainty"] for note in found.values()}) == len(found)


def test_next_sample_names_each_image_once_in_the_order_of_our_own_choice(served: Served) -> None:
    assert next(iter(served.client.info()["strategies"])) == STRATEGY
    found, named = notes(served), []
    for _ in found:
        expected = expected_sample(found, sorted(named))
        named.append(served.client.next_sample(STRATEGY)["id"])
        assert named[-1] == expected
    assert set(named) == set(found)
    assert served.client.next_sample(STRATEGY)["id"] == named[0], "it begins again"


def test_training_takes_all_images_and_infer_then_uses_the_new_model(served: Served, tmp_path: Path) -> None:
    before = rest_prediction(served, "scan_7", tmp_path)
    submit_labels(served)
    assert served.client.info()["datastore"]["completed"] == LABELED
    weights = (served.bundle / "models" / "model.pt").read_bytes()
    # without a validation split the last weights are saved
    succeeded(served.client.train(MODEL, max_epochs=2, val_split=0))
    log = (served.bundle / "models" / "training.log").read_text()
    assert f"cohort {MODEL}: {LABELED} labelled, {UNLABELED} unlabelled, 0 validation, 0 test cases" in log
    assert (served.bundle / "models" / "model.pt").read_bytes() != weights
    after, own = rest_prediction(served, "scan_7", tmp_path), own_prediction(served, "scan_7", tmp_path / "own")
    np.testing.assert_array_equal(after, own)
    assert (after != before).any()
    # the new weights score anew, and what is labelled is not named
    scores = notes(served)
    succeeded(served.client.score(MODEL))
    again = notes(served)
    changed = {name for name in again if again[name]["uncertainty"] != scores[name]["uncertainty"]}
    assert changed == {f"scan_{index}" for index in range(LABELED, LABELED + UNLABELED)}
    assert served.client.next_sample(STRATEGY)["id"] in changed


def test_training_with_a_validation_split_saves_the_best(served: Served) -> None:
    submit_labels(served)
    # a third of the labels validates
    succeeded(served.client.train(MODEL, max_epochs=1, val_split=0.34))
    last = (served.bundle / "models" / "training.log").read_text()
    assert f"2 labelled, {UNLABELED} unlabelled, 1 validation" in last


def test_weights_that_do_not_fit_are_refused(served: Served, tmp_path: Path) -> None:
    models = served.bundle / "models"
    shutil.copy(models / "model.pt", tmp_path)
    train(tmp_path / "other", **{"network_def#channels": [4, 8, 8], "max_iterations": 1})
    time.sleep(1.1)  # the server looks at the time of the file
    shutil.copy(tmp_path / "other" / "model.pt", models)
    with pytest.raises(OSError, match="500"):
        served.client.infer(MODEL, "scan_1")
    message = "these weights belong to another VQSegNet"
    wait_for(lambda: message in served.log.read_text())  # the answer comes before the log
    submit_labels(served)
    task = served.client.train(MODEL, max_epochs=1, val_split=0)
    assert task["status"] == "ERROR"
    assert message in json.dumps(task["details"])
    shutil.copyfile(tmp_path / "model.pt", models / "model.pt")
