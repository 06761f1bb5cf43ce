"""The figure of a codebook, its numbers and not only its file; slices in the figures; the overview."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialPad
from support.bundle_runs import CohortFolder, Trained

from scripts.figures.__main__ import main
from scripts.figures.codebook import sorted_shares
from scripts.figures.codebook_history import Snapshot, load_history, project_codes
from scripts.figures.overview import _draw, _slice
from scripts.figures.token_map import map_tokens, principal_colors
from scripts.figures.trained_network import load_case, open_trained, view_slices
from vqseg_bundle.data import SliceAxisLastd, open_cohort, read_classes


def snapshot(codebook: np.ndarray, counts: list[int]) -> Snapshot:
    return Snapshot(1, 10, 1, codebook.astype(np.float32), np.array(counts))


def save(path: Path, **changes: object) -> None:
    content: dict[str, object] = {"codebook": np.zeros((3, 2), np.float16), "counts": np.array([2, 0, 1])}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{**content, "iteration": 5, "total_iterations": 10, "window": 5, **changes})  # type: ignore[arg-type]


def test_shares_are_sorted_and_codes_without_a_token_left_out() -> None:
    assert sorted_shares(np.array([1, 0, 6, 3, 0])).tolist() == [0.6, 0.3, 0.1]
    assert snapshot(np.eye(5), [1, 0, 6, 3, 0]).used.tolist() == [True, False, True, True, False]


def test_principal_components_span_the_axes_of_largest_variance() -> None:
    generator = np.random.default_rng(0)
    codes = generator.normal(size=(200, 5)) * np.array([1.0, 9.0, 0.1, 4.0, 0.1])
    (first, second) = project_codes([snapshot(codes, [1] * 200), snapshot(codes[::-1], [1] * 200)])
    np.testing.assert_allclose(first, second[::-1], atol=1e-4)
    assert abs(np.corrcoef(first[:, 0], codes[:, 1])[0, 1]) > 0.99
    assert abs(np.corrcoef(first[:, 1], codes[:, 3])[0, 1]) > 0.99


def test_t_sne_keeps_clusters_apart() -> None:
    pytest.importorskip("sklearn")
    generator = np.random.default_rng(0)
    codes = np.concatenate([generator.normal(size=(20, 4)), generator.normal(size=(20, 4)) + 50])
    (places,) = project_codes([snapshot(codes, [1] * 40)], "tsne")
    within = np.linalg.norm(places[:20] - places[:20].mean(axis=0), axis=1).max()
    assert np.linalg.norm(places[:20].mean(axis=0) - places[20:].mean(axis=0)) > within


def test_another_projection_is_refused() -> None:
    with pytest.raises(ValueError, match='method must be "pca" or "tsne", got \'umap\''):
        project_codes([snapshot(np.eye(4), [1] * 4)], "umap")


def test_near_codes_have_near_colours() -> None:
    generator = torch.Generator().manual_seed(0)
    codebook = torch.randn(50, 8, generator=generator)
    codebook[1] = codebook[0] + 1e-4
    colors = principal_colors(codebook)[0].numpy()
    assert colors.shape == (50, 3)
    assert colors.min() >= 0
    assert colors.max() <= 1
    np.testing.assert_allclose(colors[0], colors[1], atol=1e-3)
    assert np.abs(colors[2:] - colors[0]).max(axis=1).min() > 0.01


def test_snapshots_are_read_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for step in (1_000_000, 999_999):
        save(tmp_path / "codebook" / f"iteration_{step:06d}.npz", iteration=step)
    history = load_history(tmp_path)
    assert [each.iteration for each in history] == [999_999, 1_000_000]
    assert history[0].counts.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counts": np.zeros(4)}, r"expected a count a code, found \(4,\) for a codebook \(3, 2\)"),
        ({"codebook": np.zeros((4, 2)), "counts": np.zeros(4)}, "expected snapshots of one codebook, found sizes"),
    ],
)
def test_snapshots_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    save(tmp_path / "codebook" / "iteration_000001.npz")
    save(tmp_path / "codebook" / "iteration_000002.npz", **changes)
    with pytest.raises(ValueError, match=message):
        load_history(tmp_path)


def test_a_file_that_is_no_snapshot_is_named(tmp_path: Path) -> None:
    (tmp_path / "codebook").mkdir()
    (tmp_path / "codebook" / "iteration_000001.npz").write_text("text")
    with pytest.raises(ValueError, match=r"iteration_000001\.npz: expected a snapshot of a codebook"):
        load_history(tmp_path)
    np.savez(tmp_path / "codebook" / "iteration_000001.npz", codebook=np.eye(3))
    with pytest.raises(ValueError, match="it lacks counts, iteration, total_iterations, window"):
        load_history(tmp_path)


def test_the_tokens_shown_are_those_of_the_deployed_network(trained: Trained) -> None:
    """Slice 2 of an odd-sized volume, 30 x 37 pixels, padded to the patch of 32 and to tokens of 4 x 4."""
    loaded = open_trained(trained.output_dir / "model.pt")
    case = load_case(loaded, trained.cohort.root / "images" / "turned.nii.gz", None)
    tokens = map_tokens(loaded, case, 2)
    with torch.no_grad():
        expected = loaded.quantizer(loaded.network.encode(case.image[None, ..., 2]).features).indices[0].numpy()
    np.testing.assert_array_equal(tokens.tokens, expected)
    height, width = case.image.shape[1:3]
    assert tokens.indices.shape == tokens.image.shape == (height, width)
    np.testing.assert_array_equal(tokens.indices[::4, ::4], expected)
    assert len(tokens.colors) == 32


def test_the_command_counts_the_codes_in_use(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = tmp_path / "new" / "figure.png"
    image = trained.cohort.root / "images" / "case_5.nii.gz"
    main(["codebook", "--run", str(trained.output_dir), "--image", str(image), "--output", str(figure)])
    printed = capsys.readouterr().out
    for path in (trained.output_dir / "codebook").glob("*.npz"):
        stored = np.load(path)
        used = sum(1 for count in stored["counts"] if count)
        assert f"step {int(stored['iteration']):>7,}: {used} of 32 codes in use" in printed
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "figure.txt"], r"--output figure\.txt: expected a file ending in one of .*png"),
        (["--run", "missing", "--output", "a.png"], "--run missing is not a folder: name the output_dir of a training"),
        (["--output", "a.png"], r"holds no iteration_\*\.npz"),
        (["--output", "there.png"], r"--output there\.png: the file exists; give another name, or --force"),
    ],
)
def test_bad_arguments_end_with_a_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.png").write_text("mine")
    with pytest.raises(SystemExit, match="2"):
        main(["codebook", "--run", ".", *words])
    assert re.search(message, capsys.readouterr().err)
    assert Path("there.png").read_text() == "mine"


def test_an_image_and_a_slice_that_are_not_there_are_named(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--run", str(trained.output_dir), "--output", str(tmp_path / "a.png")]
    image = trained.cohort.root / "images" / "case_5.nii.gz"
    for words, message in (
        (["--image", "missing.nii.gz"], "--image missing.nii.gz not found: name a volume"),
        (["--image", str(image), "--slice", "4"], "--slice must lie in 0 to 3 for case_5.nii.gz, got 4"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["codebook", *run, *words])
        assert message in capsys.readouterr().err


def test_weights_that_are_missing_or_without_codebook_are_refused(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model\.pt not found: name the model\.pt of a finished training"):
        open_trained(tmp_path / "model.pt")
    shutil.copy(trained.output_dir / "model.pt", tmp_path)
    text = (trained.output_dir / "model.json").read_text()
    (tmp_path / "model.json").write_text(text.replace('"num_embeddings": 32', '"num_embeddings": null'))
    with pytest.raises(ValueError, match=r"this network has no codebook \(num_embeddings is None\)"):
        open_trained(tmp_path / "model.pt")


IDENTITY = np.eye(4)


def preprocessed(voxels: np.ndarray, affine: np.ndarray, size: int = 12) -> MetaTensor:
    """As the network gets it: slices last, padded to the patch."""
    image = MetaTensor(torch.tensor(voxels.copy())[None], affine=torch.tensor(affine))
    image.meta["original_affine"] = affine
    return SpatialPad((size, size, 1), mode="minimum")(SliceAxisLastd("image")({"image": image})["image"])


def shown(volume: MetaTensor, number: int = 0) -> np.ndarray:
    return view_slices(volume).show(volume[0, ..., number].numpy())


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "LAS", "ASR", "SPL"])
def test_an_oriented_slice_is_shown_alike_however_it_is_stored(axcodes: str) -> None:
    voxels = np.arange(6 * 8 * 4, dtype=np.float32).reshape(6, 8, 4)
    stored = nib.Nifti1Image(voxels, np.diag([1.0, 2.0, 5.0, 1.0])).as_reoriented(
        nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(axcodes))
        )
    )
    volume = preprocessed(stored.get_fdata(dtype=np.float32), stored.affine)
    view = view_slices(volume)
    # the patient's right at the left, anterior at the top: both array axes of RAS turned round
    slices = [shown(volume, number) for number in range(4)]
    assert any(np.array_equal(found, voxels[::-1, ::-1, 1].T) for found in slices)
    assert (view.upright.sides, view.aspect) == (("R", "A"), 2.0)


def test_a_file_without_orientation_lies_as_its_axes_say() -> None:
    picture = np.arange(35, dtype=np.float32).reshape(5, 7, 1)
    np.testing.assert_array_equal(shown(preprocessed(picture, IDENTITY)), picture[..., 0], "rows, columns")
    volume = np.arange(70, dtype=np.float32).reshape(5, 7, 2)
    np.testing.assert_array_equal(shown(preprocessed(volume, IDENTITY), 1), volume[..., 1].T, "x, y")


def test_a_part_of_a_slice_has_the_padding_that_is_left() -> None:
    volume = preprocessed(np.ones((6, 10, 2), np.float32), IDENTITY)
    assert view_slices(volume).inside == (slice(3, 9), slice(1, 11))
    part = view_slices(volume).within([2, 4], [6, 8])
    assert part.inside == (slice(1, 6), slice(0, 7))


def test_colours_are_turned_with_their_pixels() -> None:
    view = view_slices(preprocessed(np.ones((6, 10, 2), np.float32), np.diag([1.0, 1.0, 4.0, 1.0])))
    colors = np.random.default_rng(0).random((12, 12, 3))
    for channel in range(3):
        np.testing.assert_array_equal(view.show(colors)[..., channel], view.show(colors[..., channel]))


def test_it_counts_the_scans_and_shows_the_fullest_slice(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    splits = open_cohort(str(shared_cohort.root), None, "").splits()
    case = splits["test"][0]
    shutil.copy(case["label"], tmp_path / f"{case['case']}_pred.nii.gz")
    figure = _draw(splits, tmp_path)
    given, made = figure.subfigs
    assert (
        given.get_suptitle() == f"in: {len(splits['training'])} labelled scans, {len(splits['unlabeled'])} unlabelled"
    )
    image, place = _slice(case["image"], case["label"])
    areas = [np.count_nonzero(area) for area in np.moveaxis(read_classes(case["label"])[0], 2, 0)]
    assert areas[place] == max(areas) > 0
    for axes in made.axes:
        np.testing.assert_array_equal(axes.images[0].get_array(), image.T)
    assert [len(axes.collections) for axes in made.axes] == [
        len(np.unique(read_classes(case["label"])[0][..., place])) - 1
    ] * 2


def test_an_existing_picture_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old.png").write_bytes(b"old")
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["overview", "--predictions", str(tmp_path), "--output", str(tmp_path / "old.png")])
    assert "old.png: the file exists; give another name, or --force" in capsys.readouterr().err
    assert (tmp_path / "old.png").read_bytes() == b"old"
