"""Several models and mirrored copies, averaged by the inferer, by evaluation and by inference."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.inferers import SimpleInferer, SlidingWindowInferer
from support.bundle_runs import ROOT, Trained, refused, run_here
from torch import nn

from vqseg_bundle import segment
from vqseg_bundle.bundle import load_further_networks, load_model_record
from vqseg_bundle.bundle.deployed.ensemble import split_checkpoints
from vqseg_bundle.engines import AveragedInferer


def networks(count: int, dims: int = 2) -> list[nn.Module]:
    torch.manual_seed(0)
    convolution = nn.Conv2d if dims == 2 else nn.Conv3d
    return [convolution(1, 3, 3, padding=1).eval() for _ in range(count)]


@torch.no_grad()
def test_the_mean_of_the_probabilities_of_networks_and_flips():
    image, (first, second) = torch.rand(1, 1, 7, 6), networks(2)
    found = AveragedInferer(SimpleInferer(), [second], mirror_axes=[0, 1])(image, first)
    parts = [
        network(image.flip(axes)).softmax(1).flip(axes)
        for network in (first, second)
        for axes in ([], [2], [3], [2, 3])
    ]
    torch.testing.assert_close(found.softmax(1), torch.stack(parts).mean(0))
    torch.testing.assert_close(found.exp().sum(1), torch.ones(1, 7, 6))


def test_a_class_of_no_probability_has_a_finite_logarithm() -> None:
    """Resampling mixes neighbours: zero times minus infinity would not be a number, and the class map arbitrary."""
    sure = AveragedInferer(SimpleInferer(), mirror_axes=[0])
    logits = sure(torch.tensor([0.0, 1000.0, -1000.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4), torch.nn.Identity())
    assert torch.isfinite(logits).all()
    assert (logits.argmax(dim=1) == 1).all()


@torch.no_grad()
def test_a_mirrored_volume_gets_the_mirrored_prediction():
    image, (network,) = torch.rand(1, 1, 8, 6, 4), networks(1, 3)
    inferer = AveragedInferer(SlidingWindowInferer((8, 6, 4)), mirror_axes=[2])
    torch.testing.assert_close(inferer(image.flip(4), network), inferer(image, network).flip(4))
    plain = SlidingWindowInferer((8, 6, 4))
    assert not torch.allclose(plain(image.flip(4), network), plain(image, network).flip(4), atol=1e-3)


@torch.no_grad()
def test_alone_it_changes_nothing():
    image, (network,) = torch.rand(1, 1, 7, 6), networks(1)
    assert torch.equal(AveragedInferer(SimpleInferer())(image, network), network(image))


@pytest.mark.parametrize("axes", [[0, 0], [-1], [3]])
def test_axes_that_are_none_are_refused(axes):
    with pytest.raises(ValueError, match=r"mirror_axes must be different axes out of 0, 1 and 2"):
        AveragedInferer(SimpleInferer(), mirror_axes=axes)


@pytest.fixture
def other(trained: Trained, tmp_path: Path) -> Path:
    """A second model: the trained one, its weights disturbed."""
    folder = tmp_path / "other"
    folder.mkdir()
    shutil.copy(trained.output_dir / "model.json", folder)
    torch.manual_seed(0)
    weights = torch.load(trained.output_dir / "model.pt", weights_only=True)
    noisy = {
        key: value + 0.3 * torch.randn_like(value) * value.std() if value.ndim > 1 else value
        for key, value in weights.items()
    }
    torch.save(noisy, folder / "model.pt")
    return folder


def class_map(folder: Path, case: str) -> np.ndarray:
    return np.asarray(nib.load(folder / f"{case}_pred.nii.gz").dataobj)


def test_inference_gives_the_class_of_the_mean_probability(trained: Trained, other: Path, tmp_path: Path) -> None:
    checkpoints = [str(trained.output_dir / "model.pt"), str(other / "model.pt")]
    volume = next(path for path in sorted(trained.cohort.root.glob("images/*.nii.gz")))
    given = {"dataset_dir": str(volume), "device": "cpu"}
    single = []
    for index, checkpoint in enumerate(checkpoints):
        run_here("inference", "inference.json", **given, checkpoint=checkpoint, output_dir=str(tmp_path / str(index)))
        single.append(class_map(tmp_path / str(index) / "predictions", volume.name.split(".")[0]))
    assert (single[0] != single[1]).any()
    both = {**given, "checkpoint": ", ".join(checkpoints), "mirror_axes": [0], "output_dir": str(tmp_path / "both")}
    run_here("inference", "inference.json", **both)
    found = class_map(tmp_path / "both" / "predictions", volume.name.split(".")[0])

    config = ConfigParser.load_config_file(ROOT / "configs" / "inference.json")
    total = torch.zeros(())
    for checkpoint in checkpoints:
        parser = ConfigParser({**config, **given, "checkpoint": checkpoint, "bundle_root": str(ROOT)})
        network = parser.get_parsed_content("network").eval()
        network.load_state_dict(torch.load(checkpoint, weights_only=True))
        data = parser.get_parsed_content("preprocessing")({"image": str(volume)})
        with torch.no_grad():
            for axes in ([], [2]):
                logits = parser.get_parsed_content("inferer")(data["image"][None].flip(axes), network)
                total = total + logits.softmax(1).flip(axes)
    data["pred"] = data["image"].clone()
    data["pred"].set_array((total / 4).log()[0])
    invert, *_ = parser.get_parsed_content("postprocessing").transforms
    inverted = invert(data)["pred"]
    np.testing.assert_array_equal(found, inverted.argmax(0).numpy())


def test_what_cannot_be_averaged_is_named(trained: Trained, other: Path, tmp_path: Path) -> None:
    record = json.loads((other / "model.json").read_text())
    record["preprocessing"]["patch_size"] = [8, 8]
    (other / "model.json").write_text(json.dumps(record))
    given = {"dataset_dir": str(trained.cohort.root), "device": "cpu"}
    first = str(trained.output_dir / "model.pt")
    message = r"(?s)checkpoint: .*other/model\.pt cannot be averaged with .*out/model\.pt\. .*#patch_size: "
    commands = [("inference", "inference.json"), ("evaluating", "train.json", "evaluate.json")]
    for command in commands:
        refused(tmp_path / "out", message, *command, **given, checkpoint=f"{first},{other / 'model.pt'}")
    missing = r"checkpoint '.*none\.pt' is not a file"
    refused(
        tmp_path / "out", missing, "inference", "inference.json", **given, checkpoint=f"{first},{other / 'none.pt'}"
    )


def test_models_of_channels_in_another_order_are_not_averaged(other: Path) -> None:
    path = other / "model.json"
    record = {**json.loads(path.read_text()), "info": {"channel_names": ["T1", "T2"]}}
    path.write_text(json.dumps(record))
    first = {**load_model_record(other / "model.pt"), "info": {"channel_names": ["T2", "T1"]}, "checkpoint": "first.pt"}
    with pytest.raises(
        SystemExit, match=r"cannot be averaged with first\.pt\. channel_names: .* T1, T2, here .* T2, T1"
    ):
        load_further_networks(f"first.pt,{other / 'model.pt'}", first, "cpu")


def test_the_weights_may_be_named_by_a_path(trained: Trained, tmp_path: Path) -> None:
    assert split_checkpoints(tmp_path / "a.pt") == [f"{tmp_path}/a.pt"]
    assert split_checkpoints(Path("a.pt, b.pt")) == ["a.pt", "b.pt"]
    assert split_checkpoints(None) == [None]
    image = trained.cohort.root / "images" / "case_5.nii.gz"
    message = f"checkpoint '{tmp_path}/missing.pt' is not a file: give the path of a trained model.pt."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        segment(image, tmp_path, checkpoint=tmp_path / "missing.pt", device="cpu")
