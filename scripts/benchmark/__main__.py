"""Time and memory of the quantised core against its peers: ``python -m scripts.benchmark --help``."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from scripts.benchmark.apart import measure_apart
from scripts.benchmark.cases.adapter import ADAPTER
from scripts.benchmark.cases.entropy import ENTROPY
from scripts.benchmark.cases.inference import INFERENCE
from scripts.benchmark.cases.operations import SCALING, VOLUME
from scripts.benchmark.cases.perturbation import LARGE_PERTURBATION, PERTURBATION
from scripts.benchmark.cases.search import LARGE_SEARCH, SEARCH
from scripts.benchmark.cases.training import STEP_2D, STEP_3D
from scripts.benchmark.comparison import CaseDefinition, Comparison, Plan
from scripts.benchmark.machine import describe_machine, describe_moment
from scripts.benchmark.plot import save_scaling_plot
from scripts.benchmark.reference_code import check_reference_code
from scripts.benchmark.report import markdown_report
from scripts.benchmark.runner import RunSettings, expected_seconds
from scripts.benchmark.store import case_record, load_case, save_case
from scripts.benchmark.timing import CLOCKS
from scripts.documents import write_between_markers

__all__ = ["CASES", "main"]

#: Every case, in the report's order.
CASES: dict[str, CaseDefinition] = {
    "search": SEARCH,
    "search-large": LARGE_SEARCH,
    "qpm": PERTURBATION,
    "qpm-large": LARGE_PERTURBATION,
    "entropy": ENTROPY,
    "step": STEP_2D,
    "step-3d": STEP_3D,
    "adapter": ADAPTER,
    "inference": INFERENCE,
    "volume": VOLUME,
    "scaling": SCALING,
}

_EPILOG = """output:
  OUTPUT/<case>.json for each case, and OUTPUT/report.md (with OUTPUT/scaling.png) of all cases found there, those of
  earlier calls included: cases can be measured one by one. "--cases" without a name only writes the report.

examples:
  python -m scripts.benchmark --quick
  python -m scripts.benchmark --cases search qpm --reference-code VQ-Seg
  python -m scripts.benchmark --cases --write docs/performance.md

vector-quantize-pytorch and faiss are measured where they are installed: pip install .[bench]
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the cases asked for and write the report."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        settings = RunSettings(
            options.device, options.threads, options.repeats, options.memory_limit * 1e9, options.clock
        )
        if options.reference_code:
            check_reference_code(options.reference_code)
        _check_device(options.device)
        if options.foundation_weights:
            _check_weights(Path(options.foundation_weights))
        torch.set_num_threads(settings.threads)
        output = Path(options.output)
        _measure_cases(options, settings, output)
        _write_report(output, Path(options.write) if options.write else None)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


def _check_device(device: str) -> None:
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device is {device}, but PyTorch finds no CUDA device; use --device cpu.")


def _check_weights(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"--foundation-weights {path}: there is no such file; leave it out for random weights.")


def _measure_cases(options: argparse.Namespace, settings: RunSettings, output: Path) -> None:
    plan = Plan(options.device, options.quick, options.reference_code, options.foundation_weights)
    comparisons = {case: CASES[case].build(plan) for case in options.cases}
    total = sum(expected_seconds(each, settings) for each in comparisons.values())
    # the total is a rough guess for two cores, the time left follows the machine's own pace
    with tqdm(
        total=math.ceil(total), bar_format="{desc}{percentage:3.0f}% |{bar}| {elapsed} gone, {remaining} left"
    ) as bar:
        for case, built in comparisons.items():
            machine, moment = describe_machine(settings.device, settings.threads), describe_moment()
            measured = [(comparison, _measure(case, comparison, settings, bar)) for comparison in built]
            record = case_record(CASES[case], machine, moment, _shown_options(options), measured)
            bar.write(f"wrote {save_case(output, case, record)}")


def _measure(case: str, comparison: Comparison, settings: RunSettings, bar: tqdm) -> list:
    bar.set_description(f"{case} {', '.join(f'{name} {value}' for name, value in comparison.setting.items())}")
    return measure_apart(comparison, settings, bar.update)


def _shown_options(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "device": options.device,
        "threads": options.threads,
        "repeats": options.repeats,
        "memory_limit_gb": options.memory_limit,
        "quick": options.quick,
        "reference_code": bool(options.reference_code),
        "foundation_weights": bool(options.foundation_weights),
        "clock": options.clock,
    }


def _write_report(output: Path, document: Path | None) -> None:
    records = {case: record for case in CASES if (record := load_case(output, case)) is not None}
    if not records:
        raise ValueError(f"--output {output}: holds no measured case; name at least one with --cases.")
    report = output / "report.md"
    report.write_text(markdown_report(records, _plot(records, output / "scaling.png")) + "\n", encoding="utf-8")
    print(f"wrote {report}")
    if document is not None:
        image = document.with_name(f"{document.stem}_scaling.png")
        write_between_markers(document, "benchmark", markdown_report(records, _plot(records, image)))
        print(f"wrote {document}")


def _plot(records: dict[str, dict[str, Any]], path: Path) -> str | None:
    """Name of the plot's file; None where there is nothing to plot."""
    if "scaling" not in records:
        return None
    save_scaling_plot(records["scaling"], path)
    return path.name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.benchmark",
        description="Measure time and peak memory of the quantised core against its peers, taking turns in one run.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--cases", nargs="*", choices=list(CASES), default=list(CASES), metavar="CASE", help=", ".join(CASES))
    add("--device", default="cpu", help='"cpu" or "cuda" (default: cpu)')
    add("--threads", type=int, default=os.cpu_count() or 1, help="PyTorch's threads (default: all cores)")
    add("--repeats", type=int, default=9, help="most counted rounds; slow comparisons get fewer (default: 9)")
    add(
        "--memory-limit",
        type=float,
        default=8.0,
        metavar="GB",
        help="contenders that need more are skipped (default: 8)",
    )
    add("--reference-code", metavar="DIR", help="checkout of the published VQ-Seg code, to measure it, too")
    add("--foundation-weights", metavar="FILE", help="DINOv2 ViT-S/14's checkpoint (default: random weights)")
    add(
        "--clock",
        choices=list(CLOCKS),
        default="wall",
        help="cpu: processor time of the process, on a machine that is busy with other work (default: wall)",
    )
    add("--output", default="outputs/benchmark", metavar="DIR", help="folder of the results (default: %(default)s)")
    add("--write", metavar="FILE", help="document whose part between the benchmark markers becomes the report")
    add("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    return parser


if __name__ == "__main__":
    main()
