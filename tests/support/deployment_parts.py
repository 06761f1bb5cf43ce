"""MONAI Label and the Model Zoo's own check, run on a bundle from elsewhere."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest

from support.bundle_runs import ROOT, run_python

__all__ = [
    "APP",
    "INSTALL",
    "SCHEMA",
    "START",
    "Client",
    "document_block",
    "environment",
    "install_app",
    "pass_zoo_check",
    "serving",
]

SCHEMA = (
    Path(os.environ.get("VQSEG_REFERENCE_ROOT") or ROOT.parent / "shared" / "reference") / "meta_schema_20240725.json"
)


def pass_zoo_check(bundle: Path, mode: str) -> None:
    """The check ends without an error; skips where the zoo or the schema is missing.

    Args:
        bundle: a bundle in a folder of its own, which becomes the zoo's folder of bundles.
        mode: "min", "regular" or "full".
    """
    zoo = os.environ.get("VQSEG_MODEL_ZOO")
    if not zoo or not SCHEMA.is_file():
        pytest.skip(f"needs a checkout of Project-MONAI/model-zoo at VQSEG_MODEL_ZOO and the schema at {SCHEMA}")
    (bundle.parent / "model_info.json").write_text("{}")
    (bundle / "eval").mkdir(exist_ok=True)
    shutil.copy(SCHEMA, bundle / "eval" / "schema.json")
    words = ["ci/verify_bundle.py", "-b", bundle.name, "-p", str(bundle.parent), "-m", mode]
    result = run_python(*words, cwd=Path(zoo))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "metadata format is verified correctly" in result.stdout
    assert ("export weights into TorchScript module successfully" in result.stdout) == (mode == "full")


#: how the blocks of docs/monai-label.md begin that are run
INSTALL, APP, START = "python3 -m venv", "monailabel apps", "monailabel start_server"

_DOCUMENT = ROOT / "docs" / "monai-label.md"
_START_SECONDS, _TASK_SECONDS = 300, 3600


def environment() -> Path:
    """The ``bin`` folder of the server's environment, which the document's first block makes where it is missing."""
    folder = ROOT / ".venv-monailabel"
    if not (folder / "installed").exists():
        subprocess.run(["sh", "-e", "-c", document_block(INSTALL)], cwd=ROOT, check=True)
        (folder / "installed").touch()
    return folder / "bin"


def install_app(folder: Path, bundle: str) -> Path:
    """MONAI Label's application with a bundle that lies in ``folder``, by the document's second block."""
    block = document_block(APP).replace("hippocampus", bundle)
    subprocess.run(["sh", "-e", "-c", block], cwd=folder, env=_variables(), check=True, capture_output=True)
    return folder / "apps" / "monaibundle" / "model" / bundle


@contextmanager
def serving(folder: Path, bundle: str, studies: Path, log: Path) -> Iterator[Client]:
    """The server by the document's third block, on a free port of loopback; its children end with it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    block = document_block(START).replace("hippocampus", bundle)
    block = "exec " + block.replace("STUDIES", shlex.quote(str(studies))).replace("8000", port)
    with log.open("w") as file:
        server = subprocess.Popen(
            ["sh", "-e", "-c", block], cwd=folder, env=_variables(), stdout=file, stderr=file, start_new_session=True
        )
        try:
            client = Client(f"http://127.0.0.1:{port}")
            _wait_until_up(client, server, log)
            yield client
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(timeout=60)


class Client:
    """The calls that 3D Slicer's and OHIF's plugins make.

    Args:
        address: of the server.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def info(self) -> dict[str, Any]:
        """Models, labels and the state of the study folder."""
        return json.loads(self._call("GET", "/info/"))

    def infer(self, model: str, image: str, **params: Any) -> bytes:
        """The segmentation of an image of the study folder, a NIfTI file."""
        body = urlencode({"params": json.dumps({"device": "cpu", **params})}).encode()
        kind = "application/x-www-form-urlencoded"
        return self._call("POST", f"/infer/{model}?image={image}&output=image", body, kind)

    def submit_label(self, image: str, label: Path) -> None:
        """Submit the finished label of an image."""
        mark = uuid.uuid4().hex
        head = f'--{mark}\r\nContent-Disposition: form-data; name="label"; filename="{label.name}"\r\n\r\n'
        body = head.encode() + label.read_bytes() + f"\r\n--{mark}--\r\n".encode()
        kind = f"multipart/form-data; boundary={mark}"
        self._call("PUT", f"/datastore/label?image={image}&tag=final", body, kind)

    def train(self, model: str, **params: Any) -> dict[str, Any]:
        """Train and wait for the end; returns the task with its status and log."""
        return self._task("train", model, {"device": "cpu", **params})

    def score(self, method: str, **params: Any) -> dict[str, Any]:
        """Score the unlabelled images and wait for the end."""
        return self._task("scoring", method, {"device": "cpu", **params})

    def next_sample(self, strategy: str) -> dict[str, Any]:
        """The image to label next."""
        return json.loads(self._call("POST", f"/activelearning/{strategy}", b"{}", "application/json"))

    def datastore(self) -> dict[str, Any]:
        """Images with their labels and scores."""
        return json.loads(self._call("GET", "/datastore/?output=all"))

    def _task(self, kind: str, name: str, params: Mapping[str, Any]) -> dict[str, Any]:
        path = f"/{kind}/{name}?enqueue=true"
        started = json.loads(self._call("POST", path, json.dumps(params).encode(), "application/json"))
        end = time.monotonic() + _TASK_SECONDS
        while time.monotonic() < end:
            tasks = json.loads(self._call("GET", f"/{kind}/?all=true"))
            task = next(task for task in tasks if task["id"] == started["id"])
            if task["status"] not in ("SUBMITTED", "RUNNING"):
                return task
            time.sleep(2)
        raise TimeoutError(f"{kind} {name} has not ended after {_TASK_SECONDS} s")

    def _call(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> bytes:
        headers = {"Content-Type": kind} if kind else {}
        with urlopen(Request(self.address + path, body, headers, method=method), timeout=600) as answer:
            return answer.read()


def document_block(start: str) -> str:
    """The one block of the document that starts with these words."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", _DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (found,) = (block for block in blocks if block.startswith(start))
    return found


def _variables() -> dict[str, str]:
    """The environment's programs first, nothing of the tests' own Python, and no scoring of the server's own accord."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    kept["MONAI_LABEL_AUTO_UPDATE_SCORING"] = "false"
    return {**kept, "PATH": f"{environment()}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


def _wait_until_up(client: Client, server: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            client.info()
            return
        except OSError:
            time.sleep(1)
    raise RuntimeError(f"the server did not start:\n{log.read_text()[-4000:]}")
