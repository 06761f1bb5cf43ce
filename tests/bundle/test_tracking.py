"""Experiment tracking by MONAI's own ``--tracking mlflow``."""

from __future__ import annotations

from pathlib import Path

import pytest
from monai.bundle import ConfigParser
from support.bundle_runs import TINY, CohortFolder, as_arguments, command_here

from vqseg_bundle.bundle.tracking import adapt_tracking

ADDED = {"_target_": "MLFlowHandler", "tracking_uri": "@tracking_uri", "artifacts": "@save_execute_config"}


def test_the_added_handler_gets_the_settings_and_monais_default_stays() -> None:
    default = dict(ADDED)
    config = {"tracking_handler": {"artifacts": ["a"]}, "train": {"handlers": [{"_target_": "StatsHandler"}, default]}}
    parser = ConfigParser(config)
    adapt_tracking(parser)
    assert parser.get("train#handlers") == [{"_target_": "StatsHandler"}, {**ADDED, "artifacts": ["a"]}]
    assert default == ADDED


@pytest.mark.parametrize("config", [{"train": {"handlers": [ADDED]}}, {"tracking_handler": {"artifacts": ["a"]}}])
def test_without_settings_or_handlers_nothing_changes(config: dict) -> None:
    parser = ConfigParser(config)
    adapt_tracking(parser)
    assert parser.get() == ConfigParser(config).get()


def test_a_tracked_training_stores_losses_scores_and_files(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    overrides = {"dataset_dir": shared_cohort.root, "output_dir": tmp_path / "out", **TINY}
    overrides |= {"max_iterations": 12, "iterations_per_epoch": 6, "tracking": "mlflow", "run_name": "first"}
    result = command_here("run", "training", "--config_file", "configs/train.json", *as_arguments(overrides))
    assert result.returncode == 0, result.stdout + result.stderr
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'out' / 'mlruns.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("vqseg_bundle").experiment_id])
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert run.data.params == {"max_epochs": "2", "epoch_length": "6"}
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "loss_total")] == [10]
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "val_mean_dice")] == [1, 2]
    assert {"codebook_usage", "pseudo_label_share", "train_mean_dice", "lr_group_0"} <= set(run.data.metrics)
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"config.json", "progress.png"}
    assert not list((tmp_path / "out").glob("config_*.json"))
