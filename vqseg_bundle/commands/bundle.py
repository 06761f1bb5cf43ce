"""Turn a finished run into a bundle: ``vqseg bundle --help``."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vqseg_bundle import __version__
from vqseg_bundle.common import project_folder, shell_line, vqseg_words

from .deploying.bundle_configs import (
    COPIED_CONFIGS,
    find_local_paths,
    inference_config,
    processes_config,
    training_config,
)
from .deploying.bundle_documents import bundle_metadata, data_license, model_readme
from .deploying.run_folder import DeploymentError, FinishedRun, open_run

__all__ = ["main", "make_bundle"]

_EPILOG = """examples:
  vqseg bundle --run OUT --output hippocampus --data-license LICENSE_OF_DATA.txt
  vqseg pack --bundle hippocampus --output .
"""
_PACKAGE = Path(__file__).parents[1]
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.py[cod]", "resources")


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the bundle; print where it is and what to check."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        run = open_run(Path(options.run).expanduser())
        license_file = Path(options.data_license).expanduser() if options.data_license else None
        output = Path(options.output).expanduser()
        make_bundle(run, output, options.name, options.bundle_version, license_file)
    except PermissionError:
        raise  # the entry point says it
    except (DeploymentError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    print(f"wrote {output}, a bundle of {run.folder / 'model.pt'}")
    for note in _notes(run, output, license_file is not None):
        print(f"note: {note}")
    print(f"next: {shell_line([*vqseg_words(), 'pack', '--bundle', str(output), '--output', '.'])}")


def make_bundle(run: FinishedRun, output: Path, name: str | None, version: str, license_file: Path | None) -> None:
    """Write a bundle; a failure leaves nothing behind.

    Args:
        run: the run.
        output: the bundle's folder, which must not exist; the bundle is named after it in the Model Zoo.
        name: title in the metadata; None uses the cohort's name.
        version: version of the bundle.
        license_file: terms of the data, or None.

    Raises:
        DeploymentError: the folder exists, or there is no such licence file.
    """
    if output.exists():
        raise DeploymentError(f"--output {output} exists: name a new folder; nothing is overwritten.")
    if license_file is not None and not license_file.is_file():
        raise DeploymentError(f"--data-license {license_file} is not a file: give a text with the terms of the data.")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as scratch:
        folder = Path(scratch) / output.name
        _write(run, folder, name or f"VQ-Seg: {run.record['info'].get('cohort', output.name)}", version, license_file)
        folder.rename(output)


def _write(run: FinishedRun, folder: Path, name: str, version: str, license_file: Path | None) -> None:
    configs = project_folder() / "configs"
    for part in ("configs", "docs", "models"):
        (folder / part).mkdir(parents=True)
    shutil.copytree(_PACKAGE, folder / "vqseg_bundle", ignore=_LEFT_OUT)
    shutil.copy(project_folder() / "LICENSE", folder)
    for file in ("model.pt", "model.json"):
        shutil.copy(run.folder / file, folder / "models")
    for file in COPIED_CONFIGS:
        shutil.copy(configs / file, folder / "configs")
    metadata = bundle_metadata(run, _read(configs / "metadata.json"), name, version)
    _dump(folder / "configs" / "metadata.json", metadata)
    processes = _read(configs / "multi_gpu_train.json")
    _dump(folder / "configs" / "multi_gpu_train.json", processes_config(processes))
    _dump(folder / "configs" / "train.json", training_config(run, _read(configs / "train.json"), processes))
    _dump(folder / "configs" / "inference.json", inference_config(run, _read(configs / "inference.json")))
    (folder / "docs" / "README.md").write_text(model_readme(run, metadata), encoding="utf-8")
    terms = folder / "docs" / "data_license.txt"
    if license_file is not None:
        shutil.copyfile(license_file, terms)  # as it is, whatever its encoding
    else:
        terms.write_text(data_license(run), encoding="utf-8")


def _notes(run: FinishedRun, output: Path, licensed: bool) -> list[str]:
    notes = [f"configs/train.json: {key} has a path of this machine" for key in find_local_paths(_read_train(output))]
    trained_by = run.run["versions"]["vqseg_bundle"]
    if trained_by != __version__:
        notes.append(
            f"trained by vqseg_bundle {trained_by}, bundled with {__version__}: inference is this version's, but "
            "configs/train.json is the run's: try it before you share the bundle"
        )
    if not run.metrics:
        notes.append("no figures in the metadata: to have them there, first evaluate into the run's folder")
    if not licensed:
        notes.append(f"write the terms of the data into {output / 'docs' / 'data_license.txt'}")
    return notes


def _read_train(output: Path) -> dict[str, Any]:
    return _read(output / "configs" / "train.json")


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _dump(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vqseg bundle",
        description="Turn a finished run into a MONAI bundle with its weights, network, labels and "
        "preprocessing, for MONAI's commands, MONAI Label and the Model Zoo.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--run", required=True, metavar="OUT", help="output_dir of a finished training")
    add("--output", required=True, metavar="DIR", help="new folder of the bundle, which it is named after")
    add("--name", metavar="TITLE", help='title in the metadata (default: "VQ-Seg: " and the cohort\'s name)')
    add("--bundle-version", default="0.1.0", metavar="X.Y.Z", help="default: 0.1.0")
    add("--data-license", metavar="FILE", help="text with the terms of the data that the weights were trained on")
    return parser
