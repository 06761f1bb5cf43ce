"""Layouts of folders of cases: one module per layout, which finds each :class:`FoundCase`."""

from .challenges import find_acdc, find_brats
from .dataset_json import find_dataset_json, read_channel_names, read_label_names
from .found_case import FoundCase
from .pairs import find_beside, find_pairs, find_patient_folders, pair_folders
from .split_folders import find_split_folders

__all__ = [
    "FoundCase",
    "find_acdc",
    "find_beside",
    "find_brats",
    "find_dataset_json",
    "find_pairs",
    "find_patient_folders",
    "find_split_folders",
    "pair_folders",
    "read_channel_names",
    "read_label_names",
]
