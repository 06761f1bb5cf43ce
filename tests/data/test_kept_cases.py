"""Cases are read once, whether memory holds them or not."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.transforms import Compose, Lambdad, RandGaussianNoised

from vqseg_bundle.data import KeptCases

CASES = [{"image": index} for index in range(6)]


def kept(folder: Path | None, rate: float, read: list[int], **more: Any) -> KeptCases:
    def prepare(index: int) -> MetaTensor:
        read.append(index)
        return MetaTensor(torch.full((1, 2, 2), float(index)), meta={"name": str(index)})

    steps = [Lambdad("image", prepare), RandGaussianNoised("image", prob=1.0, std=1e-3)]
    return KeptCases(CASES, Compose(steps), rate, folder, **more)


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_each_case_is_prepared_once_when_it_is_first_drawn(tmp_path: Path, rate: float) -> None:
    read: list[int] = []
    cases = kept(tmp_path / "scans", rate, read)
    assert read == []
    for _ in range(3):
        images = [cases[index]["image"] for index in range(6)]
    assert sorted(read) == list(range(6))
    assert [round(image.mean().item()) for image in images] == list(range(6))
    assert [image.meta["name"] for image in images] == list("012345")
    assert len(list(tmp_path.glob("scans/*.pt"))) == 6 - int(6 * rate)
    assert not torch.equal(cases[5]["image"], cases[5]["image"])


def test_without_a_folder_other_cases_are_prepared_at_each_draw() -> None:
    read: list[int] = []
    cases = kept(None, 0.5, read)
    for index in (0, 5, 0, 5):
        assert round(cases[index]["image"].mean().item()) == index
    assert read == [0, 5, 5]


def test_loader_processes_share_what_is_kept(tmp_path: Path) -> None:
    read: list[int] = []
    cases = kept(tmp_path, 0.5, read, num_workers=2)
    assert sorted(read) == [0, 1, 2]
    for _ in range(2):
        found = [round(batch["image"].mean().item()) for batch in DataLoader(cases, batch_size=1, num_workers=2)]
        assert found == list(range(6))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3.pt", "4.pt", "5.pt"]


def test_a_full_disk_ends_the_keeping_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(item: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    read: list[int] = []
    cases = kept(tmp_path, 0.0, read)
    monkeypatch.setattr(torch, "save", refuse)
    assert [round(cases[4]["image"].mean().item()) for _ in range(2)] == [4, 4]
    assert read == [4, 4]
    assert caplog.text.count("no space is left to keep scans") == 1
    assert list(tmp_path.iterdir()) == []
