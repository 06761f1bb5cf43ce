"""Training, evaluation and inference from any folder: ``vqseg train``, ``vqseg evaluate`` and ``vqseg segment``.

Each is a thin face of ``python -m monai.bundle run``: it finds the configurations, of the checkout or of an installed
package, gives the keys on as they are typed, prints the command it stands for and runs it in this process.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import runpy
import sys
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vqseg_bundle.commands.main import quick_imports
from vqseg_bundle.commands.watch import watch
from vqseg_bundle.commands.workflow_words import as_words, find_overlays, read_words, refuse_foreign_weights
from vqseg_bundle.common import begun_by, project_folder, shell_line, vqseg_words

__all__ = ["Workflow", "bundle_words", "evaluate", "plan", "segment", "train"]


class Workflow(NamedTuple):
    """A command, and what it runs.

    Attributes:
        command: name of the command.
        purpose: one sentence for its help.
        run_id: what MONAI runs.
        configs: names of its configurations; overlays come after the first.
        keys: key to its meaning, for the help; the other keys are listed with their defaults only.
        output_dir: default folder of the output where weights are named.
        example: options of an example.
    """

    command: str
    purpose: str
    run_id: str
    configs: tuple[str, ...]
    keys: dict[str, str]
    output_dir: str
    example: str


_PLACES = {
    "dataset_dir": "the same as DIR: folder of the volumes, with datalist.json; without it the embedded demo cohort",
    "datalist": "datalist, if it lies elsewhere",
    "output_dir": "folder of all output (default: runs/train)",
}
_SCANS = ("data_check", "allow_outside_files", "uneven_slices")
#: keys of a training that its evaluation reads
_SHARED = ("evaluation_split", "amp", "num_workers", "inference_memory_gb", *_SCANS)
_DEVICE = {"device": "cpu, cuda or cuda:N (default: a GPU if there is one)"}
_CHECKPOINT = {"checkpoint": "weights, if not those in output_dir"}
_TRAIN = Workflow(
    "train",
    "Train on few labelled and many unlabelled volumes.",
    "training",
    ("train.json",),
    {
        **_PLACES,
        "config_file": "overlay such as supervised.json, or several separated by commas",
        "max_iterations": "optimiser steps",
        "resume": "true goes on with an interrupted training",
        **_DEVICE,
    },
    "runs/train",
    "DIR --output_dir OUT",
)
_PLAN = Workflow(
    "plan",
    "Show the settings that a training would choose for its scans, without training.",
    "planning",
    ("train.json", "plan.json"),
    {
        **_PLACES,
        "config_file": "overlay such as train_3d.json, or several separated by commas",
        "plan_output": "file to write the plan to, for --plan_file of a training",
        **_DEVICE,
    },
    "runs/train",
    "DIR --patch_size '[96,96]'",
)
_EVALUATE = Workflow(
    "evaluate",
    "Evaluate a trained network on the test patients: metrics, predictions and a report.",
    "evaluating",
    ("train.json", "evaluate.json"),
    {**_PLACES, **_CHECKPOINT, "evaluation_split": "test or validation", **_DEVICE},
    "runs/evaluation",
    "DIR --output_dir OUT",
)
_SEGMENT = Workflow(
    "segment",
    "Segment a volume, or every volume of a folder, with a trained network.",
    "inference",
    ("inference.json",),
    {
        "dataset_dir": "volume or folder, the same as FOLDER",
        "output_dir": "folder of a training and of the predictions (default: runs/train)",
        **_CHECKPOINT,
        "watch": "go on with what arrives in FOLDER, until Ctrl-C; without a value",
        **_DEVICE,
    },
    "runs/inference",
    "FOLDER --output_dir OUT",
)


def train(arguments: Sequence[str]) -> None:
    """``vqseg train``."""
    _run(_TRAIN, arguments)


def plan(arguments: Sequence[str]) -> None:
    """``vqseg plan``, and the training by it."""
    _run(_PLAN, arguments)
    print(f"next: {shell_line([*vqseg_words(), 'train', *_training_words(arguments)])}")


def _training_words(arguments: Sequence[str]) -> list[str]:
    """The words of the training by the plan, which reads the file that the planning wrote, if it wrote one."""
    keys = _read_keys(_PLAN, arguments)
    if "plan_output" in keys:
        keys.pop("plan_file", None)
    renamed = {"plan_output": "plan_file"}
    return as_words({renamed.get(key, key): value for key, value in keys.items()})


def evaluate(arguments: Sequence[str]) -> None:
    """``vqseg evaluate``."""
    _run(_EVALUATE, arguments)


def segment(arguments: Sequence[str]) -> None:
    """``vqseg segment``."""
    words = [word for word in arguments if word != "--watch"]
    if len(words) == len(arguments) or {"-h", "--help"} & set(words):
        _run(_SEGMENT, words)
        return
    try:
        keys = _read_keys(_SEGMENT, words)
    except ValueError as error:
        raise SystemExit(f"vqseg segment: error: {error}") from error
    with quick_imports(whole=any("_target_" in word for word in words)):
        importlib.import_module("vqseg_bundle.bundle")
    _quieten()
    watch({"output_dir": _default_output(_SEGMENT, keys), **keys})


def _run(workflow: Workflow, arguments: Sequence[str]) -> None:
    parser = _parser(workflow)
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
        parser.exit()
    try:
        words = bundle_words(workflow, arguments)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    print(f"runs {shell_line(['python', '-m', 'monai.bundle', *words])}", flush=True)
    print(
        "a configuration is a program: run only those you trust (MONAI's security note GHSA-873f-pvrv-4x83)", flush=True
    )
    _quieten()
    sys.argv[1:] = words
    with quick_imports(whole=_may_name_anything(words)):
        importlib.import_module("vqseg_bundle.bundle")
    # a training that is resumed is typed with a "resume" of its own
    keys = {key: value for key, value in _read_keys(workflow, arguments).items() if key != "resume"}
    with begun_by([*vqseg_words(), workflow.command, *as_words(keys)]):
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)


def _quieten() -> None:
    """MONAI says again what the first lines say, and warns of folders that vqseg itself has chosen."""
    warnings.filterwarnings("ignore", message="parsing config_file")
    for name in ("monai.bundle.scripts", "monai.bundle.workflows"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("monai.bundle.workflows").addFilter(_is_worth_saying)


def _is_worth_saying(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Not all config files are in")


def _may_name_anything(words: Sequence[str]) -> bool:
    """Whether a configuration runs that is not the package's own, or a component is typed."""
    own = project_folder() / "configs"
    _, _, _, files, *_ = words
    foreign = [name for name in files.strip("[]'").split("','") if Path(name).resolve().parent != own]
    return bool(foreign) or any("_target_" in word for word in words)


