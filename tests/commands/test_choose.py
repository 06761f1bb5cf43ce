"""``vqseg choose`` from a folder of scans to a datalist with those that were labelled."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_dilation
from support.foundation_parts import PatchMeans

from vqseg_bundle import networks
from vqseg_bundle.bundle import Prediction
from vqseg_bundle.commands import choose as choose_command
from vqseg_bundle.commands.choose import main
from vqseg_bundle.commands.data import main as make_datalist
from vqseg_bundle.common import shell_line, vqseg_words
from vqseg_bundle.data import choose_rows, foreground_uncertainty, least_sure
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
    make_datalist([str(scans), "--labeled-file", file, "--test-count", "2", "--labels", "background,bright"])
    datalist = json.loads((scans / "datalist.json").read_text())
    assert [entry["patient"] for entry in datalist["training"]] == sorted(choice["chosen"])
    assert len(datalist["test"]) == 2
    # now nothing in the test list can be chosen, and what is labelled is not chosen again
    again = choose(scans, "--count", "2")
    assert again["labeled"] == sorted(choice["chosen"])
    assert {*again["chosen"]}.isdisjoint({entry["patient"] for entry in datalist["test"]} | {*choice["chosen"]})
    # the printed command takes both rounds' patients, and the held-out ones and the classes stay
    typed = shell_line([*vqseg_words(), "data"])
    assert f"then {typed} {scans} --labeled-file {file} --force\n" in capsys.readouterr().out
    label(scans, again["chosen"])
    with pytest.raises(SystemExit, match="2"):
        make_datalist([str(scans), "--labeled-file", file, "--force", "--test-count", "3"])
    assert "--test-count: expected 0 to 2 (patients with labels left), found 3" in capsys.readouterr().err
    make_datalist([str(scans), "--labeled-file", file, "--force"])
    second = json.loads((scans / "datalist.json").read_text())
    assert [entry["patient"] for entry in second["training"]] == sorted([*choice["chosen"], *again["chosen"]])
    assert {key: second[key] for key in ("test", "validation", "labels")} == {
        "test": datalist["test"],
        "validation": [],
        "labels": {"0": "background", "1": "bright"},
    }


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


@pytest.mark.parametrize(
    ("key", "typed", "message"),
    [
        ("intensity_window", "[400,-100]", " must hold two rising intensities, or be None, got [400, -100]."),
        ("image_size", "[0,0]", " must hold one to three sizes in voxels, or be None, got [0, 0]."),
        ("image_size", "[8.5,9]", " must hold one to three sizes in voxels, or be None, got [8.5, 9]."),
        ("spacing", "[0,0]", " must hold one to three voxel sizes in mm, or be None, got [0, 0]."),
        ("in_channels", "True", ": expected a whole number from 1 to 10000, found True."),
    ],
)
def test_settings_that_a_training_refuses_are_refused(
    scans: Path, capsys: pytest.CaptureFixture[str], key: str, typed: str, message: str
) -> None:
    refused(capsys, rf"error: --{key}{re.escape(message)}\n$", str(scans), "--count", "2", f"--{key}", typed)
    assert not list(scans.glob("choice*"))


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


def test_the_entropy_of_structures_and_their_shell_by_hand() -> None:
    """Sure of a cube's voxels, half sure of its shell, unsure of what lies away."""
    probabilities = np.zeros((2, 11, 11, 11))
    probabilities[:] = 0.5
    cube = (slice(4, 7),) * 3
    shell = binary_dilation(np.pad(np.ones((3, 3, 3), bool), 4), iterations=2)
    probabilities[0][shell], probabilities[1][shell] = 0.75, 0.25
    probabilities[0][cube], probabilities[1][cube] = 0.0, 1.0
    of_shell = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    expected = of_shell * (shell.sum() - 27) / shell.sum()
    # at 0.5 the first class, background, is taken
    assert foreground_uncertainty(probabilities) == pytest.approx(expected)
    nothing = np.stack([np.full((3, 3, 3), 0.9), np.full((3, 3, 3), 0.1)])
    assert foreground_uncertainty(nothing) == pytest.approx(np.log(2))


def test_the_least_sure_third_and_never_fewer_than_asked_for() -> None:
    values = [0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0.4]
    assert least_sure(values, 1) == [1, 3, 5]
    assert least_sure(values, 5) == [1, 3, 5, 6, 2]


def test_only_eligible_rows_are_divided_and_chosen() -> None:
    features = np.array([[0.0], [0.1], [5.0], [5.1], [9.0], [9.1]])
    found = choose_rows(features, 2, labeled=[0], eligible=[2, 3, 5])
    assert set(found.chosen) <= {2, 3, 5}
    assert 5 in found.chosen
    assert len(found.clusters) == 6


def test_the_next_ones_are_of_those_the_model_is_least_sure_of(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a model that is sure of all but the largest balls."""
    label(scans, ["a0"])

    def predict(image: str, probabilities: bool) -> Prediction:
        share = 0.6 if Path(image).name.startswith("c") else 0.99
        each = np.stack([np.full((4, 4, 4), 1 - share), np.full((4, 4, 4), share)])
        return Prediction(np.ones((4, 4, 4)), np.eye(4), {0: "background", 1: "ball"}, each)

    monkeypatch.setattr(choose_command, "load", lambda run, device: predict)
    choice = choose(scans, "--count", "2", "--model", "OUT")
    names = list(choice["uncertainties"])
    assert "a0" not in names
    third = {names[row] for row in least_sure(list(choice["uncertainties"].values()), 2)}
    assert {"c0", "c1"} < third
    assert len(third) == 3
    assert set(choice["chosen"]) <= third
    # the two large balls are alike: one stands for both
    assert len({"c0", "c1"} & set(choice["chosen"])) == 1
    assert choice["uncertainties"]["c0"] == pytest.approx(-(0.6 * np.log(0.6) + 0.4 * np.log(0.4)), abs=1e-6)
    assert "Unsure of (nats)" in (scans / "choice.html").read_text()
