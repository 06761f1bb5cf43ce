"""Choose which scans to label first, or next: ``vqseg choose --help``."""

from __future__ import annotations

import argparse
import ast
import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from vqseg_bundle import __version__
from vqseg_bundle.bundle import Predictor, ScanFeatures, load
from vqseg_bundle.bundle.settings.components import check_given
from vqseg_bundle.bundle.settings.setting_table import check_values
from vqseg_bundle.common import shell_line, vqseg_words, write_json, write_text
from vqseg_bundle.data import (
    Candidates,
    ColdStart,
    DataError,
    ScanSummary,
    check_cases,
    choose_rows,
    file_list,
    find_candidates,
    foreground_uncertainty,
    least_sure,
    standardize,
)
from vqseg_bundle.handlers.report import ShownPatient, render_choice

__all__ = ["main"]

_EPILOG = """\
The scans are divided into as many groups as are to be labelled; the one nearest the middle of each is chosen. Scans
are alike if a foundation model finds them so (--foundation_weights); without one, if size, histogram and bright part
are. Patients labelled already stand for their like. If DIR has a datalist, its validation and test patients take
no part. With --model only the third that a trained model is least sure of is divided.

examples:
  vqseg choose DIR --count 5 --foundation_weights dinov2_vits14_pretrain.pth
  vqseg data DIR --labeled-file DIR/choice.json --validation-count 10 --test-count 20     (once they are labelled)
  vqseg choose DIR --count 5 --model OUT                                                  (the next five)
"""
_SETTINGS = {
    "in_channels": "channels per image (default: 1)",
    "slice_axis": "axial, coronal or sagittal (default: the coarsest axis)",
    "intensity_window": "such as [-1000,400] (default: percentiles of each volume)",
    "spacing": "mm to resample to (default: unchanged)",
    "image_size": "voxels to resize to (default: unchanged)",
}
_DEFAULT_MODEL = "dinov2_vits14"


class _Choice(NamedTuple):
    """The patients in the order of the rows, those without labels first, and what was chosen."""

    patients: list[str]
    scans: dict[str, list[str]]
    features: np.ndarray
    summaries: dict[str, ScanSummary]
    labeled: list[int]
    found: ColdStart
    uncertainties: dict[str, float]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the scans to label; write the choice and its page."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except (FileNotFoundError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


def _run(options: argparse.Namespace) -> None:
    start = time.monotonic()
    root = Path(options.dataset_dir).expanduser()
    output = Path(options.output).expanduser() if options.output else root / "choice.json"
    page = output.with_suffix(".html")
    for path in (output, page):
        if path.exists() and not options.force:
            raise DataError(f"--output {output}: {path} exists; give another name, or --force to overwrite it.")
    if output.suffix != ".json":
        raise DataError(f"--output {output}: expected a name that ends in .json; the page beside it ends in .html.")
    settings = _settings(options)
    candidates = find_candidates(
        root, options.datalist, options.patient_pattern, options.ignore_labels, options.allow_outside_files
    )
    if not 1 <= options.count <= len(candidates.scans):
        raise DataError(
            f"--count: expected 1 to {len(candidates.scans)} (patients without labels in {candidates.source}), found "
            f"{options.count}."
        )
    model = options.foundation_model or (_DEFAULT_MODEL if options.foundation_weights else "none")
    choice = _choose(candidates, settings, model, options)
    root = root.absolute()
    files = {patient: [_relative(image, root) for image in images] for patient, images in choice.scans.items()}
    try:
        write_json(output, _record(choice, files, candidates, model, options))
        write_text(page, _page(choice, files, candidates, model, root.name))
    except OSError as error:
        raise DataError(f"--output {output}: cannot be written ({error.strerror}); give another place.") from error
    print("\n".join(_summary(choice, files)))
    print(f"wrote {output}\nwrote {page} (open it in a browser; {time.monotonic() - start:.0f} s in all)")
    next_words = [*vqseg_words(), "data", options.dataset_dir, "--labeled-file", str(output)]
    if candidates.held_out:  # the datalist's held-out patients and classes stay
        next_words += [*(["--output", options.datalist] if options.datalist else []), "--force"]
    print(f"next: label these scans, then {shell_line(next_words)}")


