"""MONAI's own checks of a bundle, and the exported model."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import monai.bundle
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.networks.utils import eval_mode
from support.bundle_runs import CONFIGS, ROOT, Trained, process_kept

import vqseg_bundle
from vqseg_bundle.data.cohorts.demo_anatomy import DEMO_LABELS
from vqseg_bundle.networks import VQSegNet

METADATA = json.loads((CONFIGS / "metadata.json").read_text())
SCHEMA = (
    Path(os.environ.get("VQSEG_REFERENCE_ROOT") or ROOT.parent / "shared" / "reference") / "meta_schema_20240725.json"
)


@pytest.mark.parametrize(
    "workflow_type, configs",
    [("train", ["train.json"]), ("train", ["train.json", "evaluate.json"]), ("infer", ["inference.json"])],
)
def test_no_required_property_is_missing(
    trained: Trained, tmp_path: Path, workflow_type: str, configs: list[str]
) -> None:
    dataset_dir = trained.cohort.root / ("images" if workflow_type == "infer" else "")
    workflow = ConfigWorkflow(
        [str(CONFIGS / name) for name in configs],
        workflow_type=workflow_type,
        logging_file=False,
        bundle_root=str(ROOT),
        dataset_dir=str(dataset_dir),
        output_dir=str(tmp_path),
        checkpoint=None if configs == ["train.json"] else str(trained.output_dir / "model.pt"),
        device="cpu",
    )
    with process_kept():
        workflow.initialize()
        assert workflow.check_properties() == []


def test_metadata_follows_monais_schema(tmp_path: Path) -> None:
    if not SCHEMA.is_file():
        pytest.skip(f"needs MONAI's metadata schema at {SCHEMA}")
    local = shutil.copy(SCHEMA, tmp_path / "schema.json")
    monai.bundle.verify_metadata(meta_file=str(CONFIGS / "metadata.json"), filepath=str(local))


def test_metadata_at_the_top_is_a_copy() -> None:
    assert (ROOT / "metadata.json").read_bytes() == (CONFIGS / "metadata.json").read_bytes()


def test_metadata_tells_the_version_and_its_changes() -> None:
    assert METADATA["version"] == vqseg_bundle.__version__
    assert METADATA["version"] in METADATA["changelog"]


def test_every_package_that_metadata_pins_is_a_dependency() -> None:
    lists = r"^(?:dependencies|dicom|foundation) = \[(.*?)^\]"
    blocks = re.findall(lists, (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    needed = {name for entry in re.findall(r'"([^">]+)', "".join(blocks)) for name in re.findall(r"[\w-]+", entry)}
    assert {"monai", "torch", "numpy", *METADATA["required_packages_version"]} <= needed


def test_metadata_names_the_demo_cohorts_labels() -> None:
    channels = METADATA["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert channels == {str(index): name for index, name in DEMO_LABELS.items()}


@pytest.mark.parametrize("config", ["train.json", "inference.json"])
def test_the_network_takes_and_gives_what_metadata_says(config: str, tmp_path: Path) -> None:
    monai.bundle.verify_net_in_out(
        net_id="network_def",
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=str(CONFIGS / config),
        device="cpu",
        **{"bundle_root": str(ROOT), "output_dir": str(tmp_path)},
    )


@pytest.fixture(scope="module")
def exported(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model.ts"
    monai.bundle.ckpt_export(
        net_id="network_def",
        filepath=str(path),
        ckpt_file=str(trained.output_dir / "model.pt"),
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=str(CONFIGS / "inference.json"),
        bundle_root=str(ROOT),
        checkpoint=str(trained.output_dir / "model.pt"),
    )
    return path


def test_the_exported_model_has_no_image_decoder(exported: Path) -> None:
    scripted = torch.jit.load(exported)
    assert [key for key in scripted.state_dict() if "segmentation_decoder" in key]
    assert not [key for key in scripted.state_dict() if "reconstruction_decoder" in key]


@pytest.mark.parametrize("size", [(32, 32), (45, 38)])
def test_the_exported_model_gives_the_same_logits(exported: Path, trained: Trained, size: tuple[int, int]) -> None:
    arguments = json.loads((trained.output_dir / "model.json").read_text())["network"]
    network = VQSegNet(**{**arguments, "reconstruction": False})
    network.load_state_dict(torch.load(trained.output_dir / "model.pt", weights_only=True))
    image = torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), eval_mode(network):
        torch.testing.assert_close(torch.jit.load(exported)(image), network(image), rtol=1e-5, atol=1e-5)
