"""Every command in a fenced block of README.md, docs/ and models/README.md runs as it is written there.

A block starts in the folder of the bundle, after the blocks before it in its document. ``OUT``, where most of them
train, holds the first page's training when a document begins. Names for the reader's own data stand for small made data
(``document_places.GIVEN``), trainings take two steps (``document_fences.SHORT_TRAINING``). A block that
cannot be run says why on the line before it: ``<!-- not run: REASON -->``. The default tests run the commands in this
process and leave out ``LONG``; the slow one has a shell run the blocks, whole.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.bundle_runs import ROOT, command_here, process_kept
from support.deployment_parts import APP, INSTALL, START, document_block
from support.document_fences import LANGUAGES, SHORT_TRAINING, Fence, commands, read_fences, shortened
from support.document_places import GIVEN, with_places

#: the two whose data and trainings the others go on with come first
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "models" / "README.md"]
FIRST = DOCUMENTS[:2]
FENCES = [fence for document in DOCUMENTS for fence in read_fences(document)]

#: commands with one of these in a word take too long for the default tests, which run their like elsewhere
LONG = (
    "torchrun",
    "train_3d.json",
    "train_dinov2.json",
    "task06_lung.json",
    "cached",
    "ckpt_export",
    "onnx",
)

#: what makes Python blocks short
CHANGED = {'"federated_rounds": 20': f'"federated_rounds": 2, **{SHORT_TRAINING}'}

#: each command once, in its folder: a later document repeats what an earlier one has written
_SHIM = """#!{python} -S
import os, sys
sys.path.insert(0, {tests!r})
from support.document_fences import shortened
words = repr([os.getcwd(), *sys.argv])
with open({done!r}, "a+") as done:
    done.seek(0)
    if words in done.read().splitlines():
        sys.exit()
    done.write(words + "\\n")
