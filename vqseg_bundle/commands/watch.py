"""``vqseg segment FOLDER --watch``: volumes are segmented as they arrive in a folder, all in one process."""

from __future__ import annotations

import ast
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["Session", "arrivals", "watch"]

_SECONDS = 5.0
#: keys that a call from Python does not take
_FIXED = {"bundle_root", "config_file"}


def watch(keys: Mapping[str, str]) -> None:
    """Segment what lies in the folder, then what arrives, until SIGINT; a volume that cannot be used is named.

    Args:
        keys: as typed, with "dataset_dir", the folder, and "output_dir".

    Raises:
        SystemExit: the folder does not exist, or a key is given that cannot be.
    """
    folder, run = Path(keys["dataset_dir"]).expanduser(), Path(keys["output_dir"]).expanduser()
    if not folder.is_dir():
        raise SystemExit(f"{folder}: --watch expects a folder, found none of this name.")
    if refused := sorted(_FIXED & set(keys)):
        raise SystemExit(f"--{refused[0]} cannot be given with --watch; segment the folder without --watch.")
    options = {key: _value(text) for key, text in keys.items() if key not in ("dataset_dir", "output_dir")}
    session = Session(run, {"contact_sheet": False, **options})
    stopped = []

    def stop(number: int, frame: FrameType | None) -> None:
        # Python drops an exception that meets an object's finaliser; then the loop ends by this
        stopped.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    print(f"watching {folder}; Ctrl-C ends", flush=True)
    done = {run.resolve(), (run / "inference").resolve()}
    seen: dict[Path, tuple[float, ...]] = {}
    while not stopped:
        seen, ready = arrivals(folder, seen, done)
        for path in ready:
            done.add(path.resolve())
            try:
                print(f"{path}: {session.segment(path)}", flush=True)
            except ValueError as error:
                print(f"{path}: {' '.join(str(error).split())}", flush=True)
        time.sleep(_SECONDS)
    raise KeyboardInterrupt


class Session:
    """The predictions since the watch began; those of earlier ones, whose volumes come anew, are moved aside.

    Args:
        run: the output folder.
        options: keys of the configuration.
    """

    def __init__(self, run: Path, options: Mapping[str, Any]) -> None:
        from vqseg_bundle.bundle import prediction_folder
        from vqseg_bundle.bundle.records.run_record import put_aside

        self.run, self.options = run, options
        self.folder = Path(prediction_folder(run, "inference"))
        self.names: set[str] = set()
        put_aside(self.folder.parent, (self.folder.name,))

    def segment(self, path: Path) -> Path:
        """Segment an arrival; where it has a volume named as one before, into a folder of its own name."""
        from vqseg_bundle.bundle import segment
        from vqseg_bundle.data import list_volumes

        names = {case["case"] for case in list_volumes(path, self.options.get("uneven_slices", "refuse"))}
        own = {"prediction_dir#output_dir": str(self.folder / path.name)} if names & self.names else {}
        self.names |= names
        return segment(path, self.run, **own, **self.options)


def arrivals(
    folder: Path, seen: Mapping[Path, tuple[float, ...]], done: set[Path]
) -> tuple[dict[Path, tuple[float, ...]], list[Path]]:
    """Files and folders as they are now, and those of them that are as before, and thus complete, and not done.

    Args:
        folder: where they arrive.
        seen: what an earlier call found.
        done: resolved paths to leave out, with folders that contain them.
    """
    from vqseg_bundle.data import is_result_folder

    now = {}
    # a link to them is no arrival
    done = done | {folder.resolve()}
    for path in sorted(folder.iterdir()):
        if not path.exists() or is_result_folder(path.name):  # a link that leads nowhere, or our own output
            continue
        resolved = path.resolve()
        if not path.name.startswith(".") and not any(resolved == other or resolved in other.parents for other in done):
            files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
            now[path] = tuple(number for each in files for number in (each.stat().st_size, each.stat().st_mtime))
    return now, [path for path, state in now.items() if state and seen.get(path) == state]


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
