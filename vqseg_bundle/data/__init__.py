"""Cohorts: datalists, checks before training, the embedded demo cohort, and datalists made from folders."""

from .case_names import case_stem
from .checks import check_cases, check_cohort
from .cohort import open_cohort
from .datalist import DATALIST_SPLITS, Cohort, DataError, load_datalist
from .demo_anatomy import DEMO_LABELS, DemoCohortConfig, make_demo_volume
from .demo_cohort import write_demo_cohort
from .digest import data_digest
from .folder_layouts import FoundCase, find_cases, find_label_names
from .name_by_case import NameByCased
from .patient_splits import SplitRequest, read_split_file, split_patients
from .slice_axis import SliceAxisLastd, choose_slice_axis
from .volume_folder import list_volumes
from .volume_io import VolumeHeader, read_header, read_voxels

__all__ = [
    "DATALIST_SPLITS",
    "DEMO_LABELS",
    "Cohort",
    "DataError",
    "DemoCohortConfig",
    "FoundCase",
    "NameByCased",
    "SliceAxisLastd",
    "SplitRequest",
    "VolumeHeader",
    "case_stem",
    "check_cases",
    "check_cohort",
    "choose_slice_axis",
    "data_digest",
    "find_cases",
    "find_label_names",
    "list_volumes",
    "load_datalist",
    "make_demo_volume",
    "open_cohort",
    "read_header",
    "read_split_file",
    "read_voxels",
    "split_patients",
    "write_demo_cohort",
]
