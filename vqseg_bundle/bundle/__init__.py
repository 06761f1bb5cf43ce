"""What the JSON configurations call in ``initialize``; the one sub-package that may join the others."""

from __future__ import annotations

from vqseg_bundle.bundle.cohort_source import open_cohort
from vqseg_bundle.bundle.components import build_cleanly, check_device, check_preprocessing, check_settings
from vqseg_bundle.bundle.deployment import (
    build_deployed_network,
    finish_inference,
    list_inference_cases,
    open_model_record,
    start_evaluation,
    start_inference,
)
from vqseg_bundle.bundle.folder_lock import FolderLock
from vqseg_bundle.bundle.foundation_cache import cache_foundation_features
from vqseg_bundle.bundle.model_record import (
    check_compatible,
    find_checkpoint,
    load_model_record,
    load_weights,
    write_model_record,
)
from vqseg_bundle.bundle.overrides import exit_cleanly, prepare_overrides, running_parser
from vqseg_bundle.bundle.processes import join_processes, run_together, run_training
from vqseg_bundle.bundle.reconstruction import open_reconstructor
from vqseg_bundle.bundle.run_geometry import choose_run_orientation, training_orientation, training_slice_axis
from vqseg_bundle.bundle.run_record import check_writable, prediction_folder, prepare_output_dir, write_run_record
from vqseg_bundle.bundle.training_start import DeployedWeights, build_foundation_model, start_training

__all__ = [
    "DeployedWeights",
    "FolderLock",
    "build_cleanly",
    "build_deployed_network",
    "build_foundation_model",
    "cache_foundation_features",
    "check_compatible",
    "check_device",
    "check_preprocessing",
    "check_settings",
    "check_writable",
    "choose_run_orientation",
    "exit_cleanly",
    "find_checkpoint",
    "finish_inference",
    "join_processes",
    "list_inference_cases",
    "load_model_record",
    "load_weights",
    "open_cohort",
    "open_model_record",
    "open_reconstructor",
    "prediction_folder",
    "prepare_output_dir",
    "prepare_overrides",
    "run_together",
    "run_training",
    "running_parser",
    "start_evaluation",
    "start_inference",
    "start_training",
    "training_orientation",
    "training_slice_axis",
    "write_model_record",
    "write_run_record",
]
