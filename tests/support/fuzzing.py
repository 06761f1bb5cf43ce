"""Damaged headers, datalists and records by Hypothesis, and what reading them ends in; for a process of its own."""

from __future__ import annotations

import copy
import json
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from support.bundle_runs import run_here
from support.data_parts import hounsfield, write_volume
from vqseg_bundle.data import DataError, load_datalist, read_header, read_voxels

__all__ = ["FORMATS", "fuzz_datalists", "fuzz_headers", "fuzz_records"]

#: format to the file to damage, and the end of its header
FORMATS = {"nifti": ("a.nii", 352), "dicom": ("a", 1200), "nrrd": ("a.nrrd", 400), "metaimage": ("a.mha", 400)}
_SECONDS = 60
_RUNS_CODE = {"os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "pickle.find_class"}
_HOSTILE = [
    "$__import__('os').system('touch TRACE')",
    "@labels",
    "%secret#x",
    "../../../etc/passwd",
    "/dev/zero",
    "%s%n",
]
_TEXTS = st.one_of(
    st.sampled_from([*_HOSTILE, "", "nan", "1e999", "-1", "0", "2147483648", "9" * 30]), st.text(max_size=20)
)
_NUMBERS = st.one_of(st.integers(-10, 10), st.sampled_from([0, -1, 2**31, 2**63, 10**30]), st.floats(), st.booleans())
_VALUES = st.recursive(
    st.one_of(st.none(), _NUMBERS, _TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_TEXTS, inner, max_size=3)),
    max_leaves=5,
)


class _Outcomes:
    """Counts of how examples end, and those that end as none may.

    Args:
        folder: the working folder, in which no file TRACE may appear.
        refusals: the errors that a message explains.
    """

    def __init__(self, folder: Path, *refusals: type[BaseException]) -> None:
        self.folder, self.refusals = folder, refusals
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.ran: list[str] = []
        sys.addaudithook(lambda event, _: self.ran.append(event) if event in _RUNS_CODE else None)
        signal.signal(signal.SIGALRM, self._hangs)

    def take(self, example: object, act: Callable[[], str]) -> None:
        """Count what ``act`` calls its result, or a refusal; keep anything else as a failure."""
        signal.alarm(_SECONDS)
        try:
            self.counts[act()] += 1
        except self.refusals as error:
            self.counts["refused" if str(error).strip() else "refused without a word"] += 1
        except BaseException as error:
            while error.__cause__ is not None:
                error = error.__cause__
            self.failures.append(f"{type(error).__name__}: {str(error)[:300]!a} {str(example)[:300]!a}")
        finally:
            signal.alarm(0)
        if self.ran or (self.folder / "TRACE").exists():
            self.failures.append(f"ran {self.ran} {str(example)[:300]!a}")
            self.ran.clear()

    def save(self, target: Path) -> None:
        target.write_text(json.dumps({"counts": self.counts, "failures": self.failures}))

    def _hangs(self, number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"more than {_SECONDS} s")


def _run(strategy: st.SearchStrategy[Any], count: int, act: Callable[[Any], None]) -> None:
    """Call ``act`` with so many different examples, the same in every run."""
    options = settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    seed(0)(options(given(strategy)(act)))()


def _damaged(content: bytes, header: int) -> st.SearchStrategy[bytes]:
    """Bytes of the header replaced, inserted or cut, or the value of a line of text."""
    place, piece = st.integers(0, min(header, len(content) - 1)), st.binary(min_size=1, max_size=8)

    def replaced(edits: list[tuple[int, bytes]]) -> bytes:
        changed = bytearray(content)
        for at, new in edits:
            changed[at : at + len(new)] = new
        return bytes(changed)

    lines = [found.span(1) for found in re.finditer(rb"(?:=|:) ([ -~]+)\n", content[:header])]
    ways = [
        st.lists(st.tuples(place, piece), min_size=1, max_size=4).map(replaced),
        st.tuples(place, piece).map(lambda pair: content[: pair[0]] + pair[1] + content[pair[0] :]),
        place.map(lambda at: content[:at]),
    ]
    if lines:
        values = st.tuples(st.sampled_from(lines), _TEXTS)
        ways += [values.map(lambda v: content[: v[0][0]] + v[1].encode("utf-8", "replace") + content[v[0][1] :])] * 3
    return st.one_of(ways)