def _choose(candidates: Candidates, settings: Mapping[str, Any], model: str, options: argparse.Namespace) -> _Choice:
    predictor = load(options.model, options.device) if options.model else None  # refused before the features' minutes
    scans = {**candidates.scans, **candidates.labeled}
    images = [image for patient in scans for image in scans[patient]]
    _check(images, settings, options)
    features = ScanFeatures(images, settings, model, options.foundation_weights, options.slices, options.device)
    summaries = dict(zip(images, features.summarize(not options.no_progress, not options.no_cache), strict=True))
    lengths = {len(summary.features) for summary in summaries.values()}
    if len(lengths) > 1:
        raise DataError(
            f"{candidates.source}: expected scans of one kind, found features of {sorted(lengths)} numbers."
        )
    rows = [np.mean([summaries[image].features for image in scans[patient]], axis=0) for patient in scans]
    standard = standardize(np.stack(rows))
    labeled = list(range(len(candidates.scans), len(scans)))
    unsure = _uncertainties(predictor, candidates.scans, options) if predictor else {}
    eligible = least_sure(list(unsure.values()), options.count) if unsure else None
    found = choose_rows(standard, options.count, labeled, options.seed, eligible)
    return _Choice(list(scans), scans, standard, summaries, labeled, found, unsure)


def _uncertainties(
    predictor: Predictor, scans: Mapping[str, Sequence[str]], options: argparse.Namespace
) -> dict[str, float]:
    """How unsure the model is of each patient, the mean over the patient's scans."""
    found = {}
    logging.disable(logging.WARNING)  # each inference would tell its settings
    try:
        for patient, images in tqdm(scans.items(), desc="predicting", disable=options.no_progress):
            each = [predictor(image, probabilities=True).probabilities for image in images]
            found[patient] = float(np.mean([foreground_uncertainty(part) for part in each if part is not None]))
    finally:
        logging.disable(logging.NOTSET)
    return found


