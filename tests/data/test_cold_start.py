"""Which patients are chosen, from which features, and that features are made once."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from sklearn.cluster import KMeans

from vqseg_bundle.data import DataError, ScanSummary, choose_rows, standardize, summarize_scans, volume_statistics


@pytest.fixture
def blobs() -> np.ndarray:
    """Three groups of 12, 6 and 3 rows; the first row of each is its centre."""
    rng = np.random.default_rng(0)
    parts = []
    for center, count in ((0.0, 12), (10.0, 6), (30.0, 3)):
        around = rng.normal(0, 0.5, (count - 1, 4))
        around -= around.mean(axis=0)
        parts.append(center + np.vstack([np.zeros(4), around]))
    return np.concatenate(parts)


def test_the_middle_of_each_group_is_chosen_the_largest_first(blobs: np.ndarray) -> None:
    found = choose_rows(blobs, 3)
    assert found.chosen == [0, 12, 18]
    np.testing.assert_array_equal(found.clusters, [0] * 12 + [1] * 6 + [2] * 3)
    np.testing.assert_allclose(found.distances[[0, 12, 18]], 0, atol=1e-12)
    assert choose_rows(blobs, 3, seed=1).chosen == found.chosen


def test_groups_with_a_label_get_no_other(blobs: np.ndarray) -> None:
    found = choose_rows(blobs, 1, labeled=[3, 19])
    assert found.chosen == [12]
    np.testing.assert_array_equal(found.clusters, [1] * 12 + [0] * 6 + [2] * 3)
    # the labelled row itself is the centre, not the mean of its group
    np.testing.assert_allclose(found.distances, np.linalg.norm(blobs - blobs[[3] * 12 + [12] * 6 + [19] * 3], axis=1))


def test_groups_are_as_tight_as_scikit_learn_s() -> None:
    rows = np.random.default_rng(1).normal(size=(80, 6))
    found = choose_rows(rows, 5)
    reference = KMeans(5, n_init=20, random_state=0).fit(rows)
    assert (found.distances**2).sum() <= 1.01 * reference.inertia_
    for cluster, row in enumerate(found.chosen):
        members = np.flatnonzero(found.clusters == cluster)
        center = rows[members].mean(axis=0)
        assert row == members[np.linalg.norm(rows[members] - center, axis=1).argmin()]


def test_equal_scans_are_chosen_once_each() -> None:
    assert sorted(choose_rows(np.zeros((4, 2)), 4).chosen) == [0, 1, 2, 3]
    assert sorted(choose_rows(np.zeros((4, 2)), 2, labeled=[0]).chosen)[0] > 0


@pytest.mark.parametrize("count", [0, 4])
def test_a_number_that_cannot_be_chosen_is_refused(count: int) -> None:
    with pytest.raises(DataError, match=rf"--count: expected 1 to 3 \(patients without labels\), found {count}"):
        choose_rows(np.eye(5), count, labeled=[0, 1])


def test_standard_features_by_hand() -> None:
    found = standardize(np.array([[1.0, 7.1, -3.0], [3.0, 7.1, 1.0]], np.float32))
    np.testing.assert_allclose(found, [[-1, 0, -1], [1, 0, 1]])


def test_the_bright_part_of_a_volume_by_hand() -> None:
    volume = torch.zeros(1, 10, 10, 4)
    volume[0, :5, 2:4, :] = 1
    found = volume_statistics(MetaTensor(volume, affine=torch.diag(torch.tensor([2.0, 2.0, 5.0, 1.0]))))
    assert found.shape == (22,)
    # share, centre, spread: 5 x 2 x 4 of 400 voxels, its centres at 0.05 to 0.45, 0.25 and 0.35, 0.125 to 0.875
    np.testing.assert_allclose(found[9:13], [0.1, 0.25, 0.3, 0.5], atol=1e-6)
    np.testing.assert_allclose(found[13:16], [np.std([0.05, 0.15, 0.25, 0.35, 0.45]), 0.05, np.sqrt(5) / 8], atol=1e-6)
    np.testing.assert_allclose(np.exp(found[16:]), [20, 20, 20, 2, 2, 5], rtol=1e-5)
    assert np.isfinite(volume_statistics(MetaTensor(torch.ones(2, 3, 3, 1)))).all()


def test_summaries_are_made_once_for_a_content_and_a_recipe(tmp_path: Path) -> None:
    images = [str(tmp_path / "a.nii.gz"), str(tmp_path / "b.nii.gz")]
    for value, image in enumerate(images):
        nib.save(nib.Nifti1Image(np.full((3, 3, 3), value, np.int16), np.eye(4)), image)
    made: list[str] = []

    def summarize(image: str) -> ScanSummary:
        made.append(image)
        value = float(np.asarray(nib.load(image).dataobj).mean())
        return ScanSummary(np.array([value, 0.5], np.float32), np.full((2, 3), 7, np.uint8), 1.5)

    folder = tmp_path / "cache"
    first = summarize_scans(images, summarize, folder, {"model": "x"}, progress=False)
    again = summarize_scans(images[::-1], summarize, folder, {"model": "x"}, progress=False)
    assert made == images
    np.testing.assert_array_equal(again[1].features, [0, 0.5])
    np.testing.assert_array_equal(again[0].picture, first[1].picture)
    assert again[0].row_to_column == 1.5
    summarize_scans(images, summarize, folder, {"model": "y"}, progress=False)
    assert made == images * 2
    for file in folder.iterdir():
        file.write_bytes(b"PK")
    nib.save(nib.Nifti1Image(np.full((3, 3, 3), 9, np.int16), np.eye(4)), images[0])
    changed = summarize_scans(images, summarize, folder, {"model": "x"}, progress=False)
    assert made == images * 3
    assert changed[0].features[0] == 9


def test_features_that_are_not_finite_name_the_scan(tmp_path: Path) -> None:
    bad = ScanSummary(np.array([np.nan]), np.zeros((1, 1), np.uint8), 1.0)
    with pytest.raises(DataError, match=r"a\.nii\.gz: its features are not finite"):
        summarize_scans(["a.nii.gz"], lambda image: bad, None, {}, progress=False)
