"""The machine that a training runs on, and its memory."""

from __future__ import annotations

import os

import torch

from vqseg_bundle.planning import Machine

__all__ = ["host_memory_gb", "measure_machine"]

_SHARE = {"cuda": 0.8, "cpu": 0.5}  # of all memory for a training step; on a CPU the scans lie in the same
_UNKNOWN_GB = 8.0


def measure_machine(device: str, amp: bool) -> Machine:
    """Kind and memory of a device.

    All memory counts, not what is free at the moment, so that a cohort is planned alike each time.

    Args:
        device: an existing one, such as "cpu" or "cuda:1".
        amp: whether it trains in mixed precision.
    """
    chosen = torch.device(device)
    if chosen.type != "cuda":
        return Machine("cpu", _SHARE["cpu"] * host_memory_gb())
    total = torch.cuda.get_device_properties(chosen).total_memory
    return Machine("cuda", _SHARE["cuda"] * total / 1e9, half=amp)


def host_memory_gb() -> float:
    """Memory of the machine in GB (1e9 bytes); 8 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN_GB