def bundle_words(workflow: Workflow, arguments: Sequence[str]) -> list[str]:
    """The words after ``python -m monai.bundle``.

    Args:
        workflow: what to run.
        arguments: as typed after the command's name: ``--key value``, ``--key=value``, and a folder.

    Raises:
        ValueError: a word is neither key nor value, a key is given twice, a configuration does not exist or cannot be
            read, or weights of other data would be evaluated on the demo cohort.
    """
    keys = _read_keys(workflow, arguments)
    root = Path(keys["bundle_root"]).expanduser() if "bundle_root" in keys else project_folder()
    is_here = root.resolve() == Path.cwd().resolve()
    folder = Path("configs") if is_here else root / "configs"
    first, *later = (str(folder / name) for name in workflow.configs)
    overlays = find_overlays(keys.pop("config_file", ""), [first, *later], root, folder)
    if workflow is _EVALUATE:
        refuse_foreign_weights(keys, overlays, _TRAIN.output_dir)
    files = [first, *overlays, *later]
    given = files[0] if len(files) == 1 else f"[{','.join(map(repr, files))}]"
    words = ["run", workflow.run_id, "--config_file", given]
    if "bundle_root" not in keys and not is_here:
        keys["bundle_root"] = str(root)
        if workflow is not _SEGMENT and not {"dataset_dir", "datalist"} & set(keys):
            # the package's own folder may not be writable
            keys["cohort#demo_dir"] = str(Path("data") / "demo_cohort")
    keys.setdefault("output_dir", _default_output(workflow, keys))
    return words + as_words(keys)


def _default_output(workflow: Workflow, keys: Mapping[str, str]) -> str:
    return workflow.output_dir if "checkpoint" in keys else _TRAIN.output_dir


def _read_keys(workflow: Workflow, arguments: Sequence[str]) -> dict[str, str]:
    keys = read_words(workflow.command, arguments, (_PLACES | _CHECKPOINT).keys())
    if workflow is _SEGMENT and "dataset_dir" not in keys:
        raise ValueError("expected a folder of volumes, or a volume: vqseg segment FOLDER")
    return keys


def _parser(workflow: Workflow) -> argparse.ArgumentParser:
    width = max(map(len, workflow.keys)) + 2
    listing = "\n".join(f"  --{key:<{width}}{meaning}" for key, meaning in workflow.keys.items())
    others = textwrap.fill(", ".join(_other_keys(workflow)), 100, initial_indent="  ", subsequent_indent="  ")
    usage = f"[-h] [{'FOLDER' if workflow is _SEGMENT else 'DIR'}] [--KEY VALUE ...]"
    return argparse.ArgumentParser(
        prog=f"vqseg {workflow.command}",
        usage=f"vqseg {workflow.command} {usage}",
        description=f"{workflow.purpose} The keys are those of python -m monai.bundle run.",
        epilog=f"keys:\n{listing}\n\nother keys, with their defaults (docs/configuration.md):\n{others}\n\n"
        f"example:\n  vqseg {workflow.command} {workflow.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _other_keys(workflow: Workflow) -> list[str]:
    """The settings of the configurations; expressions and components are for docs/configuration.md."""
    settings: dict[str, Any] = {}
    for name in workflow.configs:
        content = json.loads((project_folder() / "configs" / name).read_text(encoding="utf-8"))
        if name == "train.json":
            content = {key: content[key] for key in (_SHARED if workflow is _EVALUATE else content)}
            content.pop("checkpoint", None)
        settings |= content
    shown = {
        key: _shown(value) for key, value in settings.items() if key not in workflow.keys and "handlers" not in key
    }
    return [f"{key} {value}" for key, value in shown.items() if value]


def _shown(value: Any) -> str:
    """A default as it would be typed; empty for an expression or a component."""
    text = value if isinstance(value, str) else json.dumps(value)
    if text.startswith("$@plan."):
        return "planned"
    is_plain = not isinstance(value, dict) and not text.startswith(("$", "@", "."))
    return text if is_plain and not any(sign in text for sign in ('"$', '"@', '"_target_"')) else ""
