"""The bundle from Python: ``train``, ``segment`` and ``load``, the same configurations as on the command line.

.. code-block:: python

    from vqseg_bundle import load, segment, train

    run = train(dataset_dir="DIR", output_dir="OUT")
    segment("FOLDER", run)
    predictor = load(run)
    classes = predictor("volume.nii.gz").classes
"""

from __future__ import annotations

import logging
import random
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import torch
from monai.bundle import create_workflow
from monai.utils import get_seed, set_determinism
from nibabel.spatialimages import SpatialImage
from torch.backends import cudnn

from vqseg_bundle.bundle.records.folder_lock import folders_left_at_end
from vqseg_bundle.bundle.records.log_file import STATS_LOGGERS
from vqseg_bundle.bundle.records.model_record import load_model_record
from vqseg_bundle.common import expand_user, near_configs_text, project_folder, read_overlay
from vqseg_bundle.data import in_model_order, read_header, read_voxels

__all__ = ["Prediction", "Predictor", "load", "segment", "train"]

#: MONAI's loggers of what a caller knows already, or can do nothing about
_NOTES = ("bundle.scripts", "bundle.workflows", "data.nvimgcodec_pydicom_plugin")
#: the shell's code for a process that a signal ended is this plus the signal's number
_SIGNALLED = 128
_PATHS = ("dataset_dir", "datalist", "output_dir", "checkpoint", "initial_weights")


class Prediction(NamedTuple):
    """A segmented volume.

    Attributes:
        classes: class map ``(X, Y, Z)`` on the volume's own grid, of one slice for an image of two axes. Its values are
            those that the command writes: class indices, or the training's ``label_values``.
        affine: from indices to mm, RAS, ``(4, 4)``.
        labels: value in ``classes`` to name of the class, in the order of ``probabilities``.
        probabilities: of each class, ``(C, X, Y, Z)`` float32; None where they were not asked for.
    """

    classes: np.ndarray
    affine: np.ndarray
    labels: dict[int, str]
    probabilities: np.ndarray | None


class Predictor:
    """Segments one volume after the other with trained weights; see :func:`load`.

    Attributes:
        labels: value in its class maps to name of the class, in the order of the classes.
    """

    def __init__(self, checkpoint: Path, device: str | None = None) -> None:
        self.checkpoint = checkpoint
        record = load_model_record(checkpoint)
        values, names = record["label_values"], sorted(record["labels"].items())
        self.labels: dict[int, str] = {values.get(index, index): name for index, name in names}
        self._channel_names = record["info"].get("channel_names", [])
        self._keys = {} if device is None else {"device": device}

    def __call__(
        self,
        volume: str | Path | nib.Nifti1Image | np.ndarray,
        spacing: Sequence[float] | None = None,
        probabilities: bool = False,
    ) -> Prediction:
        """Segment a volume as ``vqseg segment`` does.

        Args:
            volume: a file or a folder with a DICOM series, or a path in a cohort's form
                (:mod:`vqseg_bundle.data.formats.volume_path`); or an image of nibabel; or an array ``(X, Y, Z)`` whose
                axes run to the patient's right, front and head, as nibabel's do for RAS.
            spacing: mm along the axes; of arrays only, which need it.
            probabilities: whether to return them, too.

        Raises:
            ValueError: the volume cannot be used, or an array is given without a spacing above 0; the message
                says why.
        """
        with tempfile.TemporaryDirectory(prefix="vqseg-") as scratch:
            source = _as_path(volume, spacing, Path(scratch), self._channel_names)
            keys = {**self._keys, "dicom_seg": False, "contact_sheet": False, "save_probabilities": probabilities}
            out = _infer(source, Path(scratch) / "out", checkpoint=str(self.checkpoint), **keys)
            found = [str(path) for path in sorted(out.glob("*_pred.nii.gz"))]
            if len(found) != 1:
                raise ValueError(f"{source}: expected one volume, found {len(found)}; segment(...) takes folders.")
            # files have their source's unit and number of axes; these readers give mm and three axes
            classes, affine = read_voxels(found[0]), read_header(found[0]).affine
            shares = [read_voxels(str(path)) for path in out.glob("*_probabilities.nii.gz")]
            each = np.moveaxis(shares[0], -1, 0) if shares else None
            return Prediction(classes, affine, self.labels, each)


def load(run: str | Path, device: str | None = None) -> Predictor:
    """A predictor with the weights of a training.

    Args:
        run: the training's ``output_dir``, or its ``model.pt``.
        device: "cpu", "cuda" or "cuda:N"; None takes a GPU if there is one.

    Raises:
        FileNotFoundError: there are no weights.
        ValueError: their record cannot be used.
    """
    path = Path(expand_user(run)).absolute()  # the caller may change folders before the first volume
    path = path / "model.pt" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there are no trained weights; name the output_dir of a training.")
    return Predictor(path, device)


def train(output_dir: str | Path = "runs/train", overlays: str | Path | Sequence[str | Path] = (), **keys: Any) -> Path:
    """Train, as ``vqseg train`` does.

    Args:
        output_dir: folder of all output.
        overlays: a further configuration or several, files or names in ``configs``, such as "supervised.json".
        keys: keys of the configuration, such as ``dataset_dir="DIR"``, or ``**{"optimizer#eps": 1e-7}``.

    Returns:
        the folder, for :func:`load` and :func:`segment`.

    Raises:
        ValueError: an input or a setting is at fault; the message says which.
        KeyboardInterrupt: SIGINT (Ctrl-C) or SIGTERM has stopped it, after the step that is saved.
    """
    configs = project_folder() / "configs"
    names = [overlays] if isinstance(overlays, str | Path) else overlays
    files = [Path(name) if Path(name).is_file() else configs / name for name in names]
    for file in files:
        if not file.is_file():
            near = near_configs_text(file.name, configs)
            raise ValueError(f"overlays: expected files, here or in {configs}, found none called {file.name}.{near}")
        read_overlay(file)
    if not {"dataset_dir", "datalist"} & set(keys):
        keys["cohort#demo_dir"] = str(Path("data") / "demo_cohort")
    folder = expand_user(output_dir)
    _run("training", [configs / "train.json", *files], output_dir=folder, **keys)
    return Path(folder)


