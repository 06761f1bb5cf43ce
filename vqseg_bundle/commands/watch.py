"""``vqseg segment FOLDER --watch``: volumes are segmented as they arrive in a folder, all in one process.

Which these are, ``arrived_volumes`` decides; a file or folder in the watched one counts once it no longer changes, and
again if it changes later, since a slow copy may pause for longer than two looks.
"""

from __future__ import annotations

import ast
import glob
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vqseg_bundle.commands.arrived_volumes import Arrival, Cases

__all__ = ["Session", "State", "arrivals", "changed", "watch"]

_SECONDS = 5.0
#: of the files of one prediction
_ENDINGS = ("pred", "seg", "entropy", "probabilities")
#: sizes and times of a file, or of the files in a folder
State = tuple[float, ...]
#: keys that a call from Python does not take
_FIXED = {"bundle_root", "config_file"}


def watch(keys: Mapping[str, str]) -> None:
    """Segment what lies in the folder, then what arrives, until SIGINT; a volume that cannot be used is named.

    While the folder cannot be read, which is said once, the watch goes on.

    Args:
        keys: as typed, with "dataset_dir", the folder, and "output_dir".

    Raises:
        SystemExit: the folder does not exist, a key is given that cannot be, there are no weights, or the predictions'
            folder is in use.
    """
    from vqseg_bundle.commands.arrived_volumes import sort_arrivals, why_refused
    from vqseg_bundle.common import expand_user, visible_line

    folder, run = Path(expand_user(keys["dataset_dir"])), Path(expand_user(keys["output_dir"]))
    if not folder.is_dir():
        raise SystemExit(f"{folder}: --watch expects a folder, found none of this name.")
    if refused := sorted(_FIXED & set(keys)):
        raise SystemExit(f"--{refused[0]} cannot be given with --watch; segment the folder without --watch.")
    session = _open_session(keys, run)
    stopped = []

    def stop(number: int, frame: FrameType | None) -> None:
        # Python drops an exception that meets an object's finaliser; then the loop ends by this
        stopped.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    print(f"watching {folder}; Ctrl-C ends", flush=True)
    own = {run.resolve(), (run / "inference").resolve()}
    seen, done = dict[Path, State](), dict[Path, State]()
    segmented = set[frozenset[Path]]()
    reachable = True
    while not stopped:
        complete: list[Arrival] = []
        try:
            seen, ready = arrivals(folder, seen, done, own)
            if ready:
                found = sort_arrivals(
                    folder, ready, seen.keys() - ready, segmented, session.list_cases, changed(ready, done)
                )
                done |= {path.resolve(): seen[path] for path in found.entries}
                complete = found.arrivals
            reachable = True
        except OSError as error:  # such as of a share that is being mounted again
            if reachable:
                print(f"{visible_line(str(folder))}: cannot be read now, tried again: {why_refused(error)}", flush=True)
            reachable = False
        for arrival in complete:
            print(f"{visible_line(str(arrival.path))}: {_outcome(session, arrival)}", flush=True)
        time.sleep(_SECONDS)
    raise KeyboardInterrupt


def _open_session(keys: Mapping[str, str], run: Path) -> Session:
    from vqseg_bundle.bundle import exit_cleanly, open_model_record
    from vqseg_bundle.common import expand_user, project_folder
    from vqseg_bundle.data import list_volumes

    given = {key: text for key, text in keys.items() if key not in ("dataset_dir", "output_dir")}
    options = {key: text if key == "checkpoint" else _value(text) for key, text in given.items()}
    orientation = options.get("orientation")
    checkpoint = expand_user(keys["checkpoint"]) if "checkpoint" in keys else None
    record = open_model_record(checkpoint, str(run), str(project_folder()), orientation=orientation)
    uneven, in_channels = options.get("uneven_slices", "refuse"), record["preprocessing"]["in_channels"]
    names = record["info"].get("channel_names", [])
    list_cases = partial(list_volumes, uneven_slices=uneven, in_channels=in_channels, channel_names=names)
    return exit_cleanly(Session, run, {"contact_sheet": False, **options}, list_cases)


