"""What an earlier run's files in an output folder are, which the next run moves aside, and inputs, which stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from monai.bundle import ConfigParser

__all__ = ["EVALUATION_OUTPUTS", "RUN_OUTPUTS", "check_inputs_stay", "named_inputs"]

EVALUATION_OUTPUTS = (
    "metrics.csv",
    "summary.json",
    "report.html",
    "evaluation_config.json",
    "evaluation_run.json",
    "evaluation.log",
    "evaluation/predictions",
)
"""Files of an evaluation in its output folder, besides ``predictions``, which may be an inference's."""

RUN_OUTPUTS = (
    "model.pt",
    "model.json",
    "resume.pt",
    "resume.previous.pt",
    "config.json",
    "run.json",
    "resumed_config.json",
    "resumed_run.json",
    "plan.json",
    "fingerprint.json",
    "training.log",
    "events.out.tfevents.*",
    "tensorboard",
    "progress.csv",
    "progress.png",
    "codebook",
    *EVALUATION_OUTPUTS,
    "predictions",
    "inference/predictions",
)
"""Those of a run; all other files are the user's and are kept, so names are given whole where they are known."""

_INPUTS = (
    "dataset_dir",
    "datalist",
    "checkpoint",
    "initial_weights",
    "plan_file",
    "encoder_weights",
    "foundation_weights",
    "foundation_feature_dir",
)


def named_inputs(parser: ConfigParser) -> list[tuple[str, str]]:
    """Key and path of each file and folder that a run reads, the images and labels of its cohort included.

    Args:
        parser: the running configuration's.
    """
    given = [(key, parser.get_parsed_content(key)) for key in _INPUTS if parser.get(key) is not None]
    return [*((key, str(path)) for key, path in given if path), *_cohort_files(parser)]


def _cohort_files(parser: ConfigParser) -> Iterator[tuple[str, str]]:
    cohort = parser.get_parsed_content("cohort") if "cohort" in parser else None
    for cases in cohort.splits().values() if cohort is not None else ():
        for case in cases:
            yield from ((key, case[key]) for key in ("image", "label") if key in case)


def check_inputs_stay(folder: Path, moved: Sequence[Path], inputs: Sequence[tuple[str, str]]) -> None:
    """Refuse to move files aside if an input of the run is one of them, or lies in one of them.

    Args:
        folder: the output folder.
        moved: what would be moved.
        inputs: see :func:`named_inputs`.

    Raises:
        ValueError: an input would be moved; nothing has been.
    """
    places = {path.resolve(): path for path in moved}
    for key, name in inputs:
        place = Path(name).expanduser().resolve()
        holder = next((places[part] for part in (place, *place.parents) if part in places), None)
        if holder is not None:
            raise ValueError(
                f"output_dir {folder}: expected no input among an earlier run's files there, which would move to "
                f"previous-<time>/, found {key} {name} in {holder}. Name another output_dir, or move the input out of "
                "it and name its new place. Nothing was moved."
            )
