"""How folders of cases are laid out: a module for each layout, in the form of :class:`FoundCase`."""

from .acdc import find_acdc
from .brats import find_brats
from .decathlon import find_decathlon, read_channel_names, read_decathlon_labels
from .found_case import FoundCase
from .pairs import find_pairs, pair_folders
from .split_folders import find_split_folders

__all__ = [
    "FoundCase",
    "find_acdc",
    "find_brats",
    "find_decathlon",
    "find_pairs",
    "find_split_folders",
    "pair_folders",
    "read_channel_names",
    "read_decathlon_labels",
]
