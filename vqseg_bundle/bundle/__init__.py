"""What the JSON configurations and the commands call, and the bundle from Python; this sub-package joins the others."""

from __future__ import annotations

from vqseg_bundle.bundle.cohort.cohort_source import open_cohort
from vqseg_bundle.bundle.cohort.foundation_cache import cache_foundation_features
from vqseg_bundle.bundle.cohort.run_geometry import choose_run_orientation, training_orientation, training_slice_axis
from vqseg_bundle.bundle.cohort.scan_features import ScanFeatures
from vqseg_bundle.bundle.deployed.deployment import build_deployed_network, open_model_record, start_evaluation
from vqseg_bundle.bundle.deployed.ensemble import load_further_networks
from vqseg_bundle.bundle.deployed.inference import finish_inference, list_inference_cases, start_inference
from vqseg_bundle.bundle.deployed.largest_components import KeepChosenComponentsd, check_largest_component
from vqseg_bundle.bundle.deployed.reconstruction import open_reconstructor
from vqseg_bundle.bundle.machine.computing import choose_amp, fork_loaders, set_threads
from vqseg_bundle.bundle.machine.processes import join_processes, run_together, run_training
from vqseg_bundle.bundle.python_interface import Prediction, Predictor, load, segment, train
from vqseg_bundle.bundle.records.closing import close_evaluation, close_inference, close_training
from vqseg_bundle.bundle.records.folder_lock import FolderLock
from vqseg_bundle.bundle.records.found_weights import find_checkpoint
from vqseg_bundle.bundle.records.model_record import (
    check_compatible,
    load_model_record,
    load_weights,
    write_model_record,
)
from vqseg_bundle.bundle.records.run_record import (
    check_writable,
    evaluation_folder,
    prediction_folder,
    prepare_output_dir,
    training_folder,
    write_run_record,
)
from vqseg_bundle.bundle.settings.clean_exit import exit_cleanly
from vqseg_bundle.bundle.settings.components import build_cleanly, check_device, check_preprocessing, check_settings
from vqseg_bundle.bundle.settings.named_sides import mirrored_sides
from vqseg_bundle.bundle.settings.overrides import prepare_overrides
from vqseg_bundle.bundle.settings.resumed_settings import check_unchanged
from vqseg_bundle.bundle.settings.running_workflow import running_parser
from vqseg_bundle.bundle.training.continuation import check_continuation
from vqseg_bundle.bundle.training.former_start import start_training
from vqseg_bundle.bundle.training.training_plan import check_plan_output, plan_training, record_plan, show_plan
from vqseg_bundle.bundle.training.training_start import (
    DeployedWeights,
    announce_training,
    build_foundation_model,
    check_run,
    check_training_data,
    describe_training,
    open_training_folder,
    record_training,
)
from vqseg_bundle.bundle.training.transform_trial import try_transforms

__all__ = [
    "DeployedWeights",
    "FolderLock",
    "KeepChosenComponentsd",
    "Prediction",
    "Predictor",
    "ScanFeatures",
    "announce_training",
    "build_cleanly",
    "build_deployed_network",
    "build_foundation_model",
    "cache_foundation_features",
    "check_compatible",
    "check_continuation",
    "check_device",
    "check_largest_component",
    "check_plan_output",
    "check_preprocessing",
    "check_run",
    "check_settings",
    "check_training_data",
    "check_unchanged",
    "check_writable",
    "choose_amp",
    "choose_run_orientation",
    "close_evaluation",
    "close_inference",
    "close_training",
    "describe_training",
    "evaluation_folder",
    "exit_cleanly",
    "find_checkpoint",
    "finish_inference",
    "fork_loaders",
    "join_processes",
    "list_inference_cases",
    "load",
    "load_further_networks",
    "load_model_record",
    "load_weights",
    "mirrored_sides",
    "open_cohort",
    "open_model_record",
    "open_reconstructor",
    "open_training_folder",
    "plan_training",
    "prediction_folder",
    "prepare_output_dir",
    "prepare_overrides",
    "record_plan",
    "record_training",
    "run_together",
    "run_training",
    "running_parser",
    "segment",
    "set_threads",
    "show_plan",
    "start_evaluation",
    "start_inference",
    "start_training",
    "train",
    "training_folder",
    "training_orientation",
    "training_slice_axis",
    "try_transforms",
    "write_model_record",
    "write_run_record",
]
