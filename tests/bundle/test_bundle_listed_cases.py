"""A made bundle trains in place on a list of labelled cases, with the overrides that MONAI Label gives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from support.bundle_runs import CONFIGS, CohortFolder, Trained, make_volumes, refused, run_here

from vqseg_bundle.commands import bundle as make_bundle


@pytest.fixture
def served(trained: Trained, tmp_path: Path) -> Path:
    """The bundle that a server would have."""
    make_bundle.main(["--run", str(trained.output_dir), "--output", str(tmp_path / "tiny")])
    return tmp_path / "tiny"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Five images, two of them labelled, as MONAI Label's datastore keeps them."""
    folder = tmp_path / "study"
    (folder / "labels" / "final").mkdir(parents=True)
    for seed in range(5):
        image, label = make_volumes(seed + 20)
        nib.save(image, folder / f"scan_{seed}.nii.gz")
        if seed < 2:
            nib.save(label, folder / "labels" / "final" / f"scan_{seed}.nii.gz")
    return folder


def listed(study: Path, *numbers: int) -> list[dict[str, str]]:
    return [
        {"image": str(study / f"scan_{n}.nii.gz"), "label": str(study / "labels" / "final" / f"scan_{n}.nii.gz")}
        for n in numbers
    ]


def overrides(bundle: Path, training: list[dict[str, str]], validation: list[dict[str, str]] | None) -> dict[str, Any]:
    """monailabel 0.8.5, tasks/train/bundle.py."""
    handlers = ConfigParser.load_config_file(bundle / "configs" / "train.json")["train"]["handlers"]
    weights = str(bundle / "models" / "model.pt")
    loader = {"_target_": "CheckpointLoader", "load_path": weights, "load_dict": {"model": "$@network"}}
    given: dict[str, Any] = {
        "bundle_root": str(bundle),
        "train#trainer#max_epochs": 1,
        "train#dataset#data": training,
        "device": "cpu",
        "train#handlers": [{**loader, "strict": False}, *handlers],
    }
    return given if validation is None else {**given, "validate#dataset#data": validation}


def train(bundle: Path, *lists: Any, **more: Any) -> ConfigParser:
    return run_here("run", bundle / "configs" / "train.json", **overrides(bundle, *lists), **more)


def state(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model.pt", weights_only=True)


@pytest.mark.parametrize(
    "validation, counts", [(None, "0 validation"), ([], "0 validation"), ([1], "1 validation")], ids=str
)
def test_it_trains_on_the_list_and_on_the_other_images(
    served: Path, study: Path, validation: list[int] | None, counts: str
) -> None:
    models = served / "models"
    before, record = state(models), json.loads((models / "model.json").read_text())
    held = None if validation is None else listed(study, *validation)
    parser = train(served, listed(study, 0), held)
    trainer = parser.get_parsed_content("train#trainer")
    assert trainer.state.iteration == 4
    log = (models / "training.log").read_text()
    unlabeled = 3 + (not held)  # an image whose label is kept from training is as good as one without
    assert f"cohort tiny: 1 labelled, {unlabeled} unlabelled, {counts}, 0 test cases" in log
    used = {Path(case["image"]).name for case in parser.get_parsed_content("unlabeled_data")}
    assert used == {f"scan_{n}.nii.gz" for n in range(5)} - {"scan_0.nii.gz"} - ({"scan_1.nii.gz"} if held else set())
    after = state(models)
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[key], value) for key, value in before.items())
    written = json.loads((models / "model.json").read_text())
    found = {"postprocessing", "quality"}  # by validation; what was found for other weights does not stay
    assert written.keys() & found == (found if held else set())
    kept = record.keys() - {"info", *found}
    assert {key: written[key] for key in kept} == {key: record[key] for key in kept}
    (previous,) = models.glob("previous-*")
    assert all(torch.equal(state(previous)[key], value) for key, value in before.items())


def test_codes_of_the_segments_outlive_a_training(served: Path, study: Path) -> None:
    path = served / "models" / "model.json"
    record = json.loads(path.read_text())
    codes = {record["labels"]["1"]: ["10200004", "SCT", "Liver"]}
    path.write_text(json.dumps({**record, "info": {"cohort": "old", "segment_codes": codes, "score": 0.5}}))
    train(served, listed(study, 0), [])
    info = json.loads(path.read_text())["info"]
    assert (set(info), info["segment_codes"]) == ({"cohort", "segment_codes", "training_volumes"}, codes)
    assert info["cohort"] != "old"


