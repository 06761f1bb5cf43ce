"""``vqseg choose`` from a folder of scans to a datalist with those that were labelled."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support.foundation_parts import PatchMeans

from vqseg_bundle import networks
from vqseg_bundle.commands.choose import main
from vqseg_bundle.commands.data import main as make_datalist
from vqseg_bundle.handlers.report.choice_page import principal_components

AFFINE = np.diag([1.0, 1.0, 4.0, 1.0])
#: radius of the ball in a scan's middle; three kinds
RADII = {**{f"a{i}": 3 for i in range(5)}, **{f"b{i}": 6 for i in range(3)}, **{f"c{i}": 10 for i in range(2)}}


def ball(radius: float, seed: int) -> nib.Nifti1Image:
    rng = np.random.default_rng(seed)
    distance = np.hypot(*np.mgrid[-12:12, -12:12])[:, :, None].repeat(4, axis=2)
    return nib.Nifti1Image(((distance < radius) * 100 + rng.normal(0, 1, (24, 24, 4))).astype(np.float32), AFFINE)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "cohort"
    (folder / "images").mkdir(parents=True)
    for seed, (name, radius) in enumerate(RADII.items()):
        nib.save(ball(radius, seed), folder / "images" / f"{name}.nii.gz")
    return folder


def label(folder: Path, names: list[str]) -> None:
    (folder / "labels").mkdir(exist_ok=True)
    for name in names:
        voxels = np.asarray(nib.load(folder / "images" / f"{name}.nii.gz").dataobj) > 50
        nib.save(nib.Nifti1Image(voxels.astype(np.uint8), AFFINE), folder / "labels" / f"{name}.nii.gz")


def choose(folder: Path, *options: str) -> dict:
    main([str(folder), "--force", "--no-progress", *options])
    return json.loads((folder / "choice.json").read_text())


def refused(capsys: pytest.CaptureFixture[str], message: str, *arguments: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--no-progress", *arguments])
    assert re.search(message, capsys.readouterr().err)


def test_one_scan_of_each_kind_then_a_datalist_of_them(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choice = choose(scans, "--count", "3")
    assert [name[0] for name in choice["chosen"]] == ["a", "b", "c"]
    assert list(choice["stands_for"].values()) == [5, 3, 2]
    assert choice["scans"] == {name: [f"images/{name}.nii.gz"] for name in choice["chosen"]}
    printed = capsys.readouterr().out
    assert f"{choice['chosen'][0]:<24}{5:>16}  images/{choice['chosen'][0]}.nii.gz" in printed
    label(scans, choice["chosen"][:2])
    file = str(scans / "choice.json")
    with pytest.raises(SystemExit, match="2"):
        make_datalist([str(scans), "--labeled-file", file])
    assert f"found none for {choice['chosen'][2]}; draw these first" in capsys.readouterr().err
    label(scans, [*choice["chosen"], "a0", "a1", "a2", "a3", "a4"])
    make_datalist([str(scans), "--labeled-file", file, "--test-count", "2"])
    datalist = json.loads((scans / "datalist.json").read_text())
    assert [entry["patient"] for entry in datalist["training"]] == sorted(choice["chosen"])
    assert len(datalist["test"]) == 2
    # now nothing in the test list can be chosen, and what is labelled is not chosen again
    again = choose(scans, "--count", "2")
    assert again["labeled"] == sorted(choice["chosen"])
    assert {*again["chosen"]}.isdisjoint({entry["patient"] for entry in datalist["test"]} | {*choice["chosen"]})


def test_the_page_holds_its_pictures_and_loads_nothing(scans: Path) -> None:
    (scans / "images/b1.nii.gz").rename(scans / "images/b1 <i>&.nii.gz")
    choice = choose(scans, "--count", "3")
    page = (scans / "choice.html").read_text()
    assert page.count('src="data:image/png;base64,') == len(RADII)
    assert set(re.findall(r'(?:src|href)="(?!data:image/png|#)([^"]*)"', page)) == set()
    assert "<i>&.nii" not in page
    assert "b1 &lt;i&gt;&amp;" in page
    assert [html.escape(f"label {files[0]}") in page for files in choice["scans"].values()] == [True] * 3


def test_a_foundation_model_s_features_are_remembered_and_padding_is_none(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"some")
    seen: list[tuple[int, ...]] = []

    class Watched(PatchMeans):
        def forward(self, images, depth=None):
            seen.append((*images.shape[1:], depth))
            return super().forward(images, depth)

    monkeypatch.setattr(networks, "build_foundation_model", lambda name, file, size: Watched(size))
    choice = choose(scans, "--count", "3", "--foundation_weights", str(weights), "--slices", "2")
    assert choice["features"] == "dinov2_vits14"
    assert seen == [(1, 24, 24, 4, 2)] * len(RADII)
    assert choose(scans, "--count", "3", "--foundation_weights", str(weights), "--slices", "2") == choice
    assert len(seen) == len(RADII)
    weights.write_bytes(b"other")
    choose(scans, "--count", "3", "--foundation_weights", str(weights), "--slices", "2")
    assert len(seen) == 2 * len(RADII)


def test_bad_input_is_named_and_nothing_written(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(scans)
    refused(capsys, r"--count: expected 1 to 10 \(patients without labels in .*\), found 11", folder, "--count", "11")
    message = r"--intensity_window: expected 2 numbers, \[a,b\], found wide"
    refused(capsys, message, folder, "--count", "2", "--intensity_window", "wide")
    none = r"foundation_weights: there is no file 'none\.pth'"
    refused(capsys, none, folder, "--count", "2", "--foundation_weights", "none.pth")
    refused(capsys, r"expected a folder, found no such folder", f"{folder}x", "--count", "2")
    nib.save(nib.Nifti1Image(np.full((24, 24, 4), np.nan, np.float32), AFFINE), scans / "images" / "nan.nii.gz")
    refused(capsys, r"1 scans cannot be used:\n- .*nan\.nii\.gz: ", folder, "--count", "2")
    assert not list(scans.glob("choice*"))
    (scans / "images" / "nan.nii.gz").unlink()
    label(scans, list(RADII))
    message = r"expected patients without labels to choose from, found 10 with labels and none without"
    refused(capsys, message, folder, "--count", "2")
    assert len(choose(scans, "--count", "2", "--ignore-labels")["chosen"]) == 2
    refused(capsys, r"choice\.json exists; give another name, or --force", folder, "--count", "2", "--ignore-labels")


def test_a_folder_of_scans_alone_will_do(scans: Path) -> None:
    assert len(choose(scans / "images", "--count", "2")["chosen"]) == 2


def test_the_map_has_the_two_directions_of_most_variance() -> None:
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(30, 2)) * [5, 2]
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0][:2]
    places, share = principal_components(plane @ rotation + 3)
    assert share == pytest.approx(1)
    distances = np.linalg.norm(plane[:, None] - plane, axis=2)
    np.testing.assert_allclose(np.linalg.norm(places[:, None] - places, axis=2), distances, atol=1e-9)
    assert principal_components(np.zeros((1, 3)))[0].tolist() == [[0.0, 0.0]]
