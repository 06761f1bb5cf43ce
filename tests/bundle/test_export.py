"""TorchScript and ONNX files agree with the weights they were made of, 2D and 3D."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from support.bundle_runs import CONFIGS, LABELS, ROOT, Trained, make_volumes, run_here

from vqseg_bundle.bundle import write_model_record
from vqseg_bundle.commands import check_export
from vqseg_bundle.commands.deploying.export_comparison import Agreement
from vqseg_bundle.commands.deploying.exported import WindowOutput, open_exported
from vqseg_bundle.commands.deploying.run_folder import DeploymentError, load_network
from vqseg_bundle.data import write_demo_cohort
from vqseg_bundle.networks import VQSegNet, describe_network

pytest.importorskip("onnxruntime", reason="needs onnxruntime (dev extra)")
pytest.importorskip("onnxscript", reason="needs onnxscript (dev extra)")


def export(checkpoint: Path, window: list[int]) -> list[Path]:
    """Both files, by MONAI's own functions."""
    common: dict[str, Any] = {
        "net_id": "network_def",
        "ckpt_file": str(checkpoint),
        "meta_file": str(CONFIGS / "metadata.json"),
        "config_file": str(CONFIGS / "inference.json"),
        "bundle_root": str(ROOT),
        "checkpoint": str(checkpoint),
    }
    scripted, onnx = checkpoint.with_suffix(".ts"), checkpoint.with_suffix(".onnx")
    monai.bundle.ckpt_export(filepath=str(scripted), **common)
    monai.bundle.onnx_export(filepath=str(onnx), input_shape=window, **common)
    return [scripted, onnx]


@pytest.fixture(scope="module")
def exported_2d(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Weights of a training, and both files."""
    folder = tmp_path_factory.mktemp("exported")
    for name in ("model.pt", "model.json"):
        shutil.copy(trained.output_dir / name, folder)
    return [folder / "model.pt", *export(folder / "model.pt", [1, 1, 32, 32])]


@pytest.fixture(scope="module")
def exported_3d(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Random weights of a 3D network with codes at three levels, without image decoder; both files."""
    folder = tmp_path_factory.mktemp("exported_3d")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"channels": [4, 8, 16, 16], "strides": [[2, 2, 1], 2, 2], "code_level": 2}
    codes: dict[str, Any] = {"num_embeddings": 64, "embedding_dim": 8, "quantizer": {"normalize": True}}
    network = VQSegNet(3, 1, 3, **sizes, **codes, skip_connections=[True, "quantized"], quantized_bottleneck=True)
    torch.save(network.deployed_state_dict(), folder / "model.pt")
    preprocessing = {
        "spatial_dims": 3,
        "in_channels": 1,
        "slice_axis": 2,
        "spacing": None,
        "image_size": None,
        "patch_size": [32, 32, 8],
        "intensity_window": None,
    }
    write_model_record(folder / "model.json", describe_network(network), LABELS, preprocessing, {})
    return [folder / "model.pt", *export(folder / "model.pt", [1, 1, 32, 32, 8])]


@pytest.fixture(params=["exported_2d", "exported_3d"])
def exported(request: pytest.FixtureRequest) -> list[Path]:
    return request.getfixturevalue(request.param)


def words(exported: list[Path], folder: Path) -> list[str]:
    checkpoint, *files = map(str, exported)
    return ["--checkpoint", checkpoint, "--exported", *files, "--dataset-dir", str(folder)]