def segment(source: str | Path, run: str | Path, **keys: Any) -> Path:
    """Segment a volume, or every volume of a folder, as ``vqseg segment`` does.

    Args:
        source: the volume or folder.
        run: a training's ``output_dir``, which also receives the predictions.
        keys: keys of the configuration, such as ``device="cpu"``.

    Returns:
        the folder of the predictions.

    Raises:
        ValueError: an input is at fault; the message says which.
    """
    return _infer(expand_user(source), Path(expand_user(run)), **keys)


def _infer(source: str | Path, output_dir: Path, **keys: Any) -> Path:
    configs = [project_folder() / "configs" / "inference.json"]
    parser = _run("inference", configs, dataset_dir=str(source), output_dir=str(output_dir), **keys)
    return Path(parser.get_parsed_content("prediction_dir"))


def _run(run_id: str, configs: Sequence[Path], **keys: Any) -> Any:
    for key in _PATHS:
        # other signs that MONAI evaluates are refused in the run, before which it looks for this one
        if (path := str(keys.get(key) or "")).startswith("%"):
            raise ValueError(
                f"--{key}: expected a path, found '{path}', which MONAI would evaluate because of its first sign. "
                f"Write ./{path} for a file or folder of that name."
            )
    with _randomness_kept(), _process_kept():
        try:
            workflow = create_workflow(
                config_file=[str(path) for path in configs],
                run_id=run_id,
                logging_file=False,
                bundle_root=str(project_folder()),
                **keys,
            )
            workflow.run()
        except SystemExit as end:
            if isinstance(end.code, int) and end.code > _SIGNALLED:
                # no fault of an input, which a loop over trainings would pass over
                raise KeyboardInterrupt(f"stopped by {signal.Signals(end.code - _SIGNALLED).name}") from end
            raise ValueError(str(end)) from end
        return workflow.parser


@contextmanager
def _process_kept() -> Iterator[None]:
    """Leave the caller's process as it was, and MONAI's notes unsaid.

    That is its import path, log handlers, folders, PyTorch's number of threads, how it starts processes, and cuDNN's
    choice of algorithms.
    """
    path, notes = list(sys.path), [logging.getLogger(f"monai.{name}") for name in _NOTES]
    loggers = [logging.getLogger(name) for name in (None, *STATS_LOGGERS)]
    handlers, levels = [list(logger.handlers) for logger in loggers], [note.level for note in notes]
    threads, chosen = torch.get_num_threads(), (cudnn.deterministic, cudnn.benchmark)
    started = torch.multiprocessing.get_start_method(allow_none=True)
    for note in notes:
        note.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), folders_left_at_end():
            for message in ("parsing config_file", "NvImgCodecPydicomReader"):
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        sys.path[:] = path
        torch.set_num_threads(threads)
        torch.multiprocessing.set_start_method(started, force=True)
        cudnn.deterministic, cudnn.benchmark = chosen
        for note, level in zip(notes, levels, strict=True):
            note.setLevel(level)
        for logger, before in zip(loggers, handlers, strict=True):
            for handler in set(logger.handlers).difference(before):
                logger.removeHandler(handler)
                handler.close()


@contextmanager
def _randomness_kept() -> Iterator[None]:
    """Leave the global generators as they were, and MONAI's seed, with which every later ``Compose`` would begin."""
    seed, states = get_seed(), (random.getstate(), np.random.get_state())
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        try:
            yield
        finally:
            chosen = cudnn.deterministic, cudnn.benchmark
            set_determinism(seed)
            cudnn.deterministic, cudnn.benchmark = chosen
            random.setstate(states[0])
            np.random.set_state(states[1])


def _as_path(volume: Any, spacing: Sequence[float] | None, scratch: Path, channel_names: Sequence[str]) -> Path:
    """The volume as a file; arrays and images are written to one, so that all go the same way."""
    if isinstance(volume, str | Path):
        path = Path(volume).expanduser()
        if path.exists() or not set("|#") & set(str(volume)):
            return path
        # separate channels, or one of several DICOM series: no single file or folder
        ordered = in_model_order(str(volume), channel_names)
        volume = nib.Nifti1Image(read_voxels(ordered).astype(np.float32), read_header(ordered).affine)
    if isinstance(volume, np.ndarray):
        volume = nib.Nifti1Image(volume.astype(np.float32), _affine(volume, spacing))
    if not isinstance(volume, SpatialImage):
        raise ValueError(f"expected a path, an image of nibabel or an array, found {type(volume).__name__}.")
    nib.save(volume, scratch / "volume.nii.gz")
    return scratch / "volume.nii.gz"


def _affine(volume: np.ndarray, spacing: Sequence[float] | None) -> np.ndarray:
    """From indices of an array to mm; a spacing below zero would mirror its axis."""
    try:
        sizes = np.asarray(spacing, dtype=float)
    except (TypeError, ValueError):  # no numbers
        sizes = np.zeros(3)
    if volume.ndim != 3 or sizes.shape != (3,) or not (np.isfinite(sizes) & (sizes > 0)).all():
        raise ValueError(
            "expected an array (X, Y, Z) with its spacing, three finite numbers above 0 in mm, found shape "
            f"{volume.shape} and spacing {spacing}."
        )
    return np.diag([*sizes, 1.0])
