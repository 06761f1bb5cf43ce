"""Trainings that choose their own settings, what they record of them, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from support.bundle_runs import ROOT, CohortFolder, command_here, refused, run_here
from support.data_parts import hounsfield, write_picture, write_volume

from vqseg_bundle.bundle.cohort.cohort_fingerprint import measure_cohort
from vqseg_bundle.bundle.machine import memory
from vqseg_bundle.bundle.training import step_trial, training_plan
from vqseg_bundle.bundle.training.training_plan import with_planned_values
from vqseg_bundle.data import examine_cohort, open_listed_cases
from vqseg_bundle.planning import Fingerprint, Machine, Pace, make_plan

SHORT: dict[str, Any] = {
    "max_iterations": 2,
    "iterations_per_epoch": 2,
    "device": "cpu",
    "network_def#num_embeddings": 32,
    "network_def#embedding_dim": 8,
}
#: of the shared cohort's training and unlabelled volumes, 36 x 40 x 6 voxels of 1.5 x 1.5 x 6 mm
EXPECTED = {
    "spatial_dims": 2,
    "normalize_nonzero": False,
    "intensity_statistics": None,
    "spacing": None,
    "image_size": None,
    "intensity_window": None,
}


def measured(root: Path, images: list[Path], level: str = "full", axis: str = "axial") -> Fingerprint:
    lists = {"training": [], "unlabeled": [{"image": str(image)} for image in images]}
    cohort = open_listed_cases(lists, {0: "background", 1: "organ"}, "made", str(root))
    report = examine_cohort(cohort, 1, level, True, use_cache=False)
    return measure_cohort(report.cases, axis, "RAS", 1)


@pytest.fixture(scope="module")
def planned(shared_cohort: CohortFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a training without any size given."""
    folder = tmp_path_factory.mktemp("planned")
    run_here("training", "train.json", dataset_dir=str(shared_cohort.root), output_dir=str(folder), **SHORT)
    return folder


def test_a_training_without_sizes_plans_them_and_says_so(planned: Path) -> None:
    plan = json.loads((planned / "plan.json").read_text())
    fingerprint = Fingerprint.from_json(json.loads((planned / "fingerprint.json").read_text()))
    assert len(fingerprint.shapes) == 4
    assert fingerprint.labeled == 2
    found = make_plan(fingerprint, Machine("cpu", 8.0), {"max_iterations": (2, "given")})
    assert {id_: plan[id_]["value"] for id_ in EXPECTED} == EXPECTED
    assert plan["patch_size"] == {
        "value": found.patch_size,
        "rule": "choose_patch_size",
        "why": next(made.why for made in found.decisions if made.id == "patch_size"),
    }
    assert plan["max_iterations"] == {"value": 2, "rule": "", "why": "given"}
    log = (planned / "training.log").read_text()
    assert all(f"\n{line}" in log for line in found.table() if not line.startswith(("labeled", "unlabeled", "cache")))


def test_the_run_s_record_has_the_values_in_place_of_the_references(planned: Path) -> None:
    config, record = (json.loads((planned / name).read_text()) for name in ("config.json", "model.json"))
    plan = json.loads((planned / "plan.json").read_text())
    assert "$@plan." not in json.dumps(config)
    for id_ in ("patch_size", "spacing", "labeled_batch_size"):
        assert config[id_] == plan[id_]["value"]
    assert config["network_def"]["channels"] == plan["network_def#channels"]["value"] == record["network"]["channels"]
    assert record["preprocessing"]["patch_size"] == plan["patch_size"]["value"]


def test_evaluation_and_a_resumed_training_read_the_record(
    planned: Path, shared_cohort: CohortFolder, caplog: pytest.LogCaptureFixture
) -> None:
    where = {"dataset_dir": str(shared_cohort.root), "output_dir": str(planned)}
    parser = run_here("evaluating", "train.json", "evaluate.json", **where, device="cpu")
    plan = json.loads((planned / "plan.json").read_text())
    assert parser.get_parsed_content("patch_size") == plan["patch_size"]["value"]
    # without max_iterations, which the plan of the interrupted training has
    given = {key: value for key, value in SHORT.items() if key != "max_iterations"}
    parser = run_here("training", "train.json", **where, **given, resume=True)
    assert parser.get_parsed_content("train#trainer").state.iteration == 2
    assert "of the training that goes on" in (planned / "training.log").read_text()
    assert json.loads((planned / "plan.json").read_text()) == plan


