"""Time and memory of the quantised core against its peers: ``python -m scripts.benchmark --help``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from scripts.benchmark.adapter_step import ADAPTER
from scripts.benchmark.code_operations import ENTROPY, LARGE_PERTURBATION, PERTURBATION, SCALING
from scripts.benchmark.contenders import Case, Comparison, Plan
from scripts.benchmark.machine import describe_machine, describe_moment
from scripts.benchmark.measuring import CLOCKS, Result, RunSettings, measure
from scripts.benchmark.reference_code import check_reference_code
from scripts.benchmark.report import case_record, load_case, markdown_report, save_case
from scripts.benchmark.searches import LARGE_SEARCH, SEARCH
from scripts.benchmark.steps import INFERENCE, STEP_2D, STEP_3D
from scripts.tool import errors_told, tool_parser, write_between_markers

__all__ = ["CASES", "main"]

#: Every case, in the report's order.
CASES: dict[str, Case] = {
    "search": SEARCH,
    "search-large": LARGE_SEARCH,
    "qpm": PERTURBATION,
    "qpm-large": LARGE_PERTURBATION,
    "entropy": ENTROPY,
    "step": STEP_2D,
    "step-3d": STEP_3D,
    "adapter": ADAPTER,
    "inference": INFERENCE,
    "scaling": SCALING,
}

_EPILOG = """output:
  OUTPUT/<case>.json for each case, and OUTPUT/report.md of all cases found there, including those of earlier calls, so
  that cases can be measured one by one. "--cases" without a name only writes the report.

examples:
  python -m scripts.benchmark --quick
  python -m scripts.benchmark --cases search qpm --reference-code VQ-Seg
  python -m scripts.benchmark --cases --write docs/performance.md

vector-quantize-pytorch and faiss are measured if installed: pip install .[bench]
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the requested cases and write the report."""
    parser = _parser()
    options = parser.parse_args(arguments)
    with errors_told(parser):
        settings = RunSettings(
            options.device, options.threads, options.repeats, options.memory_limit * 1e9, options.clock
        )
        if options.reference_code:
            check_reference_code(options.reference_code)
        if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"--device is {options.device}, but PyTorch finds no CUDA device; use --device cpu.")
        output = Path(options.output)
        _measure_cases(options, settings, output)
        _write_report(output, Path(options.write) if options.write else None)


def _measure_cases(options: argparse.Namespace, settings: RunSettings, output: Path) -> None:
    plan = Plan(options.device, options.quick, options.reference_code)
    comparisons = {case: CASES[case].build(plan) for case in options.cases}
    with tqdm(total=sum(map(len, comparisons.values())), unit="comparison") as bar:
        for case, built in comparisons.items():
            machine, moment = describe_machine(settings.device, settings.threads), describe_moment()
            measured: list[tuple[Comparison, list[Result]]] = []
            for comparison in built:
                bar.set_description(case)
                measured.append((comparison, measure(comparison, settings)))
                bar.update()
            record = case_record(CASES[case], machine, moment, _shown_options(options), measured)
            bar.write(f"wrote {save_case(output, case, record)}")


def _shown_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options of the measurement, without paths of this machine."""
    names = ("device", "threads", "repeats", "memory_limit", "quick", "clock")
    return {**{name: getattr(options, name) for name in names}, "reference_code": bool(options.reference_code)}


def _write_report(output: Path, document: Path | None) -> None:
    records = [record for case in CASES if (record := load_case(output, case)) is not None]
    if not records:
        raise ValueError(f"--output {output}: holds no measured case; name at least one with --cases.")
    report, text = output / "report.md", markdown_report(records)
    report.write_text(f"{text}\n", encoding="utf-8")
    print(f"wrote {report}")
    if document is not None:
        write_between_markers(document, "benchmark", text)
        print(f"wrote {document}")


def _parser() -> argparse.ArgumentParser:
    parser = tool_parser(
        "benchmark",
        "Measure time and peak memory of the quantised core against its peers, taking turns in one run.",
        _EPILOG,
    )
    add = parser.add_argument
    add("--cases", nargs="*", choices=list(CASES), default=list(CASES), metavar="CASE", help=", ".join(CASES))
    add("--device", default="cpu", help='"cpu" or "cuda" (default: cpu)')
    add("--threads", type=int, default=os.cpu_count() or 1, help="PyTorch's threads (default: all cores)")
    add("--repeats", type=int, default=9, help="most counted rounds; slow comparisons get fewer (default: 9)")
    skipped = "contenders that need more are skipped (default: 8)"
    add("--memory-limit", type=float, default=8.0, metavar="GB", help=skipped)
    add("--reference-code", metavar="DIR", help="checkout of the published VQ-Seg code, to measure it as well")
    busy = "cpu: processor time of the process, on a machine that is busy with other work (default: wall)"
    add("--clock", choices=list(CLOCKS), default="wall", help=busy)
    add("--output", default="outputs/benchmark", metavar="DIR", help="folder of the results (default: %(default)s)")
    add("--write", metavar="FILE", help="document whose part between the benchmark markers becomes the report")
    add("--quick", action="store_true", help="tiny sizes, to check that everything runs")
    return parser


if __name__ == "__main__":
    main()
