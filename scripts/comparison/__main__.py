"""Train and evaluate methods on datasets over seeds, and compare them: ``python -m scripts.comparison --help``."""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.comparison.bundle_runs import StagesOf, bundle_stages, check_settings
from scripts.comparison.datasets import OpenedDataset, open_dataset
from scripts.comparison.plan import ComparisonPlan, Run, folder_name
from scripts.comparison.plan_file import load_plan
from scripts.comparison.records import FINISHED
from scripts.comparison.report import collect, write_report
from scripts.comparison.results import RunResult, read_record
from scripts.comparison.running import Failure, Machine, PlannedRun, default_machine, execute, survey
from scripts.tool import errors_told, tool_parser
from vqseg_bundle.bundle import FolderLock

__all__ = ["main"]

_EPILOG = """output:
  OUTPUT/runs/<dataset>/<method>/seed<k>/ with what the bundle writes there (resolved configuration, log, metrics,
  versions) and finished.json; OUTPUT/report.md, report.tex, report.csv and plots;
  OUTPUT/cases.csv, runs.csv and runs.json, the record of all finished runs; OUTPUT/plan.yaml, a copy of the plan.

  The same command continues after an interruption or a failed run: finished runs are kept, and a training goes on from
  what it saved last. If the plan, a configuration, the data or the package's version changed, the runs concerned are
  repeated; the earlier ones are moved to OUTPUT/aside/.

examples:
  python -m scripts.comparison --plan plans/demo.yaml
  python -m scripts.comparison --plan plans/two_cores.yaml --dataset-dir ACDC-3=ACDC --dry-run
  python -m scripts.comparison --plan plans/two_cores.yaml --methods VQ-Seg --seeds 0
  python -m scripts.comparison --plan plans/two_cores.yaml --report --write docs/comparison.md
  python -m scripts.comparison --plan plans/two_cores.yaml --record docs/results/two_cores

Schema of plans: plans/plan.schema.json.
"""
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None, stages_of: StagesOf = bundle_stages) -> None:
    """Make the unfinished runs of a plan and write the report; exits with status 1 if a run failed.

    Args:
        arguments: of the command line; None for the process's own.
        stages_of: makes the commands of a run.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        with errors_told(parser):
            plan = load_plan(Path(options.plan))
            output = Path(options.output or f"outputs/compare/{folder_name(plan.name)}")
            folders = _dataset_dirs(options.dataset_dir, plan)
            if options.record:
                _report_record(plan, Path(options.record), output, options)
            elif options.dry_run or options.report:
                _look(plan, output, folders, options)
            elif _run(plan, output, folders, options, stages_of):
                parser.exit(1)
    except KeyboardInterrupt:
        parser.exit(_INTERRUPTED, "\ninterrupted; the same command goes on from here\n")


def _look(plan: ComparisonPlan, output: Path, folders: Mapping[str, str], options: argparse.Namespace) -> None:
    """Show the state of the plan, or write the report; datasets may be missing, and nothing is run."""
    selected = _selected(plan, options)
    opened: dict[str, OpenedDataset] = {}
    with tempfile.TemporaryDirectory() as datalists:
        for name, dataset in plan.datasets.items():
            try:
                opened[name] = open_dataset(plan, dataset, Path(datalists), folders.get(name))
            except ValueError as error:
                print(f"not compared with its data: {error}")
        planned = survey(plan, output, opened)
    if options.report:
        _report(plan, planned, output, options)
        return
    for each in planned:
        if str(each.run) in selected:
            changes = f" ({each.state.changes})" if each.state.changes else ""
            print(f"{each.state.state:<12}{each.run}{changes}")
    _print_counts(planned)


def _run(
    plan: ComparisonPlan, output: Path, folders: Mapping[str, str], options: argparse.Namespace, stages_of: StagesOf
) -> list[Failure]:
    """Make the selected unfinished runs, then the report; returns the failures."""
    selected = _selected(plan, options)
    machine = _machine(options)
    with FolderLock(output, "comparison"):
        (output / "plan.yaml").write_text(plan.source.read_text(encoding="utf-8"), encoding="utf-8")
        opened = _open_selected(plan, selected, output / "datalists", folders)
        planned = survey(plan, output, opened)
        pending = [each for each in planned if str(each.run) in selected and each.state.state != FINISHED]
        for each in pending:
            if each.state.changes:
                print(f"begins again: {each.run} ({each.state.changes})")
        _print_counts(planned)
        failures: list[Failure] = []
        if pending:
            failures = execute(pending, opened, output, machine, stages_of)
        _report(plan, survey(plan, output, opened), output, options)
    for failure in failures:
        print(f"\nFAILED {failure.run}: {failure.reason}")
    return failures


def _open_selected(
    plan: ComparisonPlan, selected: Mapping[str, Run], datalists: Path, folders: Mapping[str, str]
) -> dict[str, OpenedDataset]:
    """Open the datasets of the selected runs, and check every method on each of them."""
    opened: dict[str, OpenedDataset] = {}
    checked = set()
    for run in selected.values():
        name = run.dataset.name
        if name not in opened:
            opened[name] = open_dataset(plan, run.dataset, datalists, folders.get(name))
        if (name, run.method.name) not in checked:
            check_settings(run, opened[name], plan.source)
            checked.add((name, run.method.name))
    return opened


def _report_record(plan: ComparisonPlan, record: Path, output: Path, options: argparse.Namespace) -> None:
    """Write the report of the plan's runs in a record, regardless of the current configurations."""
    wanted = {str(run) for run in plan.runs()}
    found = [r for r in read_record(record) if f"{r.dataset} / {r.method} / seed {r.seed}" in wanted]
    if not found:
        raise ValueError(f"--record {record}: it holds no run of {plan.source}.")
    output.mkdir(parents=True, exist_ok=True)
    _write(plan, found, output, options)