def test_minutes_choose_the_steps_and_the_timed_ones_leave_no_trace(
    planned: Path, shared_cohort: CohortFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 seconds are two steps of 10 s; the weights are those of two given steps, which a resumed training keeps."""
    found: list[Pace] = []

    def measure(*arguments: Any) -> Pace:
        found.append(step_trial.measure_pace(*arguments))
        return Pace(step=10.0, scan=0.0, beside=0.0)

    monkeypatch.setattr(training_plan, "measure_pace", measure)
    where = {"dataset_dir": str(shared_cohort.root), "output_dir": str(tmp_path)}
    given = {key: value for key, value in SHORT.items() if key != "max_iterations"} | {"time_budget": 0.4}
    run_here("training", "train.json", **where, **given)
    assert all(0 < seconds < 100 for seconds in (found[0].step, found[0].scan, found[0].beside))
    plan = json.loads((tmp_path / "plan.json").read_text())["max_iterations"]
    assert (plan["value"], plan["rule"]) == (2, "choose_steps_in_time")
    weights = [torch.load(folder / "model.pt", weights_only=True) for folder in (planned, tmp_path)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    parser = run_here("training", "train.json", **where, **given, resume=True)
    assert parser.get_parsed_content("train#trainer").state.iteration == 2
    assert len(found) == 1


def test_minutes_win_over_the_steps_of_a_plan_file(
    shared_cohort: CohortFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_plan, "measure_pace", lambda *_: Pace(step=10.0, scan=0.0, beside=0.0))
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"max_iterations": {"value": 9}, "patch_size": {"value": [16, 16]}}))
    where = {"dataset_dir": str(shared_cohort.root), "device": "cpu", "plan_file": str(file)}
    for minutes, steps in ((0.4, 2), (None, 9)):
        parser = run_here("planning", "train.json", "plan.json", **where, time_budget=minutes)
        plan = parser.get_parsed_content("plan")
        assert (plan.max_iterations, plan.patch_size) == (steps, [16, 16])


def test_too_little_memory_is_said_with_the_keys_to_lower(
    shared_cohort: CohortFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory, "host_memory_gb", lambda: 0.3)
    where = {"dataset_dir": str(shared_cohort.root), "device": "cpu", "amp": False, "labeled_batch_size": 64}
    run_here("planning", "train.json", "plan.json", **where)
    assert "a training step needs about 0.26 GB, of 0.15 GB for it: lower patch_size, labeled_batch_" in caplog.text


def test_scans_are_kept_on_disk_only_while_the_training_runs(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    left = tmp_path / ".kept_scans" / "labeled" / "0.pt"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"of a killed training")
    seen: list[list[str]] = []

    class Look:
        def attach(self, engine: Engine) -> None:
            engine.add_event_handler(
                Events.EPOCH_COMPLETED, lambda: seen.append(sorted(path.name for path in tmp_path.glob(".kept_*/*/*")))
            )

    where = {"dataset_dir": str(shared_cohort.root), "output_dir": str(tmp_path)}
    run_here("training", "train.json", **where, **SHORT, cache_rate=0.5, **{"train#handlers": [Look()]})
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert (plan["cache_rate"]["rule"], plan["cache_on_disk"]["value"]) == ("", True)
    # one of two labelled scans, one of two unlabelled ones, and the one to validate on
    assert seen == [["0.pt", "1.pt", "1.pt"]]
    assert not (tmp_path / ".kept_scans").exists()


def test_a_plan_is_shown_written_changed_and_given_back(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    words = ["--dataset_dir", str(shared_cohort.root), "--device", "cpu", "--patch_size", "[16,16]"]
    shown = command_here("plan", *words, "--plan_output", str(file), module="vqseg_bundle")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "patch_size               [16, 16]" in shown.stdout + shown.stderr
    again = command_here("plan", *words, "--plan_output", str(file), module="vqseg_bundle")
    assert again.returncode == 1
    assert f"plan_output {file}: the file exists; give another name." in again.stderr
    assert "INFO" not in again.stdout + again.stderr  # before the scans are looked at
    file.write_text(json.dumps({"labeled_batch_size": {"value": 3}, "patch_size": {"value": [24, 24]}}))
    parser = run_here(
        "planning", "train.json", "plan.json", dataset_dir=str(shared_cohort.root), plan_file=str(file), device="cpu"
    )
    found = parser.get_parsed_content("plan")
    assert (found.labeled_batch_size, found.patch_size, found.strides) == (3, [24, 24], [2, 2])
    assert next(made.why for made in found.decisions if made.id == "patch_size") == f"given in {file}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network_def#channels": [8, 16], "network_def#strides": [2, 2]}, r"network_def#channels \[8, 16\] want 1"),
        ({"network_def#channels": [8, "x"]}, r"network_def#channels must hold a width for each level, got \[8, 'x'\]"),
        ({"network_def#strides": ["2"]}, r"network_def#strides must hold one entry between each two levels"),
        ({"network_def#code_level": 2, "patch_size": [16, 16]}, r"code_level 2 lies below the deepest level"),
        ({"network_def#reconstruction_channels": [8, 8, 8]}, r"reconstruction_channels must hold 2 widths, one per"),
        ({"spatial_dims": 3, "patch_size": [16, 16]}, r"patch_size must hold 3 sizes in voxels"),
        ({"intensity_statistics": [0, 1]}, r"intensity_statistics are of intensities within a window: give intensity_"),
        ({"labeled_batch_size": 0}, r"--labeled_batch_size: expected a whole number from 1 to 100000, found 0"),
    ],
)
def test_what_contradicts_is_refused_by_name(
    shared_cohort: CohortFolder, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    refused(tmp_path / "out", message, "training", "train.json", dataset_dir=str(shared_cohort.root), **settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"plan_file .*plan\.json cannot be read"),
        ('{"patch": {"value": 1}}', r"expected the keys spatial_dims, .*, found patch"),
        ('{"patch_size": [16, 16]}', r'key "patch_size": expected an object with a "value"'),
        ('{"strides": {"value": 1}}', r"found strides"),
        ('{"patch_size": {"value": "$exit()"}}', r"patch_size must hold 2 sizes in voxels"),
        ('{"normalize_nonzero": {"value": "false"}}', r"plan\.json: normalize_nonzero: expected true or false"),
        ('{"max_iterations": {"value": 0}}', r"plan\.json: max_iterations: expected a whole number from 1"),
        *(
            (
                f'{{"network_def#code_level": {{"value": {level}}}}}',
                rf"plan\.json: network_def#code_level: expected a whole number of at least 0, or none, found {found}\.",
            )
            for level, found in (('"2"', "'2'"), ("2.5", r"2\.5"), ("-1", "-1"), ("true", "True"))
        ),
    ],
)
def test_a_faulty_plan_file_is_refused(shared_cohort: CohortFolder, tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "plan.json"
    file.write_text(content)
    where = {"dataset_dir": str(shared_cohort.root), "plan_file": str(file)}
    refused(tmp_path / "out", message, "training", "train.json", **where)


def test_ct_is_known_by_its_intensities_and_clipped_to_the_body(tmp_path: Path) -> None:
    voxels = hounsfield((16, 16, 16))
    images = [write_volume(tmp_path / f"{index}.nii.gz", voxels) for index in range(3)]
    found = measured(tmp_path, images)
    inside = voxels[voxels > -950].astype(float)
    assert (found.modality, found.nonzero_share, found.without_geometry) == ("CT", 1.0, 0)
    assert found.body is not None
    np.testing.assert_allclose([found.body.low, found.body.high], np.percentile(inside, [0.5, 99.5]))
    np.testing.assert_allclose([found.body.mean, found.body.deviation], [inside.mean(), inside.std()])
    plan = make_plan(found, Machine())
    assert plan.intensity_window == [round(found.body.low, 1), round(found.body.high, 1)]
    assert plan.intensity_statistics == [round(found.body.mean, 1), round(found.body.deviation, 1)]
    assert measured(tmp_path, images, "headers").body is None


def test_rows_are_in_the_network_s_order_with_the_slices_last(tmp_path: Path) -> None:
    image = write_volume(tmp_path / "a.nii.gz", np.ones((4, 5, 6), np.int16), np.diag([-3.0, 1.0, 2.0, 1.0]))
    found = measured(tmp_path, [image], axis="sagittal")
    assert (found.shapes, found.spacings) == (((5, 6, 4),), ((1.0, 2.0, 3.0),))


def test_the_box_around_what_is_not_zero(tmp_path: Path) -> None:
    voxels = np.zeros((10, 10, 10), np.int16)
    voxels[2:7, 3:5, :] = 7
    image = write_volume(tmp_path / "a.nii.gz", voxels)
    picture = write_picture(tmp_path / "b.png", np.full((8, 8), 3, np.uint8))
    assert measured(tmp_path, [image]).nonzero_share == pytest.approx(0.5 * 0.2)
    assert measured(tmp_path, [picture]).without_geometry == 1


def test_every_reference_of_the_configuration_is_to_a_planned_value() -> None:
    config = json.loads((ROOT / "configs" / "train.json").read_text(encoding="utf-8"))
    plan = make_plan(Fingerprint(((64, 64, 9),), ((1.0, 1.0, 1.0),)), Machine())
    assert "$@plan." not in json.dumps(with_planned_values(config, plan))


def test_views_that_are_not_square_cannot_be_turned(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    where = {"dataset_dir": str(shared_cohort.root), "patch_size": [32, 16], "quarter_turns": 0.5}
    message = r"quarter_turns 0\.5: expected a view as wide as high, found patch_size \[32, 16\]"
    refused(tmp_path / "out", message, "training", "train.json", **where)
