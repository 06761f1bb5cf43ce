"""Small cohorts on disk and ways to run the bundle on them, for the tests of whole commands."""

from __future__ import annotations

import gc
import io
import json
import logging
import os
import runpy
import signal
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, create_workflow
from monai.utils import set_determinism

from vqseg_bundle.bundle.records.log_file import STATS_LOGGERS

__all__ = [
    "CONFIGS",
    "FORMER_CONFIGS",
    "LABELS",
    "ROOT",
    "TINY",
    "TWO_STEPS",
    "CohortFolder",
    "Result",
    "Trained",
    "as_arguments",
    "command_here",
    "keys_of",
    "loss_terms",
    "make_volumes",
    "oblique_affine",
    "places_of",
    "process_kept",
    "read_json",
    "refused",
    "run_command",
    "run_here",
    "run_python",
    "write_cohort",
]

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
#: version to a ``config.json`` that a training of it wrote
FORMER_CONFIGS = {path.stem.removeprefix("config_"): path for path in (ROOT / "tests/support/former_runs").iterdir()}
LABELS = {"0": "background", "1": "shell", "2": "core"}
IN_PLANE, THICK = 1.5, 6.0

#: A network and a training of seconds: 6 iterations in epochs of 4, so that the last epoch is short; the same numbers
#: on every CPU.
TINY = {
    "patch_size": [32, 32],
    "max_iterations": 6,
    "iterations_per_epoch": 4,
    "labeled_batch_size": 2,
    "unlabeled_batch_size": 2,
    "device": "cpu",
    "amp": False,
    "network_def#channels": [4, 8, 16],
    "network_def#strides": [2, 2],
    "network_def#reconstruction_channels": [4, 8],
    "network_def#num_embeddings": 32,
    "network_def#embedding_dim": 8,
}
TWO_STEPS = {**TINY, "max_iterations": 2, "iterations_per_epoch": 2}

Result = subprocess.CompletedProcess[str]


class CohortFolder:
    """A folder of volumes with its datalist; tests spoil one or the other.

    Attributes:
        root: the folder.
        datalist: what its ``datalist.json`` holds; call :meth:`save` after a change.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.datalist: dict[str, Any] = {"name": "nested", "labels": dict(LABELS)}

    def add(self, split: str, name: str, image: nib.Nifti1Image, label: nib.Nifti1Image | None) -> None:
        """Write a case and list it."""
        entry = {"image": f"images/{name}.nii.gz"}
        self.write(entry["image"], image)
        if label is not None:
            entry["label"] = f"labels/{name}.nii.gz"
            self.write(entry["label"], label)
        self.datalist.setdefault(split, []).append(entry)

    def write(self, name: str, volume: nib.Nifti1Image) -> None:
        """Write a volume under a name relative to the folder."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(volume, path)

    def save(self) -> None:
        """Write the datalist."""
        (self.root / "datalist.json").write_text(json.dumps(self.datalist))


class Trained(NamedTuple):
    """A finished command.

    Attributes:
        cohort: what it ran on.
        output_dir: where it wrote.
        result: how it ended and what it printed.
    """

    cohort: CohortFolder
    output_dir: Path
    result: Result


def make_volumes(
    seed: int, shape: tuple[int, int, int] = (32, 32, 4), affine: np.ndarray | None = None
) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """An image and its label: a bright core in a less bright shell, two ellipsoids of one center, and noise."""
    rng = np.random.default_rng(seed)
    axes = [np.linspace(-1, 1, size) for size in shape]
    center = rng.uniform(-0.2, 0.2, 3)
    distance = np.sqrt(sum((grid - c) ** 2 for grid, c in zip(np.meshgrid(*axes, indexing="ij"), center, strict=True)))
    label = ((distance < 0.75).astype(np.uint8) + (distance < 0.4)).astype(np.uint8)
    image = (100.0 * label + rng.normal(0, 20, shape)).astype(np.float32)
    affine = np.diag([IN_PLANE, IN_PLANE, THICK, 1.0]) if affine is None else affine
    return nib.Nifti1Image(image, affine), nib.Nifti1Image(label, affine)


def write_cohort(root: Path) -> CohortFolder:
    """Two labelled, two unlabelled, one validation and two test cases, of which one is oblique, odd-sized, cut first.

    Its test case ``turned`` has 5 slices along the first axis, of 30 x 37 pixels.
    """
    cohort = CohortFolder(root)
    counts = {"training": 2, "unlabeled": 2, "validation": 1, "test": 1}
    seed = 0
    for split, count in counts.items():
        for _ in range(count):
            image, label = make_volumes(seed)
            cohort.add(split, f"case_{seed}", image, None if split == "unlabeled" else label)
            seed += 1
    cohort.add("test", "turned", *make_volumes(seed, (5, 30, 37), oblique_affine()))
    cohort.save()
    return cohort


