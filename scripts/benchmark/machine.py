"""The machine of a measurement."""

from __future__ import annotations

import os
import platform
import re
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import torch

__all__ = ["describe_machine", "describe_moment"]

_PACKAGES = ("torch", "monai", "vqseg_bundle", "vector-quantize-pytorch", "faiss-cpu")


def describe_machine(device: str, threads: int) -> dict[str, str]:
    """Processor, memory, device and versions, by name."""
    described = {
        "processor": f"{_processor()}, {os.cpu_count()} logical cores, {threads} threads used",
        "memory": f"{_memory_bytes() / 1e9:.0f} GB",
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "packages": ", ".join(f"{name} {version}" for name in _PACKAGES if (version := _version(name))),
    }
    if torch.device(device).type == "cuda":
        described["device"] = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return described


def describe_moment() -> str:
    """The time, and the machine's load by other work."""
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return f"{now}, other load {os.getloadavg()[0]:.1f}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), flags=re.MULTILINE)
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