def _report(plan: ComparisonPlan, planned: Sequence[PlannedRun], output: Path, options: argparse.Namespace) -> None:
    results = collect(planned, output)
    if not results:
        print(f"no report: {output} holds no finished run of this plan")
        return
    _write(plan, results, output, options)


def _write(plan: ComparisonPlan, results: Sequence[RunResult], output: Path, options: argparse.Namespace) -> None:
    for path in write_report(plan, results, output, Path(options.write) if options.write else None):
        print(f"wrote {path}")


def _print_counts(planned: Sequence[PlannedRun]) -> None:
    counts = Counter(each.state.state for each in planned)
    print(f"{len(planned)} runs planned: {', '.join(f'{count} {state}' for state, count in counts.items())}")


def _selected(plan: ComparisonPlan, options: argparse.Namespace) -> dict[str, Run]:
    """The runs that pass the filters, by their text.

    Raises:
        ValueError: a filter names something that the plan does not have, or nothing is left.
    """
    known: dict[str, list[Any]] = {
        "methods": list(plan.methods),
        "datasets": list(plan.datasets),
        "seeds": list(plan.seeds),
    }
    for option, names in known.items():
        for given in set(getattr(options, option) or ()) - set(names):
            raise ValueError(f"--{option}: expected some of {', '.join(map(str, names))}, found '{given}'.")
    runs = {
        str(run): run
        for run in plan.runs()
        if (not options.methods or run.method.name in options.methods)
        and (not options.datasets or run.dataset.name in options.datasets)
        and (not options.seeds or run.seed in options.seeds)
    }
    if not runs:
        raise ValueError(f"{plan.source}: no run is left by --methods, --datasets and --seeds, or by the plan itself.")
    return runs


def _dataset_dirs(given: Sequence[str], plan: ComparisonPlan) -> dict[str, str]:
    folders = {}
    for word in given:
        name, _, folder = word.rpartition("=")
        if name not in plan.datasets or not folder:
            expected = ", ".join(f"'{name}=DIR'" for name in plan.datasets)
            raise ValueError(f"--dataset-dir: expected {expected}, found '{word}'.")
        folders[name] = folder
    return folders


def _machine(options: argparse.Namespace) -> Machine:
    for name in ("jobs", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name}: expected at least 1, found {value}.")
    return default_machine(options.jobs, options.threads)


def _parser() -> argparse.ArgumentParser:
    parser = tool_parser(
        "comparison", "Run a plan, methods x datasets x seeds, and write one table with tests and plots.", _EPILOG
    )
    add = parser.add_argument
    add("--plan", required=True, metavar="FILE", help="YAML file, such as plans/demo.yaml")
    add("--output", metavar="DIR", help="folder of runs and report (default: outputs/compare/<name of the plan>)")
    add("--dataset-dir", action="append", default=[], metavar="NAME=DIR", help="folder of a dataset; may be repeated")
    add("--jobs", type=int, metavar="N", help="parallel runs (default: one per GPU, without GPUs one per core)")
    add("--threads", type=int, default=1, metavar="N", help="threads of each run (default: 1)")
    add("--methods", nargs="+", metavar="NAME", help="run only these; the report includes all finished runs")
    add("--datasets", nargs="+", metavar="NAME", help="likewise")
    add("--seeds", nargs="+", type=int, metavar="K", help="likewise")
    look = parser.add_mutually_exclusive_group()
    look.add_argument("--dry-run", action="store_true", help="list the runs and their state")
    look.add_argument("--report", action="store_true", help="write the report of the finished runs")
    look.add_argument("--record", metavar="DIR", help="write the report of the runs in this record")
    add("--write", metavar="FILE", help="document whose part between the comparison markers becomes the report")
    return parser


if __name__ == "__main__":
    main()
