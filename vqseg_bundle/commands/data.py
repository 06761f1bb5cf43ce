"""Build a datalist from a folder of volumes, split by patient: ``vqseg data --help``."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vqseg_bundle.common import shell_line, vqseg_words
from vqseg_bundle.data import (
    DATALIST_SPLITS,
    DataError,
    FoundCase,
    SplitRequest,
    file_list,
    find_cases,
    find_channel_names,
    find_frames_apart,
    find_unused_files,
    read_labeled_file,
    read_split_file,
    split_patients,
)

from .datalist_classes import datalist_classes, warn_of_names
from .decathlon_download import download_task
from .replaced_datalist import kept_lists, replaced_lists, warn_of_changes

__all__ = ["main"]

_EPILOG = """layouts:
  images/x with labels/x, in any format; a DICOM series is a folder images/x/; images without a label are unlabelled
  (also images/ and masks/, imagesTr/ and labelsTr/, in upper or lower case; labels may be named x_seg, x-label, x.seg;
  x_0000, x_0001, ... are the channels of x)
  labeled/ and unlabeled/, each with images/ (and labels/) as above
  train-label/, train-unlabel/, val/, test/, each with image/ and mask/: the published VQ-Seg code's; they fix the split
  patientNNN/patientNNN_frameNN.nii.gz with ..._gt.nii.gz, as in ACDC, also below training/ and testing/
  PATIENT/PATIENT_flair.nii.gz, _t1, _t1ce, _t2, _seg, or -t2f, -t1n, -t1c, -t2w, -seg, as in BraTS
  dataset.json of a Medical Segmentation Decathlon task or of nnU-Net 1 or 2, with its classes; imagesTs/ is unlabelled,
  or the test list if labelsTs/ has labels
  train/ and test/ (and val/), each with images/ and labels/, or as the next two; test/ and val/ fix their lists
  x.nii.gz with x_seg.nii.gz (x-label.nrrd, x.seg.nrrd) beside it
  PATIENT/ with one image and its label: image.nii.gz and label.nii.gz, ct.nii.gz and ct_seg.nii.gz, a DICOM series ...

