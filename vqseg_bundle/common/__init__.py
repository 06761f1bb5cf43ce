"""The ground floor, which every layer may import: files, processes, seeds, batch keys, finite numbers."""

from vqseg_bundle.common.config_files import near_configs_text, read_overlay
from vqseg_bundle.common.extras import LateModule, MissingExtraError, import_with_extra
from vqseg_bundle.common.files import (
    cache_folder,
    csv_text,
    expand_user,
    file_digest,
    is_disk_full,
    json_value,
    plain_cell,
    project_folder,
    read_json,
    relative_path_note,
    remove_partial_files,
    replacing,
    shell_line,
    write_json,
    write_text,
)
from vqseg_bundle.common.permissions import find_permission_error, permission_text
from vqseg_bundle.common.process_group import gather_objects, process_count, process_rank, wait_for_all
from vqseg_bundle.common.seeds import derive_seed
from vqseg_bundle.common.tensors import (
    FEATURES,
    SOURCE,
    NonFiniteError,
    all_finite,
    exact_dtype,
    is_memory_full,
    named_tensors,
    non_finite_names,
)
from vqseg_bundle.common.typed_command import begun_by, path_from_here, typed_command, vqseg_words
from vqseg_bundle.common.visible_text import VISIBLE_UTF8, print_any_name, visible_line

__all__ = [
    "FEATURES",
    "SOURCE",
    "VISIBLE_UTF8",
    "LateModule",
    "MissingExtraError",
    "NonFiniteError",
    "all_finite",
    "begun_by",
    "cache_folder",
    "csv_text",
    "derive_seed",
    "exact_dtype",
    "expand_user",
    "file_digest",
    "find_permission_error",
    "gather_objects",
    "import_with_extra",
    "is_disk_full",
    "is_memory_full",
    "json_value",
    "named_tensors",
    "near_configs_text",
    "non_finite_names",
    "path_from_here",
    "permission_text",
    "plain_cell",
    "print_any_name",
    "process_count",
    "process_rank",
    "project_folder",
    "read_json",
    "read_overlay",
    "relative_path_note",
    "remove_partial_files",
    "replacing",
    "shell_line",
    "typed_command",
    "visible_line",
    "vqseg_words",
    "wait_for_all",
    "write_json",
    "write_text",
]
