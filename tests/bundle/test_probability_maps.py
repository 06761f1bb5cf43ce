"""Class probabilities and their entropy beside the predictions of evaluation and inference."""

from __future__ import annotations

import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from support.bundle_runs import ROOT, Trained, run_here

from vqseg_bundle.data import list_volumes
from vqseg_bundle.engines import voxel_entropy

MAPS = {"save_probabilities": True, "save_entropy": True, "largest_component": []}


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def own_logits(checkpoint: Path, volume: Path) -> torch.Tensor:
    """What the network says of a volume, brought back to its grid by the first step of the postprocessing."""
    config = ConfigParser.load_config_file(ROOT / "configs" / "inference.json")
    given = {"dataset_dir": str(volume), "checkpoint": str(checkpoint), "device": "cpu", "bundle_root": str(ROOT)}
    parser = ConfigParser({**config, **given})
    network = parser.get_parsed_content("network").eval()
    network.load_state_dict(torch.load(checkpoint, weights_only=True))
    data = parser.get_parsed_content("preprocessing")({"image": str(volume)})
    with torch.no_grad():
        logits = parser.get_parsed_content("inferer")(data["image"][None], network)
    data["pred"] = data["image"].clone()
    data["pred"].set_array(logits[0])
    invert, *_ = parser.get_parsed_content("postprocessing").transforms
    return invert(data)["pred"].as_tensor()


@pytest.mark.parametrize("command", [("inference", "inference.json"), ("evaluating", "train.json", "evaluate.json")])
def test_the_maps_are_the_softmax_of_the_network_and_its_entropy(
    trained: Trained, tmp_path: Path, command: tuple[str, ...]
) -> None:
    checkpoint = trained.output_dir / "model.pt"
    volume = trained.cohort.root / "images" / "turned.nii.gz"  # oblique, cut across its first axis
    data = volume if command[0] == "inference" else trained.cohort.root
    places = {"dataset_dir": str(data), "checkpoint": str(checkpoint), "output_dir": str(tmp_path), "device": "cpu"}
    run_here(*command, **places, **MAPS)
    folder = tmp_path / "predictions"
    logits = own_logits(checkpoint, volume)
    expected = logits.double().softmax(0).numpy()
    found = nib.load(folder / "turned_probabilities.nii.gz")
    probabilities, entropy = voxels(folder / "turned_probabilities.nii.gz"), voxels(folder / "turned_entropy.nii.gz")
    assert probabilities.dtype == entropy.dtype == np.float32
    np.testing.assert_allclose(np.moveaxis(probabilities, -1, 0), expected, atol=1e-6)
    np.testing.assert_allclose(entropy, -(expected * np.log(expected)).sum(0), atol=1e-6)
    np.testing.assert_array_equal(voxels(folder / "turned_pred.nii.gz"), probabilities.argmax(-1))
    source = nib.load(volume)
    for image in (found, nib.load(folder / "turned_entropy.nii.gz")):
        np.testing.assert_array_equal(image.affine, source.affine)
        assert image.shape[:3] == source.shape
        assert [int(image.header[code]) for code in ("qform_code", "sform_code")] == [
            int(source.header[code]) for code in ("qform_code", "sform_code")
        ]


def test_without_the_keys_there_are_none_and_they_are_never_segmented(evaluated: Trained, tmp_path: Path) -> None:
    files = sorted((evaluated.output_dir / "predictions").glob("*.nii.gz"))
    assert files
    assert all(path.name.endswith("_pred.nii.gz") for path in files)
    for name in ("a", "a_probabilities", "a_entropy", "b_entropy"):
        nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)), tmp_path / f"{name}.nii.gz")
    assert [case["case"] for case in list_volumes(tmp_path)] == ["a", "b_entropy"]


def test_the_entropy_of_two_classes_by_hand() -> None:
    logits = torch.tensor([[0.0, 50.0], [0.0, -50.0]])[:, :, None]
    torch.testing.assert_close(voxel_entropy(logits), torch.tensor([[[math.log(2)], [0.0]]]))