examples:
  vqseg data DIR --labeled-count 5 --validation-count 20 --test-count 40
  vqseg data --dataset-dir ACDC --split-file ACDC/split.json --labeled-count 3 --tuning-count 10 \\
      --labels "background,right ventricle,myocardium,left ventricle"
  vqseg data --dataset-dir DIR --decathlon-task Task06_Lung --labeled-count 5 --test-count 20
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the datalist and print the numbers of patients and cases in each split."""
    parser = _parser()
    options = parser.parse_args(arguments)
    options.dataset_dir = options.dataset_dir or options.folder
    if not options.dataset_dir:
        parser.error("expected a folder: vqseg data DIR")
    try:
        _make(options)
    except DataError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


def _make(options: argparse.Namespace) -> None:
    root = Path(options.dataset_dir).expanduser()
    if options.seed < 0:
        raise DataError(f"--seed: expected a whole number from 0 on, found {options.seed}.")
    if options.decathlon_task:
        root = download_task(root, options.decathlon_task)
    output = Path(options.output).expanduser() if options.output else root / "datalist.json"
    if output.exists() and not options.force:
        raise DataError(f"--output {output}: the file exists; give another name, or --force to overwrite it.")
    former = replaced_lists(output, root)
    cases = find_cases(root, options.patient_pattern)
    chosen = read_labeled_file(Path(options.labeled_file).expanduser()) if options.labeled_file else None
    kept = kept_lists((chosen and chosen.kept) or former, cases, options.patient_pattern)
    request = SplitRequest(
        labeled_count=options.labeled_count,
        labeled_share=options.labeled_share,
        labeled_file=chosen,
        validation_count=options.validation_count,
        validation_share=options.validation_share,
        test_count=options.test_count,
        test_share=options.test_share,
        tuning_count=options.tuning_count,
        seed=options.seed,
        split_file=read_split_file(Path(options.split_file).expanduser()) if options.split_file else None,
        split_file_validation_as=options.split_file_validation_as,
        kept=kept,
    )
    _refuse_beside_fixed(cases, request)
    if request.split_file:
        cases = [case for case in cases if not case.split]
    free = [case for case in cases if not case.split]
    splits = {split: list[str]() for split in DATALIST_SPLITS}
    if free:
        patients = sorted({case.patient for case in free})
        splits = split_patients(patients, [case.patient for case in free if case.label], request)
    classes = datalist_classes(root, cases, options.labels, options.label_values, kept)
    warn_of_names(root, cases, classes, bool(options.labels))
    entries = _entries(cases, splits)
    if not options.patient_pattern:
        _warn_of_frames(entries)
    warn_of_changes(entries, former)
    channels = find_channel_names(root, cases)
    datalist = {
        "name": options.name or root.resolve().name,
        "labels": {str(index): name for index, name in enumerate(classes.names)},
        **({"label_values": list(classes.values)} if classes.values else {}),
        **({"channel_names": channels} if channels else {}),
        **entries,
    }
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(datalist, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"--output {output}: cannot be written ({error.strerror}); give another place.") from error
    print(_summary(datalist, cases, find_unused_files(root, cases)))
    if not datalist["training"] and any(case.label for case in cases):
        print("warning: no labelled patient is left for training; hold out fewer.", file=sys.stderr)
    print(f"wrote {output}\nnext: {shell_line(_next_words(datalist, root, output))}")


def _next_words(datalist: Mapping[str, Any], root: Path, output: Path) -> list[str]:
    images = [entry["image"] for split in DATALIST_SPLITS for entry in datalist[split]]
    several = next((image for image in images if isinstance(image, list)), [])
    channels = ["--in_channels", str(len(several))] if several else []
    listed = [] if output == root / "datalist.json" else ["--datalist", str(output)]
    if not datalist["training"]:
        candidates = len({entry["patient"] for entry in datalist["unlabeled"]})
        return [*vqseg_words(), "choose", str(root), *listed, "--count", str(min(5, candidates)), *channels]
    return [*vqseg_words(), "train", "--dataset_dir", str(root), *listed, *channels]


def _warn_of_frames(entries: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Name slices or frames that seem to be of one patient, but lie in lists to learn from and to evaluate on."""
    counts = Counter(entry["patient"] for listed in entries.values() for entry in listed)
    own = [
        (split, entry["patient"])
        for split, listed in entries.items()
        for entry in listed
        if counts[entry["patient"]] == 1
    ]
    apart = find_frames_apart(own)
    if apart:
        print(
            "warning: slices or frames that seem to be of one patient are both learnt from and held out: "
            f"{apart.shown}. If they are, give --patient-pattern '{apart.pattern}'.",
            file=sys.stderr,
        )


def _refuse_beside_fixed(cases: Sequence[FoundCase], request: SplitRequest) -> None:
    """Refuse options that would draw another split than the folders' own."""
    fixed = {case.split for case in cases} - {""}
    asked = [
        f"--{name.replace('_', '-')}"
        for name, value in vars(request).items()
        if name.endswith(("_count", "_share", "labeled_file")) and value
    ]
    if fixed and all(case.split for case in cases) and (asked or request.split_file):
        raise DataError(f"{', '.join(asked) or '--split-file'}: the folders fix the split; leave it out.")
    if "test" in fixed and any(option.startswith("--test") for option in asked):
        raise DataError("--test-count, --test-share: the folders fix the test list already; leave it out.")


def _entries(cases: Sequence[FoundCase], splits: dict[str, list[str]]) -> dict[str, list[dict[str, Any]]]:
    """Entries by split; of patients whose labels are used, only labelled cases, so that none is in two splits."""
    by_patient: dict[str, list[FoundCase]] = defaultdict(list)
    for case in cases:
        by_patient["" if case.split else case.patient].append(case)
    entries: dict[str, list[dict[str, Any]]] = {}
    for split in DATALIST_SPLITS:
        found = [case for patient in splits[split] for case in by_patient[patient]]
        found += [case for case in by_patient[""] if case.split == split]
        labels = split != "unlabeled"
        bare = {case.patient for case in found} - {case.patient for case in found if case.label}
        # a test patient that stays so may have no label
        without = bare if split == "test" else set()
        entries[split] = [_entry(case, labels) for case in found if case.label or not labels or case.patient in without]
    return entries