def test_codes_and_logits_agree(exported: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(2):
        nib.save(make_volumes(seed, (40, 36, 10))[0], tmp_path / f"{seed}.nii.gz")
    check_export.main(words(exported, tmp_path))
    lines = [line for line in capsys.readouterr().out.splitlines() if "codes differ" in line]
    assert len(lines) == 2
    # windows of 32 with a quarter's overlap: two an axis in the plane, of 3D volumes two along the third axis, too
    windows, tokens = (80, 64) if "exported_3d" not in str(exported[0]) else (16, 32 + 256 + 2048)
    for line in lines:
        assert f"2 volumes, {windows} windows; 0 of {windows * tokens:,} codes differ" in line


def test_the_exported_files_hold_no_image_decoder(exported: list[Path]) -> None:
    network = load_network(exported[0])
    for path in exported[1:]:
        assert not open_exported(path, network).has_image_decoder()
    assert b"segmentation_decoder" in exported[2].read_bytes()
    assert b"reconstruction_decoder" not in exported[2].read_bytes()


def test_a_network_with_its_image_decoder_is_recognised(exported_2d: list[Path], tmp_path: Path) -> None:
    arguments = json.loads(exported_2d[0].with_suffix(".json").read_text())["network"]
    whole = VQSegNet(**{**arguments, "reconstruction": True})
    torch.jit.script(whole).save(str(tmp_path / "whole.ts"))
    assert open_exported(tmp_path / "whole.ts", whole).has_image_decoder()


@pytest.mark.parametrize("spoil", ["codebook", "segmentation_decoder"])
def test_files_of_other_weights_are_found(
    exported_2d: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: str
) -> None:
    scripted = torch.jit.load(str(exported_2d[1]))
    with torch.no_grad():
        for name, value in scripted.state_dict().items():
            if spoil in name and name.endswith("weight"):
                value.mul_(1.01).add_(0.01)
    scripted.save(str(tmp_path / "other.ts"))
    (tmp_path / "volumes").mkdir()
    nib.save(make_volumes(0)[0], tmp_path / "volumes" / "a.nii.gz")
    with pytest.raises(SystemExit, match="1"):
        check_export.main(words([exported_2d[0], tmp_path / "other.ts"], tmp_path / "volumes"))
    assert "other.ts differ from" in capsys.readouterr().err


def test_windows_with_another_code_do_not_count_for_the_logits() -> None:
    agreement = Agreement()
    logits, indices = torch.zeros(2, 3, 4, 4), torch.zeros(2, 2, 2, dtype=torch.int64)
    other = WindowOutput(logits.clone(), indices.clone())
    other.indices[0, 1, 1] = 7
    other.logits[0] = 5.0
    other.logits[1, 2, 3, 3] = -0.25
    agreement.add(WindowOutput(logits, indices), other)
    assert (agreement.windows, agreement.equal_windows) == (2, 1)
    assert (agreement.differing_tokens, agreement.tokens) == (1, 8)
    assert agreement.largest_difference == 0.25


@pytest.mark.parametrize("logit", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_no_finite_numbers_differ_without_bound(logit: float) -> None:
    agreement = Agreement()
    logits, indices = torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 2, dtype=torch.int64)
    other = logits.clone()
    other[0, 1, 2, 3] = logit
    agreement.add(WindowOutput(logits, indices), WindowOutput(other, indices))
    assert agreement.largest_difference == float("inf")
    agreement.add(WindowOutput(logits, indices), WindowOutput(logits, indices))
    assert agreement.largest_difference == float("inf")


@pytest.mark.parametrize("limit", ["0", "-1"])
def test_a_limit_without_volumes_is_refused(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        check_export.main([*words([Path("model.pt"), Path("model.ts")], Path("volumes")), "--limit", limit])
    assert f"error: --limit must be at least 1, got {limit}.\n" in capsys.readouterr().err


@pytest.mark.parametrize("found", [Agreement(), Agreement(1, 4, 80_000, 4, 0)], ids=["no window", "no equal window"])
def test_where_no_logits_could_be_compared_the_check_fails(
    found: Agreement, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check_export, "_compare", lambda *_: {"model.ts": found})
    with pytest.raises(SystemExit, match="1"):
        check_export.main(words([Path("model.pt"), Path("model.ts")], Path("volumes")))
    assert capsys.readouterr().err == (
        "vqseg check-export: model.ts: expected a window with equal codes, whose logits can be compared, found none: "
        "name other volumes in --dataset-dir, or export model.pt again.\n"
    )


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda path: None, r"model\.ts is not a file: name a \.ts or \.onnx file"),
        (lambda path: path.write_bytes(b"text"), r"model\.ts: no TorchScript file; make it with monai\.bundle ckpt_ex"),
        (
            lambda path: torch.jit.script(torch.nn.Identity()).save(str(path)),
            r"model\.ts: a TorchScript file, but not of a network of this bundle",
        ),
    ],
)
def test_files_that_cannot_be_compared_are_refused(
    exported_2d: list[Path], tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / "model.ts")
    with pytest.raises(DeploymentError, match=message):
        open_exported(tmp_path / "model.ts", load_network(exported_2d[0]))


def test_other_kinds_of_files_and_other_networks_are_refused(exported_2d: list[Path], tmp_path: Path) -> None:
    network = load_network(exported_2d[0])
    with pytest.raises(DeploymentError, match=r"model\.pt: expected a \.ts or \.onnx file, found \.pt"):
        open_exported(exported_2d[0], network)
    (tmp_path / "model.onnx").write_bytes(b"text")
    with pytest.raises(DeploymentError, match=r"model\.onnx: no ONNX file; make it with monai\.bundle onnx_export"):
        open_exported(tmp_path / "model.onnx", network)