class Session:
    """The predictions since the watch began; those of earlier ones, whose volumes come anew, are moved aside.

    Args:
        run: the output folder.
        options: keys of the configuration.
        list_cases: lists the volumes of a path.

    Raises:
        ValueError: another process is segmenting into the folder, which this one holds from now on.
    """

    def __init__(self, run: Path, options: Mapping[str, Any], list_cases: Callable[[Path], Cases]) -> None:
        from vqseg_bundle.bundle import prediction_folder
        from vqseg_bundle.bundle.records.folder_lock import use_folder
        from vqseg_bundle.bundle.records.run_record import put_aside

        self.run, self.options, self.list_cases = run, options, list_cases
        self.folder = Path(prediction_folder(run, "inference"))
        self.names: dict[str, str] = {}  # the volume of each name
        use_folder(self.folder, "inference")
        put_aside(self.folder.parent, (self.folder.name,))

    def segment(self, path: Path, cases: Cases) -> Path:
        """Segment an arrival; where it has a volume named as another before, into a folder of its own name.

        The prediction of a volume that comes again takes the place of the former one, which is moved aside.
        """
        from vqseg_bundle.bundle import segment
        from vqseg_bundle.bundle.records.run_record import put_aside

        cases = self._named(path, cases)
        names = {case["case"]: case["image"] for case in cases}
        taken = any(self.names.get(case, image) != image for case, image in names.items())
        name = path.name if path.name.strip(".") else path.resolve().name  # the watched folder may be . or ..
        own = {"prediction_dir#output_dir": str(self.folder / name)} if taken else {}
        again = () if taken else names.keys() & self.names.keys()
        # only theirs: an inference would move the predictions of all volumes aside
        put_aside(self.folder, [f"{glob.escape(case)}_{end}.*" for case in again for end in _ENDINGS])
        self.names = {**names, **self.names}
        # a component, since MONAI would evaluate names in a list
        chosen: dict[str, Any] = {"cases": {"_target_": partial(list, cases)}}
        return segment(path, self.run, **own, **chosen, **self.options)

    def _named(self, path: Path, cases: Cases) -> Cases:
        """The cases with the names that they have alone, whatever else lies in the watched folder."""
        try:
            alone = {case["image"]: case["case"] for case in self.list_cases(path)}
        except (ValueError, OSError):
            return cases
        if not all(case["image"] in alone for case in cases):
            return cases
        return [{**case, "case": alone[case["image"]]} for case in cases]


def arrivals(
    folder: Path, seen: Mapping[Path, State], done: Mapping[Path, State], own: Collection[Path] = ()
) -> tuple[dict[Path, State], list[Path]]:
    """Files and folders as they are now, without those done, and those of them that are as before, and thus complete.

    Args:
        folder: where they arrive.
        seen: what an earlier call found.
        done: resolved paths and what they were like; one that is like it still is left out, and so is a folder that
            contains one.
        own: resolved paths of results, left out with folders that contain them.
    """
    from vqseg_bundle.data import is_result_folder

    now = {}
    # a link to them is no arrival
    never = {place for path in (*own, folder.resolve()) for place in (path, *path.parents)}
    never |= {place for path in done for place in path.parents} - done.keys()
    for path in sorted(folder.iterdir()):
        if not path.exists() or is_result_folder(path.name):  # a link that leads nowhere, or our own output
            continue
        if path.name.startswith(".") or path.resolve() in never:
            continue
        if (state := _state(path)) != done.get(path.resolve()):
            now[path] = state
    return now, [path for path, state in now.items() if state and seen.get(path) == state]


def changed(ready: Sequence[Path], done: Mapping[Path, State]) -> set[Path]:
    """Those of the complete files and folders that were done before, and are no longer what they were."""
    return {path for path in ready if path.resolve() in done}


def _state(path: Path) -> State:
    """Sizes and times of a file, or of the files in a folder; empty if there is none, or it goes at this moment."""
    try:
        files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
        return tuple(number for each in files for number in (each.stat().st_size, each.stat().st_mtime))
    except OSError:
        return ()


def _outcome(session: Session, arrival: Arrival) -> str:
    """Where the predictions are, or why there are none."""
    from vqseg_bundle.commands.arrived_volumes import why_refused
    from vqseg_bundle.common import visible_line

    if not arrival.cases:
        return visible_line(arrival.refusal)
    try:
        return visible_line(str(session.segment(arrival.path, arrival.cases)))
    except (ValueError, OSError, RuntimeError, MemoryError) as error:  # too little memory for one, not for the next
        return visible_line(why_refused(error))


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