def _entry(case: FoundCase, with_label: bool) -> dict[str, Any]:
    label = {"label": case.label} if with_label and case.label else {}
    image = [case.image, *case.more_channels] if case.more_channels else case.image
    return {"image": image, **label, "patient": case.patient, **case.info}


def _summary(datalist: dict[str, Any], cases: Sequence[FoundCase], unused: Mapping[str, Sequence[str]]) -> str:
    lines = [f"{'split':<12}{'patients':>10}{'cases':>8}"]
    used: set[str] = set()
    for split in DATALIST_SPLITS:
        entries = datalist[split]
        used |= {image if isinstance(image := entry["image"], str) else image[0] for entry in entries}
        lines.append(f"{split:<12}{len({entry['patient'] for entry in entries}):>10}{len(entries):>8}")
    left = [case for case in cases if case.image not in used]
    if left:
        lines.append(f"{'left out':<12}{len({case.patient for case in left}):>10}{len(left):>8}")
    if left:
        lines.append(f"cases left out: {file_list([case.image for case in left])}")
    lines += [f"left out as {reason}: {file_list(files)}" for reason, files in unused.items() if reason]
    if others := unused.get(""):
        lines.append(f"files of no case: {len(others)} ({file_list(others)})")
    lines.append(f"labels: {', '.join(datalist['labels'].values())}")
    if "label_values" in datalist:
        lines.append(f"label values: {', '.join(map(str, datalist['label_values']))}")
    several = next((case for case in cases if case.more_channels), None)
    if several:
        files = [several.image, *several.more_channels]
        names = datalist.get("channel_names") or [Path(file).name for file in files]
        lines.append(f"channels: {', '.join(names)} (train with --in_channels {len(files)})")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vqseg data",
        description="Build a datalist (the Decathlon's JSON) from a folder of volumes or 2D images, split by patient.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("folder", nargs="?", metavar="DIR", help="folder; see the layouts below")
    add("--dataset-dir", "--dataset_dir", metavar="DIR", help="the same")
    add("--decathlon-task", metavar="NAME", help="download this task, such as Task06_Lung, into DIR (needs a network)")
    add("--output", metavar="FILE", help="datalist to write (default: DIR/datalist.json), with paths relative to DIR")
    add("--force", action="store_true", help="replace an existing output; its held-out patients and classes stay")
    add("--name", help="name of the cohort (default: the folder's)")
    add("--labels", metavar="NAMES", help='class names, "background,first,..." (default: label_1, ... as found)')
    add("--label-values", metavar="VALUES", help='values of the classes in label files, "0,1,2,4" (default: as found)')
    add("--patient-pattern", metavar="REGEX", help="finds the patient in a file name of images/, e.g. '^[^_]+'")
    for split, of in (("labeled", "training patients"), ("validation", "patients"), ("test", "patients")):
        group = parser.add_mutually_exclusive_group()
        default = "all with labels" if split == "labeled" else "those of the replaced list, or 0"
        group.add_argument(f"--{split}-count", type=int, metavar="N", help=f"{split} patients (default: {default})")
        group.add_argument(
            f"--{split}-share", type=float, metavar="F", help=f"... as a share of all {of}, rounded down"
        )
        if split == "labeled":
            group.add_argument("--labeled-file", metavar="FILE", help="... those that vqseg choose named: choice.json")
    add("--tuning-count", type=int, default=0, metavar="N", help="patients moved from unlabeled to validation")
    add("--seed", type=int, default=0, help="seed of all draws (default: 0)")
    add("--split-file", metavar="FILE", help='fixed split: JSON with patients under "training", "validation", ...')
    add(
        "--split-file-validation-as",
        choices=("test", "validation"),
        default="test",
        help="list for the split file's validation patients (default: test)",
    )
    return parser