def test_the_record_in_place_stays_until_its_weights_are_replaced(served: Path, study: Path) -> None:
    path = served / "models" / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "info": {"warning": "not for patients"}}))
    before = path.read_bytes()

    def fail(parser: ConfigParser) -> None:
        parser.get_parsed_content("train#trainer").add_event_handler(Events.ITERATION_STARTED(once=3), stop)

    def stop() -> None:
        raise KeyboardInterrupt("no more")

    given = overrides(served, listed(study, 0), [])
    with pytest.raises(KeyboardInterrupt, match="no more"):
        run_here("run", served / "configs" / "train.json", before=fail, **given)
    assert path.read_bytes() == before
    train(served, listed(study, 0), [])
    assert "warning" not in json.loads(path.read_text())["info"]


def test_it_goes_on_from_the_bundles_weights(served: Path, study: Path) -> None:
    before = state(served / "models")
    train(served, listed(study, 0, 1), [], learning_rate=1e-12)
    after = state(served / "models")
    layers = [key for key in before if key.startswith(("encoder", "segmentation_decoder"))]
    assert layers
    for key in layers:
        torch.testing.assert_close(after[key], before[key])


def _cut_label(study: Path) -> None:
    path = study / "labels" / "final" / "scan_1.nii.gz"
    label = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj)[:-1], label.affine), path)


def _unknown_class(study: Path) -> None:
    path = study / "labels" / "final" / "scan_1.nii.gz"
    label = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj) + 5, label.affine), path)


def _broken_image(study: Path) -> None:
    (study / "scan_4.nii.gz").write_bytes(b"")


@pytest.mark.parametrize(
    "spoil, message",
    [
        (_cut_label, r"scan_1\.nii\.gz.*\(31, 32, 4\)"),
        (_unknown_class, r"scan_1\.nii\.gz.*5"),
        (_broken_image, r"scan_4\.nii\.gz"),
    ],
)
def test_what_is_really_trained_on_is_checked(
    served: Path, study: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(study)
    before = {path.name for path in (served / "models").iterdir()}
    with pytest.raises(SystemExit, match=message):
        train(served, listed(study, 0, 1), [])
    assert {path.name for path in (served / "models").iterdir()} == before


def test_the_served_network_cannot_be_replaced_by_another(served: Path, study: Path) -> None:
    with pytest.raises(SystemExit, match=r"network#channels: weights \[4, 8, 16\], configuration \[4, 8, 8\]"):
        train(served, listed(study, 0, 1), [], **{"network_def#channels": [4, 8, 8]})


def test_weights_that_do_not_fit_are_refused(served: Path, study: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, served / "models" / "model.pt")
    with pytest.raises(SystemExit, match=r"model\.pt: these weights belong to another VQSegNet"):
        train(served, listed(study, 0, 1), [])


def test_a_list_without_a_model_has_no_classes(study: Path, tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    shutil.copytree(CONFIGS, root / "configs")
    message = r"train#dataset#data is a list of cases, whose classes would be those of the model in bundle_root"
    given = {"bundle_root": str(root), "train#dataset#data": listed(study, 0)}
    refused(tmp_path / "out", message, "training", "train.json", **given)


def test_a_list_beside_a_datalist_replaces_its_training_cases(
    shared_cohort: CohortFolder, study: Path, tmp_path: Path
) -> None:
    given = {"train#dataset#data": listed(study, 0, 1), "dataset_dir": str(shared_cohort.root), "output_dir": "out"}

    def stop(parser: ConfigParser) -> None:
        cohort = parser.get_parsed_content("cohort")
        assert [Path(case["image"]).name for case in cohort.training] == ["scan_0.nii.gz", "scan_1.nii.gz"]
        assert [case["case"] for case in cohort.unlabeled] == ["case_2", "case_3"]
        assert (len(cohort.validation), len(cohort.test), cohort.listed) == (1, 2, False)
        raise InterruptedError("seen")

    with pytest.raises(InterruptedError, match="seen"):
        run_here(
            "training",
            "train.json",
            before=stop,
            **{**given, "output_dir": str(tmp_path / "out"), "patch_size": [32, 32]},
        )
