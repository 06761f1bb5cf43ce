"""Pack a bundle as the Model Zoo does: ``vqseg pack --help``."""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from vqseg_bundle.common import file_digest

from .deploying.run_folder import DeploymentError

__all__ = ["main", "pack_bundle"]

_EPILOG = """The archive has one folder named after the bundle, as MONAI's own download expects it: LICENSE, configs,
docs, weights and package; neither data nor results.

examples:
  vqseg pack --bundle hippocampus --output .
  vqseg pack --bundle hippocampus --output . --weights-url https://example.org/model.pt
"""
_NEEDED = ("LICENSE", "configs/metadata.json", "configs/inference.json", "models/model.pt", "models/model.json")
_PACKED = (
    "LICENSE",
    "README.md",
    "configs",
    "docs",
    "large_files.yml",
    "metadata.json",
    "models/README.md",
    "models/model.*",
    "models/model_trt.ts",
    "pyproject.toml",
    "scripts",
    "vqseg_bundle",
)
_WEIGHTS = "models/model.pt"
_LEFT_OUT = ("__pycache__", ".ipynb_checkpoints")
_LARGE_FILES = "large_files.yml"


def main(arguments: Sequence[str] | None = None) -> None:
    """Pack, and print where the archive is."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        path = pack_bundle(Path(options.bundle).expanduser(), Path(options.output).expanduser(), options.weights_url)
    except PermissionError:
        raise  # the entry point says it
    except (DeploymentError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    if _has_other_weights(Path(options.bundle).expanduser()):
        print(
            f"warning: {_WEIGHTS} has been trained further since vqseg bundle described it: eval_metrics and "
            "data_source in configs/metadata.json and docs/README.md are of the former weights; evaluate, and correct "
            "them.",
            file=sys.stderr,
        )


def pack_bundle(bundle: Path, output: Path, weights_url: str | None = None) -> Path:
    """Write ``NAME_vVERSION.zip``.

    Args:
        bundle: the bundle's folder; the folder in the archive has the same name.
        output: folder to write to, created if missing.
        weights_url: address from which ``models/model.pt`` can be downloaded; instead of the weights, the archive then
            has ``large_files.yml`` with this address and their SHA-256.

    Returns:
        the archive.

    Raises:
        DeploymentError: the folder is not a complete bundle, or the archive exists.
    """
    name = bundle.resolve().name
    missing = [file for file in _NEEDED if not (bundle / file).is_file()]
    if missing:
        raise DeploymentError(
            f"--bundle {bundle} lacks {', '.join(missing)}: name a bundle with its weights, such as one that "
            "vqseg bundle made."
        )
    try:
        version = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise DeploymentError(
            f"{bundle / 'configs' / 'metadata.json'}: expected JSON with a version ({error})."
        ) from error
    archive = output / f"{name}_v{version}.zip"
    if archive.exists():
        raise DeploymentError(f"{archive} exists: give another --output; nothing is overwritten.")
    if weights_url and (bundle / _LARGE_FILES).exists():
        raise DeploymentError(f"{bundle / _LARGE_FILES} exists: add the weights there, or leave --weights-url out.")
    output.mkdir(parents=True, exist_ok=True)
    partial = archive.with_name(f".{archive.name}")
    try:
        _write(partial, bundle, name, weights_url)
        partial.rename(archive)
    finally:
        partial.unlink(missing_ok=True)
    return archive


def _has_other_weights(bundle: Path) -> bool:
    """Whether the weights are others than those that the metadata describe, as after training in place."""
    described = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8")).get("weights_sha256")
    return described is not None and described != file_digest(bundle / _WEIGHTS)


def _write(path: Path, bundle: Path, name: str, weights_url: str | None) -> None:
    # times that ZIP does not know, such as those of files without one, become its earliest or latest
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
        for file in tqdm(list(_files(bundle)), desc="packing", unit="file", disable=None):
            inside = file.relative_to(bundle).as_posix()
            if not (weights_url and inside == _WEIGHTS):
                archive.write(file, f"{name}/{inside}")
        if weights_url:
            archive.writestr(f"{name}/{_LARGE_FILES}", _large_files(bundle / _WEIGHTS, weights_url))


def _files(bundle: Path) -> Iterator[Path]:
    found = [path for pattern in _PACKED for path in sorted(bundle.glob(pattern))]
    for path in found:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and not set(_LEFT_OUT) & set(file.relative_to(bundle).parts):
                yield file


def _large_files(weights: Path, url: str) -> str:
    return f"""large_files:
- path: "{_WEIGHTS}"
  url: "{url}"
  hash_val: "{file_digest(weights)}"
  hash_type: "sha256"
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vqseg pack",
        description="Pack a bundle with its weights into NAME_vVERSION.zip.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--bundle", required=True, metavar="DIR", help="the bundle's folder")
    add("--output", required=True, metavar="FOLDER", help="folder for the archive")
    add(
        "--weights-url",
        metavar="URL",
        help="leave the weights out, and name this address in large_files.yml (the zoo's way for large files)",
    )
    return parser
