"""Cohorts: datalists, checks before training, the embedded demo cohort, and datalists made from folders."""

from .checking.checks import CheckedCases, check_cases, check_cohort, examine_cohort, require_sound
from .checking.facts import CaseFacts
from .checking.findings import FINDING_KINDS, Finding, FindingKind
from .checking.report import CheckReport
from .cohorts.candidates import Candidates, find_candidates
from .cohorts.cohort import data_digest, find_other_images, open_cohort, open_listed_cases
from .cohorts.cold_start import ColdStart, choose_rows, standardize
from .cohorts.datalist import DATALIST_SPLITS, Cohort, DataError, load_datalist
from .cohorts.demo_anatomy import DEMO_LABELS, DemoCohortConfig, make_demo_volume
from .cohorts.demo_cohort import in_demo_cohort, write_demo_cohort
from .cohorts.draws import Draw, SeededDataset, SharedRandomSampler
from .cohorts.frames_apart import FramesApart, find_frames_apart
from .cohorts.kept_cases import KeptCases
from .cohorts.next_scans import least_sure
from .cohorts.patient_files import KeptLists, LabeledFile, read_kept_lists, read_labeled_file, read_split_file
from .cohorts.patient_splits import SplitRequest, split_patients
from .cohorts.sharing import ReadableDataset, evenly_spread, process_share
from .errors import file_list
from .features.scan_summaries import ScanSummary, summarize_scans
from .features.slice_features import (
    FoundationFeatureStore,
    compute_slice_features,
    content_digest,
    missing_images,
    open_feature_store,
    slice_features,
)
from .features.slice_grid import SliceGrid, SliceGridRule
from .features.view_features import (
    COORDINATE_KEYS,
    AddTokenCoordinatesd,
    JoinTokenCoordinatesd,
    SampleFoundationFeaturesd,
    sample_features,
)
from .features.volume_statistics import volume_statistics
from .formats.load_volume import OTHER_AFFINE, LoadVolumed, VolumeReader
from .formats.volume_io import (
    VolumeHeader,
    check_ignore_last,
    parse_label_values,
    read_classes,
    read_header,
    read_label_values,
    read_voxels,
    source_files,
)
from .geometry.orientation import (
    LabelToImaged,
    OrientVolumed,
    check_orientation,
    find_orientation,
    readable_headers,
    run_orientation,
)
from .geometry.slice_axis import (
    SliceAxisLastd,
    choose_slice_axis,
    cohort_slice_axis,
    headers_slice_axis,
    name_slice_axis,
    sliced_geometry,
)
from .geometry.training_geometry import has_geometry, training_geometry, unlike_training
from .layouts.channel_files import in_model_order
from .layouts.channel_names import channel_key, channels_differ
from .layouts.file_roles import is_result_folder
from .layouts.folder_layouts import (
    FoundCase,
    FoundClasses,
    find_cases,
    find_channel_names,
    find_classes,
    find_misplaced_names,
)
from .layouts.found_case import case_stem
from .layouts.unused_files import find_unused_files
from .layouts.volume_folder import list_volumes, place_to_segment
from .output.certainty import MeasureCertaintyd, foreground_uncertainty, soft_dice_confidence
from .output.dicom_seg import SaveDicomSegd, check_segment_codes, write_dicom_seg
from .output.volume_writer import SOURCE_KEY, KeepSourced, NameByCased, VolumeWriter, class_map_dtype

__all__ = [
    "COORDINATE_KEYS",
    "DATALIST_SPLITS",
    "DEMO_LABELS",
    "FINDING_KINDS",
    "OTHER_AFFINE",
    "SOURCE_KEY",
    "AddTokenCoordinatesd",
    "Candidates",
    "CaseFacts",
    "CheckReport",
    "CheckedCases",
    "Cohort",
    "ColdStart",
    "DataError",
    "DemoCohortConfig",
    "Draw",
    "Finding",
    "FindingKind",
    "FoundCase",
    "FoundClasses",
    "FoundationFeatureStore",
    "FramesApart",
    "JoinTokenCoordinatesd",
    "KeepSourced",
    "KeptCases",
    "KeptLists",
    "LabelToImaged",
    "LabeledFile",
    "LoadVolumed",
    "MeasureCertaintyd",
    "NameByCased",
    "OrientVolumed",
    "ReadableDataset",
    "SampleFoundationFeaturesd",
    "SaveDicomSegd",
    "ScanSummary",
    "SeededDataset",
    "SharedRandomSampler",
    "SliceAxisLastd",
    "SliceGrid",
    "SliceGridRule",
    "SplitRequest",
    "VolumeHeader",
    "VolumeReader",
    "VolumeWriter",
    "case_stem",
    "channel_key",
    "channels_differ",
    "check_cases",
    "check_cohort",
    "check_ignore_last",
    "check_orientation",
    "check_segment_codes",
    "choose_rows",
    "choose_slice_axis",
    "class_map_dtype",
    "cohort_slice_axis",
    "compute_slice_features",
    "content_digest",
    "data_digest",
    "evenly_spread",
    "examine_cohort",
    "file_list",
    "find_candidates",
    "find_cases",
    "find_channel_names",
    "find_classes",
    "find_frames_apart",
    "find_misplaced_names",
    "find_orientation",
    "find_other_images",
    "find_unused_files",
    "foreground_uncertainty",
    "has_geometry",
    "headers_slice_axis",
    "in_demo_cohort",
    "in_model_order",
    "is_result_folder",
    "least_sure",
    "list_volumes",
    "load_datalist",
    "make_demo_volume",
    "missing_images",
    "name_slice_axis",
    "open_cohort",
    "open_feature_store",
    "open_listed_cases",
    "parse_label_values",
    "place_to_segment",
    "process_share",
    "read_classes",
    "read_header",
    "read_kept_lists",
    "read_label_values",
    "read_labeled_file",
    "read_split_file",
    "read_voxels",
    "readable_headers",
    "require_sound",
    "run_orientation",
    "sample_features",
    "slice_features",
    "sliced_geometry",
    "soft_dice_confidence",
    "source_files",
    "split_patients",
    "standardize",
    "summarize_scans",
    "training_geometry",
    "unlike_training",
    "volume_statistics",
    "write_demo_cohort",
    "write_dicom_seg",
]
