"""The machine that a training runs on, its memory and the space on its disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

from vqseg_bundle.common import process_count
from vqseg_bundle.planning import Machine

__all__ = ["host_memory_gb", "measure_machine"]

_SHARE = {"cuda": 0.8, "cpu": 0.5}  # of all memory for a training step; on a CPU the scans lie in the same
_SCANS_SHARE = 0.3  # of all memory, for the scans of all processes
_UNKNOWN_GB = 8.0
_OWN_GROUPS, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def measure_machine(device: str, amp: bool, output_dir: str) -> Machine:
    """Kind and memory of a device.

    All memory counts, not what is free at the moment, so that a cohort is planned alike each time.

    Args:
        device: an existing one, such as "cpu" or "cuda:1".
        amp: whether it trains in mixed precision.
        output_dir: where the training writes; the folder may not exist yet.
    """
    chosen, host = torch.device(device), host_memory_gb()
    folder = Path(output_dir).absolute()
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    disk, scans = shutil.disk_usage(existing).free / 1e9, _SCANS_SHARE * host / process_count()
    if chosen.type != "cuda":
        return Machine("cpu", _SHARE["cpu"] * host, half=amp, scans_gb=scans, disk_gb=disk)
    total = torch.cuda.get_device_properties(chosen).total_memory
    return Machine("cuda", _SHARE["cuda"] * total / 1e9, half=amp, scans_gb=scans, disk_gb=disk)


def host_memory_gb() -> float:
    """Memory of the machine, or of the container or job, in GB (1e9 bytes); 8 where the system does not say."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (AttributeError, ValueError, OSError):
        total = _UNKNOWN_GB
    return min([total, *_group_limits_gb()])


def _group_limits_gb() -> Iterator[float]:
    """The memory limits of this process's control groups, version 1 or 2, and of those above them."""
    with suppress(OSError):
        for line in _OWN_GROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            name = "memory.limit_in_bytes" if controllers else "memory.max"
            place = Path(controllers) / path.strip("/")
            for folder in (place, *place.parents):
                limit = _GROUPS / folder / name
                text = limit.read_text().strip() if limit.is_file() else ""
                if text.isdecimal():
                    yield int(text) / 1e9
