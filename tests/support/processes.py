"""Groups of processes for the tests, forked from a server that has imported what takes long."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp

__all__ = ["CONTEXT", "run_group"]

multiprocessing.set_forkserver_preload(["monai.bundle", "vqseg_bundle.bundle", "vqseg_bundle.engines", "pytest"])

#: processes start in a tenth of a second; none of them has computed anything, and each is new
CONTEXT = multiprocessing.get_context("forkserver")


def run_group(function: Callable[..., None], size: int, *arguments: Any) -> None:
    """Call ``function(rank, *arguments)`` in so many processes; an error in one of them is raised here."""
    mp.start_processes(function, arguments, size, start_method="forkserver")
