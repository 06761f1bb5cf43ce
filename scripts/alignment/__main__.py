"""Measure what the feature adapter learned: ``python -m scripts.alignment --help``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from scripts.alignment.loss_course import LossCourse, LossPart, loss_course, read_scalar
from scripts.alignment.measure import Measured, measure_slices
from scripts.alignment.picture import PictureRow, save_picture
from scripts.alignment.trained_run import NETWORKS, TRAINED, TrainedRun, open_run
from scripts.alignment.views import SlicePatches
from scripts.tool import check_new, errors_told, tool_parser
from vqseg_bundle.bundle import check_device
from vqseg_bundle.common import write_json

__all__ = ["main"]

_SPLITS = ("training", "unlabeled", "validation", "test")
_PICTURED = 3

_EPILOG = """what is measured:
  loss       the alignment loss of the training, mean over its first and over its last tenth (OUT/tensorboard)
  in slice   share of patches whose adapted feature is nearest, by cosine, to its own foundation feature among all
             patches of its slice
  in batch   the same among all patches of a batch of slices, most of them neighbours in one volume
The trained adapter is compared with an untrained one on the same features, with shuffled foundation features of a slice
(of a batch), with the mean foundation feature at a patch's position in all other volumes, which shows what the position
tells, and with chance. Views are the centres of all slices, cropped as in training; labels are not read.

