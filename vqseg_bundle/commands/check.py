"""Look for faults in a cohort before training on it: ``vqseg check --help``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from vqseg_bundle.common import shell_line, vqseg_words
from vqseg_bundle.data import FINDING_KINDS, CheckReport, DataError, Finding, examine_cohort, open_cohort

__all__ = ["main"]

_EPILOG = """exit code:
  0 no errors (with --strict: no warnings either), 1 findings, 2 the command or the datalist cannot be used

examples:
  vqseg check DIR
  vqseg check --datalist lists/acdc.json --dataset-dir ACDC --json acdc_check.json
"""
_FINDINGS_SHOWN = 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the findings and end with the documented exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    options.dataset_dir = options.dataset_dir or options.folder
    if not options.datalist and not options.dataset_dir:
        parser.error("expected a folder with a datalist.json in it, vqseg check DIR, or --datalist FILE")
    try:
        report = _check(options)
    except DataError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    sys.exit(1 if report.errors or (options.strict and report.warnings) else 0)


def _check(options: argparse.Namespace) -> CheckReport:
    output = Path(options.json).expanduser() if options.json else None
    if output is not None and output.exists() and not options.force:
        raise DataError(f"--json {output}: the file exists; give another name, or --force to overwrite it.")
    if options.intensity_window and not options.intensity_window[0] < options.intensity_window[1]:
        low, high = options.intensity_window
        raise DataError(f"--intensity-window: expected LOW below HIGH, found {low:g} {high:g}.")
    start = time.monotonic()
    cohort = open_cohort(options.dataset_dir, options.datalist, "", options.uneven_slices, options.allow_outside_files)
    report = examine_cohort(
        cohort,
        options.in_channels,
        options.level,
        allow_no_labeled=options.allow_no_labeled,
        progress=not options.no_progress,
        use_cache=not options.no_cache,
        clipped=options.intensity_window is not None,
    )
    root = Path(options.dataset_dir or Path(options.datalist).parent).expanduser().absolute()
    findings = "\n".join(_findings(report.findings, options.all)).replace(f"{root}{os.sep}", "")
    print("\n".join([*_summary(report.summary), "", findings, "", _verdict(report, time.monotonic() - start)]))
    if output is not None:
        _write(output, report)
    if not report.errors:
        print(f"next: {shell_line(_next_words(options))}")
    return report


def _next_words(options: argparse.Namespace) -> list[str]:
    """A training of what was checked, with the keys that the check was given."""
    words = [*vqseg_words(), "train"]
    for key in ("dataset_dir", "datalist"):
        words += [f"--{key}", getattr(options, key)] if getattr(options, key) else []
    words += ["--in_channels", str(options.in_channels)] if options.in_channels != 1 else []
    if options.intensity_window:
        low, high = options.intensity_window
        words += ["--intensity_window", f"[{low:g},{high:g}]"]
    words += ["--uneven_slices", options.uneven_slices] if options.uneven_slices != "refuse" else []
    flags = ("allow_no_labeled", "allow_outside_files")
    return words + [word for key in flags if getattr(options, key) for word in (f"--{key}", "true")]


def _write(output: Path, report: CheckReport) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"--json {output}: cannot be written ({error.strerror}); give another place.") from error
    print(f"wrote {output}")


def _summary(summary: dict[str, Any]) -> list[str]:
    lines = [f"cohort {summary['name']}", "", f"{'split':<20}{'patients':>10}{'cases':>10}{'labels':>10}"]
    for split, counts in summary["splits"].items():
        lines.append(f"{split:<20}{counts['patients']:>10}{counts['cases']:>10}{counts['labels']:>10}")
    if summary["classes"][0]["share"] is not None:
        lines += ["", f"{'class':<20}{'labels':>10}{'voxels':>14}{'share':>10}"]
        for known in summary["classes"]:
            name = f"{known['index']} {known['name']}"
            lines.append(f"{name:<20}{known['labels']:>10}{known['voxels']:>14}{known['share']:>10.2%}")
    lines.append("")
    for title, key in (("shape", "shape"), ("spacing, mm", "spacing_mm")):
        if summary[key]:
            low, middle, high = (" x ".join(f"{v:g}" for v in summary[key][part]) for part in ("min", "median", "max"))
            lines.append(f"{title:<20}" + (low if low == high else f"{low} to {high}, median {middle}"))
    axes = ", ".join(f"{code} ({count})" for code, count in summary["orientations"].items())
    lines.append(f"{'axes':<20}{axes}")
    if 2 * summary["identity_affines"] > sum(summary["orientations"].values()):
        lines.append(f"{'identity affines':<20}{summary['identity_affines']}: the spacing may have been lost")
    return lines


def _findings(findings: Iterable[Finding], show_all: bool) -> list[str]:
    lines = [f"{'severity':<9}{'code':<23}{'findings':>8}  meaning"]
    for code, group in groupby(findings, key=lambda finding: finding.code):
        members, kind = list(group), FINDING_KINDS[code]
        lines.append(f"{kind.severity:<9}{code:<23}{len(members):>8}  {kind.meaning}")
        shown = members if show_all else members[:_FINDINGS_SHOWN]
        lines += [f"           {member.text}" for member in shown]
        if len(members) > len(shown):
            lines.append(f"           ... and {len(members) - len(shown)} more")
        lines += [f"           -> {advice}" for advice in dict.fromkeys(member.advice for member in members)]
    return lines if len(lines) > 1 else ["no findings"]


def _verdict(report: CheckReport, seconds: float) -> str:
    errors, warnings = len(report.errors), len(report.warnings)
    counts = f"{errors} error{'' if errors == 1 else 's'}, {warnings} warning{'' if warnings == 1 else 's'}"
    return f"{counts} ({report.level} check, {seconds:.1f} s)"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vqseg check",
        description="Look for faults in a cohort: files, geometry, voxels, labels, duplicates, splits, outliers. "
        "Errors stop a training, warnings do not. docs/data_check.md explains each code.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("folder", nargs="?", metavar="DIR", help="folder to which the datalist's paths are relative (default: its own)")
    add("--datalist", metavar="FILE", help="datalist (default: datalist.json or dataset.json in DIR)")
    add("--dataset-dir", "--dataset_dir", metavar="DIR", help="the same as DIR")
    add("--in-channels", "--in_channels", type=int, default=1, metavar="N", help="channels per image (default: 1)")
    add("--level", choices=("full", "headers"), default="full", help="headers: voxels are not read (default: full)")
    add("--allow-no-labeled", "--allow_no_labeled", action="store_true", help='accept an empty "training" list')
    outside = "accept a datalist that names files outside its folder"
    add("--allow-outside-files", "--allow_outside_files", action="store_true", help=outside)
    uneven = "as in training: DICOM series whose slices are not evenly spaced (default: refuse)"
    add("--uneven-slices", "--uneven_slices", choices=("refuse", "accept"), default="refuse", help=uneven)
    window = "as in training: extreme values are clipped (default: percentiles, which such values would distort)"
    add("--intensity-window", "--intensity_window", type=float, nargs=2, metavar=("LOW", "HIGH"), help=window)
    add("--json", metavar="FILE", help="also write the report (schema: docs/data_check.schema.json)")
    add("--force", action="store_true", help="overwrite an existing --json file")
    add("--all", action="store_true", help=f"print all findings of a kind, not {_FINDINGS_SHOWN}")
    add("--strict", action="store_true", help="end with code 1 on warnings as well")
    add("--no-cache", action="store_true", help="read every file again and store no results")
    add("--no-progress", action="store_true", help="no progress bar")
    return parser