def oblique_affine() -> np.ndarray:
    """Rotated by 0.3 about the first axis, spacing 7 x 0.9 x 1.3 mm, first axis flipped, shifted."""
    c, s = np.cos(0.3), np.sin(0.3)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.diag([-7.0, 0.9, 1.3])
    affine[:3, 3] = [11.0, -23.0, 5.0]
    return affine


def run_command(*arguments: str, cwd: Path = ROOT, module: str = "monai.bundle", timeout: int = 400) -> Result:
    """The command that a user types; see :func:`run_python`."""
    return run_python("-m", module, *arguments, cwd=cwd, timeout=timeout)


def run_python(*words: str, cwd: Path, installed: Path | None = None, timeout: int = 400) -> Result:
    """Python in a process of its own that finds no installed copy of this package, but for one in ``installed``.

    Python's ``-S`` leaves out an editable install (a .pth file); the other packages' folders are put on the path.
    """
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    path = os.pathsep.join(dict.fromkeys([*([str(installed)] if installed else []), *folders]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-S", "-W", "ignore", *words]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


def command_here(*arguments: str, cwd: Path = ROOT, module: str = "monai.bundle") -> Result:
    """What :func:`run_command` does, in this process, without the seconds that imports take; it is left as it was."""
    out, errors, threads = io.StringIO(), io.StringIO(), torch.get_num_threads()
    code = 0
    with pytest.MonkeyPatch.context() as patch, process_kept(), redirect_stdout(out), redirect_stderr(errors):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", [module, *arguments])
        patch.setenv("HF_HUB_OFFLINE", "1")
        torch.set_num_threads(1)
        gc.collect()  # finalizers of a command before must not run amid this one
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of modules that are imported already
                runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            # a text is what Python prints, alone, before it ends with status 1
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            errors.write(f"{end.code}\n" if isinstance(end.code, str) else "")
        finally:
            torch.set_num_threads(threads)
    return Result([module, *arguments], code, out.getvalue(), errors.getvalue())


def run_here(
    run_id: str, *configs: str | Path, before: Callable[[ConfigParser], None] | None = None, **overrides: Any
) -> ConfigParser:
    """What ``monai.bundle run`` does, in this process, which is left as it was found.

    Args:
        run_id: such as "training".
        configs: names in configs/, or paths.
        before: called after the checks, before the first step.
        overrides: keys of the configuration.

    Returns:
        The parser, for a look at what was built.
    """
    overrides = {"bundle_root": str(ROOT), "logging_file": False, "run_id": run_id, **overrides}
    with process_kept():
        workflow = create_workflow(config_file=[str(CONFIGS / name) for name in configs], **overrides)
        if before is not None:
            before(workflow.parser)
        workflow.run()
        return workflow.parser


@contextmanager
def process_kept() -> Iterator[None]:
    """Undo what a run does to the process: determinism, ``sys.path``, log handlers, signals, start of processes."""
    root = logging.getLogger()
    started = torch.multiprocessing.get_start_method(allow_none=True)
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    path, level, handlers = list(sys.path), root.level, list(root.handlers)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        set_determinism(None)
        torch.multiprocessing.set_start_method(started, force=True)
        for number, former in signals.items():
            signal.signal(number, former)
        sys.path[:] = path
        root.setLevel(level)
        for logger in (root, *map(logging.getLogger, STATS_LOGGERS)):
            for handler in set(logger.handlers).difference(handlers):
                logger.removeHandler(handler)
                handler.close()


def refused(output_dir: Path, message: str, *command: str, **overrides: Any) -> None:
    """A command ends by a message before anything is trained or saved.

    A text as the code of SystemExit is what Python prints, alone, before it ends with status 1.
    """
    with pytest.raises(SystemExit, match=message) as caught:
        run_here(*command, **{"output_dir": str(output_dir), "device": "cpu", **overrides})
    assert isinstance(caught.value.code, str)
    assert not list(output_dir.glob("**/*.pt"))


def places_of(cohort: CohortFolder, output_dir: Path) -> dict[str, str]:
    """The keys of the two folders."""
    return {"dataset_dir": str(cohort.root), "output_dir": str(output_dir)}


def keys_of(cohort: CohortFolder, output_dir: Path, **overrides: Any) -> dict[str, Any]:
    """Those and others, on the CPU."""
    return {**places_of(cohort, output_dir), "device": "cpu", **overrides}


def loss_terms(parser: ConfigParser) -> dict[str, float]:
    """Of the last step of a training."""
    output = parser.get_parsed_content("train#trainer").state.output
    return {name: value.item() for name, value in output["terms"]._asdict().items()}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def as_arguments(overrides: dict[str, Any]) -> list[str]:
    """Overrides as they are typed."""
    return [word for key, value in overrides.items() for word in (f"--{key}", str(value))]