examples:
  python -m scripts.alignment --run OUT
  python -m scripts.alignment --run OUT --split unlabeled --cases 20 --figure alignment.png
  python -m scripts.alignment --run OUT --dataset-dir DIR --datalist FILE --foundation-weights FILE
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure a run and write the results."""
    parser = _parser()
    options = parser.parse_args(arguments)
    with errors_told(parser):
        _measure(options)


def _measure(options: argparse.Namespace) -> None:
    folder = Path(options.run).expanduser()
    output = Path(options.output).expanduser() if options.output else folder / "alignment.json"
    figure = Path(options.figure).expanduser() if options.figure else None
    check_new("--output", output, options.force)
    if figure is not None:
        check_new("--figure", figure, options.force)
    check_device(options.device)
    overrides = {key: getattr(options, key) for key in ("dataset_dir", "datalist", "foundation_weights")}
    run = open_run(folder, overrides, options.network, options.device, options.seed)
    course = loss_course(read_scalar(folder / "tensorboard", "loss_alignment"), run.iterations)
    cases = _cases(run, options)
    pictures: list[PictureRow] = []
    volumes = _volumes(run, cases, pictures if figure else None)
    measured = measure_slices(volumes, TRAINED, run.alignment_loss, options.batch_size, options.seed)
    write_json(output, _record(options, run, cases, course, measured))
    print(_table(run, course, measured, len(cases)))
    print(f"wrote {output}")
    if figure is not None:
        save_picture(pictures, figure)
        print(f"wrote {figure}")


def _cases(run: TrainedRun, options: argparse.Namespace) -> list[dict[str, str]]:
    if options.cases is not None and options.cases < 1:
        raise ValueError(f"--cases must be at least 1, got {options.cases}.")
    cases: list[dict[str, str]] = getattr(run.cohort, options.split)
    if not cases:
        counts = ", ".join(f"{split} {len(getattr(run.cohort, split))}" for split in _SPLITS)
        raise ValueError(f"--split {options.split}: the datalist has no such case ({counts}); choose another split.")
    return list(cases[: options.cases])


def _volumes(
    run: TrainedRun, cases: Sequence[dict[str, str]], pictures: list[PictureRow] | None
) -> Iterator[SlicePatches]:
    """Features of each case; the middle slices of some are kept for the picture."""
    count = min(_PICTURED, len(cases))
    shown = {(2 * index + 1) * len(cases) // (2 * count) for index in range(count)}
    for index, case in enumerate(tqdm(cases, "retrieval", unit="case")):
        patches = run.features(run.preprocess({"image": case["image"]})["image"])
        if pictures is not None and index in shown:
            middle = len(patches.images) // 2
            maps = {name: values[middle] for name, values in patches.adapted.items()}
            title = f"{_name(case)}, slice {middle}"
            pictures.append(
                PictureRow(
                    title, patches.images[middle], {"foundation": patches.foundation[middle], **maps}, patches.grid
                )
            )
        yield patches


def _record(
    options: argparse.Namespace,
    run: TrainedRun,
    cases: Sequence[dict[str, str]],
    course: LossCourse,
    measured: Measured,
) -> dict[str, Any]:
    return {
        "run": run.folder.name,
        "iterations": run.iterations,
        "planned_iterations": run.planned_iterations,
        "foundation_model": run.foundation_model,
        "network": options.network,
        "seed": options.seed,
        "training_loss": asdict(course),
        "split": options.split,
        "cases": [_name(case) for case in cases],
        "slices": measured.slices,
        "grid": list(measured.grid),
        "batch_size": measured.batch_size,
        "retrieval": {
            row.name: {"slice": row.in_slice, "batch": row.in_batch, "loss": row.loss} for row in measured.rows
        },
    }


def _table(run: TrainedRun, course: LossCourse, measured: Measured, cases: int) -> str:
    planned = "" if run.iterations == run.planned_iterations else f" of {run.planned_iterations}, unfinished"
    rows, columns = measured.grid
    lines = [
        f"alignment loss of the training with {run.foundation_model} ({run.iterations} steps{planned})",
        _loss_line(course.first),
        _loss_line(course.last),
        f"  lower by {course.margin:.3f} +- {course.margin_standard_error:.3f}",
        f"retrieval in {cases} cases, {measured.slices} slices of {rows} x {columns} patches, "
        f"batches of {measured.batch_size} slices",
        f"  {'':<34}{'in slice':>10}{'in batch':>10}{'loss':>8}",
    ]
    for row in measured.rows:
        lines.append(f"  {row.name:<34}{100 * row.in_slice:>8.2f} %{100 * row.in_batch:>8.2f} %{row.loss:>8.3f}")
    return "\n".join(lines)


def _loss_line(part: LossPart) -> str:
    steps = f"steps {part.first_step} to {part.last_step} ({part.recorded} recorded)"
    return f"  {steps}: {part.mean:.3f} +- {part.standard_error:.3f}"


def _name(case: dict[str, str]) -> str:
    return Path(case["image"]).name


def _parser() -> argparse.ArgumentParser:
    parser = tool_parser(
        "alignment",
        "Measure how a training with configs/pfa.json aligned its features with the foundation model's.",
        _EPILOG,
    )
    add = parser.add_argument
    add("--run", required=True, metavar="OUT", help="the training's output_dir")
    add("--dataset-dir", "--dataset_dir", metavar="DIR", help="folder of the volumes (default: the training's)")
    add("--datalist", metavar="FILE", help="datalist (default: the training's)")
    add("--split", choices=_SPLITS, default="test", help="cases to measure on (default: test)")
    add("--cases", type=int, metavar="N", help="the first N cases of the split (default: all)")
    add("--foundation-weights", "--foundation_weights", metavar="FILE", help="checkpoint (default: the training's)")
    add(
        "--network",
        choices=NETWORKS,
        default="student",
        help="whose features; the adapter is the student's (default: student)",
    )
    add("--batch-size", type=int, default=8, metavar="N", help="slices compared with each other (default: 8)")
    add("--seed", type=int, default=0, help="seed of the shuffling and the untrained adapter (default: 0)")
    add(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help='"cpu" or "cuda" (default: CUDA if available)',
    )
    add("--output", metavar="FILE", help="JSON to write (default: OUT/alignment.json)")
    add("--figure", metavar="FILE", help=f"picture of {_PICTURED} slices and their features, in colours of one PCA")
    add("--force", action="store_true", help="overwrite existing files")
    return parser


if __name__ == "__main__":
    main()