def fuzz_headers(kind: str, count: int, folder: Path) -> None:
    """Read so many damaged files of a format; the outcomes are left in ``outcomes.json``."""
    name, header = FORMATS[kind]
    write_volume(folder / name, hounsfield((6, 5, 4)))
    path = folder / name
    damaged = sorted(path.iterdir())[1] if path.is_dir() else path
    content, before = damaged.read_bytes(), (read_header(str(path)), read_voxels(str(path)))
    outcomes = _Outcomes(folder, DataError)

    def read() -> str:
        found, voxels = read_header(str(path)), read_voxels(str(path))
        if found.shape != before[0].shape or voxels.shape != found.shape:
            return "another shape" if voxels.shape == found.shape else "header and voxels disagree"
        if not np.array_equal(found.affine, before[0].affine):
            return "another affine"
        return "the same" if np.array_equal(voxels, before[1]) else "other voxels"

    def act(example: bytes) -> None:
        damaged.write_bytes(example)
        outcomes.take(example, read)

    _run(_damaged(content, header), count, act)
    outcomes.save(folder / "outcomes.json")


def _changed(content: Any) -> st.SearchStrategy[Any]:
    """A JSON value with one to three of its parts replaced, removed or added."""
    places = list(_places(content))

    def change(edits: list[tuple[tuple[Any, ...], Any, bool]]) -> Any:
        changed = copy.deepcopy(content)
        for place, value, removed in edits:
            holder = changed
            try:
                for key in place[:-1]:
                    holder = holder[key]
                if removed:
                    del holder[place[-1]]
                else:
                    holder[place[-1]] = value
            except (KeyError, IndexError, TypeError):
                continue  # an edit before has taken it away
        return changed

    return st.lists(st.tuples(st.sampled_from(places), _VALUES, st.booleans()), min_size=1, max_size=3).map(change)


def _places(content: Any, place: tuple[Any, ...] = ()) -> Any:
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*place, key)
        yield from _places(value, (*place, key))


def fuzz_datalists(datalist: Path, count: int, folder: Path) -> None:
    """Read so many changed datalists, of a folder of volumes."""
    content, outcomes = json.loads(datalist.read_text()), _Outcomes(folder, DataError)
    root, target = datalist.parent, folder / "datalist.json"
    before = load_datalist(datalist, root)

    def read() -> str:
        cohort = load_datalist(target, root)
        for case in (case for cases in cohort.splits().values() for case in cases):
            assert str(Path(case["image"]).resolve()).startswith(str(root.resolve()))
        same = cohort.splits() == before.splits()
        return "other cases" if not same else "the same cases" if cohort.labels == before.labels else "other labels"

    def act(example: Any) -> None:
        target.write_text(json.dumps(example))
        outcomes.take(example, read)

    _run(_changed(content), count, act)
    outcomes.save(folder / "outcomes.json")


def fuzz_records(weights: Path, volume: Path, count: int, folder: Path) -> None:
    """Start so many inferences with a changed ``model.json``, up to the first step."""
    content = json.loads(weights.with_suffix(".json").read_text())
    (folder / "model.pt").write_bytes(weights.read_bytes())
    outcomes = _Outcomes(folder, SystemExit)

    class StartedError(Exception):
        pass

    def stop(_: object) -> None:
        raise StartedError

    def start() -> str:
        places = {"dataset_dir": str(volume), "output_dir": str(folder / "out"), "checkpoint": str(folder / "model.pt")}
        try:
            run_here("inference", "inference.json", before=stop, device="cpu", **places)
        except StartedError:
            return "started"
        raise AssertionError

    def act(example: Any) -> None:
        (folder / "model.json").write_text(json.dumps(example))
        outcomes.take(example, start)

    _run(_changed(content), count, act)
    outcomes.save(folder / "outcomes.json")