os.execv({python!r}, [{python!r}, *{before!r}, *shortened(sys.argv[1:])])
"""


class Checkout:
    """A copy of the bundle in which the blocks of documents are run, each command once.

    Args:
        root: where to make it.
        whole: have a shell run the shell blocks, in place of this process without the long commands.
    """

    def __init__(self, root: Path, whole: bool) -> None:
        self.root, self._whole = root, whole
        self._done: set[Path] = set()
        self._commands: list[list[str]] = []
        for name in ("configs", "docs/results", "plans", "scripts", "vqseg_bundle"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("LICENSE", "metadata.json"):
            shutil.copy(ROOT / name, root)
        if whole:
            self._write_shims(root / "bin")

    def run(self, document: Path) -> None:
        """Run the blocks of a document, unless it is done."""
        if document in self._done:
            return
        self._done.add(document)
        self._put_back_training()
        names: dict[str, Any] = {}
        for fence in read_fences(document):
            if fence.reason is None and fence.language in ("sh", "python"):
                self._run_fence(fence, with_places(fence.text, self.root), names)

    def _put_back_training(self) -> None:
        """What a document before this one has trained into ``OUT`` is not what this one speaks of."""
        folder, kept = self.root / "OUT", self.root / ".OUT"
        if kept.exists():
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(kept, folder)
        elif folder.exists():  # after the first page
            shutil.copytree(folder, kept)

    def _run_fence(self, fence: Fence, text: str, names: dict[str, Any]) -> None:
        with pytest.MonkeyPatch.context() as patch, process_kept():
            patch.chdir(self.root)
            try:
                if fence.language == "python":
                    for written, changed in CHANGED.items():
                        text = text.replace(written, changed)
                    exec(compile(text, fence.place, "exec"), names)
                elif self._whole:
                    self._run_in_shell(text)
                else:
                    for words in commands(text):
                        self._run_here(words, patch)
            except (Exception, SystemExit) as error:
                raise AssertionError(f"{fence.place} does not run as written: {error}\n{text}") from error

    def _run_here(self, words: list[str], patch: pytest.MonkeyPatch) -> None:
        if words[0] == "cd":
            patch.chdir(words[1])
        elif words not in self._commands and not any(long in word for word in words for long in LONG):
            self._commands.append(words)
            if words[0] == "vqseg":
                words = ["python", "-m", "vqseg_bundle", *words[1:]]
            if words[:2] != ["python", "-m"]:
                raise ValueError(f"expected cd, vqseg, python -m, or a command of LONG, found {' '.join(words[:2])}")
            module, *arguments = shortened(words)[2:]
            done = command_here(*arguments, cwd=Path.cwd(), module=module)
            if done.returncode:
                raise RuntimeError(done.stdout + done.stderr)

    def _run_in_shell(self, text: str) -> None:
        path = os.pathsep.join([str(self.root / "bin"), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = ["bash", "-euo", "pipefail", "-c", text]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800, check=False)
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)

    def _write_shims(self, folder: Path) -> None:
        folder.mkdir()
        shims = {"python": (), "torchrun": ("-m", "torch.distributed.run"), "vqseg": ("-m", "vqseg_bundle")}
        for name, before in shims.items():
            done = str(self.root / "bin" / "done")
            text = _SHIM.format(python=sys.executable, tests=str(ROOT / "tests"), before=before, done=done)
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """After the blocks of the first documents."""
    checkout = Checkout(tmp_path_factory.mktemp("documents") / "bundle", whole=False)
    for document in FIRST:
        checkout.run(document)
    yield checkout
    shutil.rmtree(checkout.root)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_commands_run_as_written(checkout: Checkout, document: Path) -> None:
    checkout.run(document)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_blocks_run_whole_in_a_shell(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "bundle", whole=True)
    for document in DOCUMENTS:
        checkout.run(document)


@pytest.mark.parametrize("fence", FENCES, ids=lambda fence: fence.place)
def test_a_block_says_what_it_is_and_holds_it(fence: Fence) -> None:
    assert fence.language in LANGUAGES, f"{fence.place}: expected one of {LANGUAGES} after the backticks"
    if fence.language == "json":
        json.loads(fence.text)
    if fence.language == "text":
        words = {line.split()[0] for line in fence.text.splitlines() if line.split()}
        assert not words & {"cd", "git", "pip", "python", "sh", "torchrun", "vqseg"}, f"{fence.place}: holds a command"


def test_nothing_is_kept_for_blocks_that_are_gone() -> None:
    text = "".join(fence.text for fence in FENCES if fence.reason is None)
    assert not [word for word in (*LONG, *GIVEN, *CHANGED) if word not in text]


@pytest.mark.parametrize("start", [INSTALL, APP, START])
def test_monai_label_s_page_has_the_blocks_that_its_tests_run(start: str) -> None:
    assert document_block(start).count("\n") >= 2


def test_a_document_finds_the_first_page_s_training(checkout: Checkout, tmp_path: Path) -> None:
    for name, line in (("first", "shutil.rmtree('OUT')"), ("next", "assert Path('OUT/model.pt').is_file()")):
        page = tmp_path / f"{name}.md"
        page.write_text(f"```python\nimport shutil\nfrom pathlib import Path\n{line}\n```\n")
        checkout.run(page)


def test_a_reason_is_the_block_s_own(tmp_path: Path) -> None:
    block = "```text\n1\n```\n"
    (tmp_path / "page.md").write_text(f"<!-- not run: first -->\n{block}<!-- not run: second -->\n{block}\n{block}")
    assert [fence.reason for fence in read_fences(tmp_path / "page.md")] == ["first", "second", None]


def test_a_new_block_must_run_or_say_why_not(checkout: Checkout, tmp_path: Path) -> None:
    block = "```sh\nvqseg check --datalist STUDY/datalist.json  # of your own\n```\n"
    (tmp_path / "excused.md").write_text(f"# New\n\n<!-- not run: of another page -->\n{block}")
    checkout.run(tmp_path / "excused.md")
    (tmp_path / "new.md").write_text(f"# New\n\n{block}")
    message = r"/new\.md, line 3 does not run as written: vqseg check: error: dataset_dir STUDY: expected a folder"
    with pytest.raises(AssertionError, match=message):
        checkout.run(tmp_path / "new.md")
