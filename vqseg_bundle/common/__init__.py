"""The ground floor, which every layer may import: files written in one step, processes, keys of batches."""

from vqseg_bundle.common.atomic_files import json_value, replacing, write_json, write_text
from vqseg_bundle.common.batch_keys import FEATURES
from vqseg_bundle.common.process_group import gather_objects, process_count, process_rank, wait_for_all

__all__ = [
    "FEATURES",
    "gather_objects",
    "json_value",
    "process_count",
    "process_rank",
    "replacing",
    "wait_for_all",
    "write_json",
    "write_text",
]