def test_an_onnx_file_of_another_window_is_refused(
    exported_2d: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("model.pt", "model.json", "model.onnx"):
        shutil.copy(exported_2d[0].with_name(name), tmp_path)
    record = json.loads((tmp_path / "model.json").read_text())
    record["preprocessing"]["patch_size"] = [32, 48]
    (tmp_path / "model.json").write_text(json.dumps(record))
    nib.save(make_volumes(0)[0], tmp_path / "a.nii.gz")
    with pytest.raises(SystemExit, match="2"):
        check_export.main(words([tmp_path / "model.pt", tmp_path / "model.onnx"], tmp_path))
    message = "takes windows of [1, 1, 32, 32], inference cuts [1, 1, 32, 48]: export it with --input_shape"
    assert message in capsys.readouterr().err


def test_an_onnx_file_of_any_batch_is_compared(
    exported_2d: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(exported_2d[2]))
    for entry in (model.graph.input[0], model.graph.output[0]):
        entry.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, str(tmp_path / "any.onnx"))
    (tmp_path / "volumes").mkdir()
    nib.save(make_volumes(0)[0], tmp_path / "volumes" / "a.nii.gz")
    assert open_exported(tmp_path / "any.onnx", load_network(exported_2d[0])).window == [None, 1, 32, 32]
    check_export.main(words([exported_2d[0], tmp_path / "any.onnx"], tmp_path / "volumes"))
    assert "any.onnx: 1 volumes, " in capsys.readouterr().out


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("fault", ["damaged", "channels"])
def test_volumes_that_cannot_be_used_are_named_and_left_out(
    exported_2d: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str, alone: bool
) -> None:
    image = make_volumes(0)[0]
    if fault == "channels":
        nib.save(nib.Nifti1Image(np.stack([image.get_fdata()] * 2, axis=-1), image.affine), tmp_path / "bad.nii.gz")
    else:
        nib.save(image, tmp_path / "bad.nii.gz")
        (tmp_path / "bad.nii.gz").write_bytes((tmp_path / "bad.nii.gz").read_bytes()[:3000])
    faults = {
        "damaged": "truncated or unreadable (Compressed file ended before the end-of-stream marker was reached); copy",
        "channels": "expected 1 channel (in_channels), found 2 channels (shape (32, 32, 4, 2)); convert the file, or",
    }
    named = f"{tmp_path}/bad.nii.gz: {faults[fault]}"
    if alone:
        with pytest.raises(SystemExit, match="2"):
            check_export.main(words(exported_2d, tmp_path))
        begins = "vqseg check-export: error: --dataset-dir: The data have 1 problem:\n- "
        assert f"{begins}{named}" in capsys.readouterr().err
        return
    for name in ("a", "c"):
        nib.save(image, tmp_path / f"{name}.nii.gz")
    check_export.main(words(exported_2d, tmp_path))
    printed = capsys.readouterr()
    assert f"left out: {named}" in printed.err
    assert printed.out.count(": 2 volumes, ") == 2


def test_the_tensorrt_overlay_runs_an_exported_file(exported_2d: list[Path], trained: Trained, tmp_path: Path) -> None:
    """TorchScript in place of an engine: both are loaded alike, and torch_tensorrt is needed by the latter alone."""
    overlay = json.loads((CONFIGS / "inference_trt.json").read_text())
    assert overlay.pop("+imports") == ["$import torch_tensorrt"]
    (tmp_path / "overlay.json").write_text(json.dumps(overlay))
    volumes = {"dataset_dir": str(trained.cohort.root / "images" / "case_5.nii.gz"), "device": "cpu"}
    volumes["checkpoint"] = str(exported_2d[0])
    run_here("run", "inference.json", **volumes, output_dir=str(tmp_path / "plain"))
    configs = ("inference.json", tmp_path / "overlay.json")
    parser = run_here("run", *configs, **volumes, exported=str(exported_2d[1]), output_dir=str(tmp_path / "scripted"))
    assert isinstance(parser.get_parsed_content("network"), torch.jit.ScriptModule)
    expected, found = (
        np.asanyarray(nib.load(tmp_path / name / "predictions" / "case_5_pred.nii.gz").dataobj)
        for name in ("plain", "scripted")
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.data
@pytest.mark.parametrize("count", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_volumes_of_two_cohorts_agree(
    exported: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    hippocampus = Path(os.environ.get("VQSEG_DATA_ROOT") or ROOT.parent / "shared" / "data") / "hippocampus"
    if not hippocampus.is_dir():
        pytest.skip("needs the folder hippocampus at VQSEG_DATA_ROOT")
    demo = write_demo_cohort(tmp_path / "demo") / "images"
    folder = tmp_path / "volumes"
    folder.mkdir()
    for image in [*sorted(demo.iterdir())[:count], *sorted((hippocampus / "images").iterdir())[:count]]:
        shutil.copy(image, folder)
    check_export.main(words(exported, folder))
    assert capsys.readouterr().out.count(f"{2 * count} volumes, ") == 2