def _check(images: Sequence[str], settings: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Refuse what a training would refuse, every fault named."""
    checked = check_cases(
        [{"image": image} for image in images],
        {},
        settings.get("in_channels", 1),
        progress=not options.no_progress,
        use_cache=not options.no_cache,
        clipped="intensity_window" in settings,
    )
    if checked.errors:
        lines = "\n".join(f"- {error}" for error in checked.errors[:20])
        raise DataError(f"{len(checked.errors)} scans cannot be used:\n{lines}")
    for warning in checked.warnings:
        logging.getLogger(__name__).warning(warning)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """The training's keys as typed, of their kind; refuses what is none, and what a training refuses."""
    found: dict[str, Any] = {}
    for key in _SETTINGS:
        typed = getattr(options, key)
        if typed is None:
            continue
        try:
            found[key] = ast.literal_eval(typed)
        except (SyntaxError, ValueError):
            found[key] = typed
        is_list = isinstance(found[key], list | tuple) and all(isinstance(v, int | float) for v in found[key])
        lengths = {"intensity_window": (2,), "spacing": (2, 3), "image_size": (2, 3)}.get(key)
        if lengths and not (is_list and len(found[key]) in lengths):
            raise DataError(f"--{key}: expected {' or '.join(map(str, lengths))} numbers, [a,b], found {typed}.")
        found[key] = list(found[key]) if lengths else found[key]
    if refusals := check_values(found):
        raise DataError(refusals[0])
    try:
        check_given(found)
    except ValueError as error:
        raise DataError(f"--{error}") from error
    return found


def _relative(image: str, root: Path) -> str:
    return image.replace(f"{root}/", "")


def _chosen(choice: _Choice) -> list[str]:
    return [choice.patients[row] for row in choice.found.chosen]


def _stand_for(choice: _Choice, position: int) -> int:
    """Number of patients in a cluster."""
    return int((choice.found.clusters == position).sum())


def _record(
    choice: _Choice,
    files: Mapping[str, Sequence[str]],
    candidates: Candidates,
    model: str,
    options: argparse.Namespace,
) -> dict[str, Any]:
    chosen = _chosen(choice)
    return {
        "chosen": chosen,
        "labeled": list(candidates.labeled),
        "held_out": candidates.held_out,
        "labels": list(candidates.classes.names),
        "label_values": list(candidates.classes.values),
        "scans": {patient: files[patient] for patient in chosen},
        "stands_for": {patient: _stand_for(choice, place) for place, patient in enumerate(chosen)},
        "candidates": len(candidates.scans),
        "features": "statistics" if model == "none" else model,
        "uncertainties": {patient: round(value, 6) for patient, value in choice.uncertainties.items()},
        "features_digest": hashlib.sha256(choice.features.tobytes()).hexdigest(),
        "seed": options.seed,
        "source": candidates.source,
        "vqseg_bundle": __version__,
    }


def _page(choice: _Choice, files: Mapping[str, Sequence[str]], candidates: Candidates, model: str, title: str) -> str:
    facts = {
        "To label": file_list(_chosen(choice), most=10),
        "Patients without labels": str(len(candidates.scans)),
        "Labelled already": str(len(candidates.labeled)),
        "Features": "statistics of size, histogram and bright part" if model == "none" else model,
    }
    if choice.uncertainties:
        values = choice.uncertainties.values()
        facts["Unsure of (nats)"] = ", ".join(f"{name} {choice.uncertainties[name]:.3f}" for name in _chosen(choice))
        facts["Unsure of all (nats)"] = f"{min(values):.3f} to {max(values):.3f}"
    patients = []
    for row, patient in enumerate(choice.patients):
        shown = choice.summaries[choice.scans[patient][0]]
        cluster, distance = int(choice.found.clusters[row]), float(choice.found.distances[row])
        patients.append(ShownPatient(patient, files[patient], shown.picture, shown.row_to_column, cluster, distance))
    return render_choice(title, facts, patients, choice.features, choice.found.chosen, choice.labeled)


def _summary(choice: _Choice, files: Mapping[str, Sequence[str]]) -> list[str]:
    lines = [f"{'patient':<24}{'patients like it':>16}  scans to label"]
    for place, patient in enumerate(_chosen(choice)):
        lines.append(f"{patient:<24}{_stand_for(choice, place):>16}  {', '.join(files[patient])}")
    if choice.labeled:
        like = int((choice.found.clusters >= len(choice.found.chosen)).sum())
        lines.append(f"{'labelled already':<24}{like:>16}")
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vqseg choose",
        description="Choose which scans of a folder to label first, so that each stands for others like it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("dataset_dir", metavar="DIR", help="folder of the scans, with or without datalist.json")
    add("--count", type=int, required=True, metavar="N", help="number of patients to label")
    add("--datalist", metavar="FILE", help="datalist, if not in DIR; its validation and test patients take no part")
    add("--foundation_weights", "--foundation-weights", metavar="FILE", help="weights of a foundation model")
    model = f"its name (default: {_DEFAULT_MODEL} with weights, otherwise none)"
    add("--foundation_model", "--foundation-model", metavar="NAME", help=model)
    add("--model", metavar="OUT", help="a training's folder: choose among the third that its model is least sure of")
    add("--slices", type=int, default=8, metavar="N", help="slices of each scan that it sees (default: 8)")
    for key, meaning in _SETTINGS.items():
        add(f"--{key}", f"--{key.replace('_', '-')}", metavar="VALUE", help=f"as in training: {meaning}")
    add("--patient-pattern", metavar="REGEX", help="finds the patient in a file's name, as for vqseg data")
    add("--ignore-labels", action="store_true", help="take labelled patients for unlabelled, to try out a choice")
    add("--allow_outside_files", "--allow-outside-files", action="store_true", help="a datalist may name any files")
    add("--output", metavar="FILE", help="choice to write, with its page beside it (default: DIR/choice.json)")
    add("--force", action="store_true", help="overwrite an existing output")
    add("--seed", type=int, default=0, help="seed of the groups (default: 0)")
    add("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    add("--no-cache", action="store_true", help="compute all features again and store none")
    add("--no-progress", action="store_true", help="no progress bar")
    return parser
