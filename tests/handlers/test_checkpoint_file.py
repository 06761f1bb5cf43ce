from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support.bundle_runs import ROOT

from vqseg_bundle.common import NonFiniteError
from vqseg_bundle.handlers import read_checkpoint, write_checkpoint

BAD = {"layer.weight": torch.tensor([1.0, math.nan]), "layer.bias": torch.tensor([math.inf]), "ok": torch.zeros(2)}

# writes without end, slowly enough that a kill mostly falls amid a file
WRITER = """
import sys, torch
from pathlib import Path
from vqseg_bundle.handlers import write_checkpoint
for number in range(10**6):
    write_checkpoint(Path(sys.argv[1]), {"number": torch.full((2**22,), float(number))}, keep_former=True)
    if number == 1:
        print("written", flush=True)
"""


def test_what_is_written_can_be_read(tmp_path):
    path = tmp_path / "new" / "model.pt"
    write_checkpoint(path, {"weight": torch.arange(3.0), "epoch": 2})
    content = read_checkpoint(path)
    assert content["weight"].tolist() == [0.0, 1.0, 2.0]
    assert content["epoch"] == 2
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert [file.name for file in path.parent.iterdir()] == ["model.pt"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_weights_that_are_not_finite_are_never_written(tmp_path):
    path = tmp_path / "model.pt"
    write_checkpoint(path, {"weight": torch.ones(1)})
    message = (
        r"model\.pt is not written: layer\.weight holds numbers that are not finite, and 1 more do\. What was saved"
    )
    with pytest.raises(NonFiniteError, match=message):
        write_checkpoint(path, BAD, keep_former=True)
    assert read_checkpoint(path) == {"weight": torch.ones(1)}
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


def test_the_file_before_is_kept_where_that_is_asked_for(tmp_path):
    path = tmp_path / "resume.pt"
    for number in range(4):
        write_checkpoint(path, {"number": number}, keep_former=number == 2)
    assert read_checkpoint(path) == {"number": 3}
    assert read_checkpoint(tmp_path / "resume.previous.pt") == {"number": 1}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, r"model\.pt: there is no such file"),
        (lambda path: path.write_bytes(b""), r"model\.pt: expected weights, found an empty file"),
        (_cut, r"model\.pt: expected weights, found a file that is cut off or damaged"),
        (
            lambda path: path.write_bytes(b"<html>404</html>" * 50),
            r"model\.pt: expected weights, found a file of another",
        ),
        (
            lambda path: torch.save(BAD, path),
            r"model\.pt: expected finite weights, found NaN or infinity in layer\.weight and 1 more",
        ),
    ],
    ids=["missing", "empty", "cut off", "no weights", "not finite"],
)
def test_what_cannot_be_used_is_named(tmp_path, spoil, message):
    path = tmp_path / "model.pt"
    write_checkpoint(path, {"weight": torch.zeros(1000)})
    spoil(path)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(path)


def test_a_process_that_is_killed_leaves_whole_files(tmp_path):
    path = tmp_path / "model.pt"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    newest = read_checkpoint(path)["number"][0].item()
    # the same, if the kill fell between the two names
    assert read_checkpoint(tmp_path / "model.previous.pt")["number"][0].item() in (newest - 1, newest)
