"""Weight files of foundation models: what is taken, and what is said of those that are not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from support.foundation_parts import saved
from torch import nn

from vqseg_bundle.networks.foundation import FOUNDATION_SPECS, build_foundation_model, weights

URL = FOUNDATION_SPECS["dinov2_vits14"].source


def _constant_state(architecture: str) -> dict[str, torch.Tensor]:
    """A half precision state of one repeated value, stored once: its file is small."""
    with torch.device("meta"):
        state = timm.create_model(architecture, num_classes=0).state_dict()
    return {key: torch.tensor(0.1, dtype=torch.float16).expand(value.shape) for key, value in state.items()}


@pytest.fixture(scope="module")
def dinov2_state() -> dict[str, torch.Tensor]:
    return _constant_state("vit_small_patch14_dinov2")


def _truncated(state: dict, path: Path) -> None:
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _without_last_block(state: dict, path: Path) -> None:
    torch.save({key: value for key, value in state.items() if not key.startswith("blocks.11.")}, path)


def _of_another_width(state: dict, path: Path) -> None:
    torch.save({**state, "norm.weight": torch.ones(768)}, path)


def _with_more_blocks(state: dict, path: Path) -> None:
    torch.save({**state, "blocks.12.norm1.weight": torch.ones(384)}, path)


def _of_a_larger_model(state: dict, path: Path) -> None:
    torch.save(_constant_state("vit_base_patch14_dinov2"), path)


def _of_a_smaller_input(state: dict, path: Path) -> None:
    torch.save({**state, "pos_embed": torch.zeros(1, 257, 384)}, path)


def _torchscript(state: dict, path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(path)


FOREIGN = "is not a checkpoint of dinov2_vits14"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_truncated, "is damaged or not a checkpoint"),
        (lambda state, path: path.write_bytes(b""), "is damaged or not a checkpoint"),
        (lambda state, path: path.write_text("<html>404</html>"), "is damaged or not a checkpoint"),
        (lambda state, path: torch.save([1, 2], path), "is damaged or not a checkpoint"),
        (lambda state, path: torch.save(nn.Linear(2, 2), path), "is damaged or not a checkpoint"),
        (_torchscript, "is a TorchScript archive, which is a program"),
        (lambda state, path: torch.save({"epoch": 3}, path), f"{FOREIGN}.*other than tensors"),
        (lambda state, path: torch.save({}, path), f"{FOREIGN}.*other than tensors"),
        (_without_last_block, rf"{FOREIGN}.*blocks\.11\.norm1\.weight"),
        (_of_another_width, rf"{FOREIGN}.*norm\.weight.*768"),
        (_with_more_blocks, rf"{FOREIGN}.*blocks\.12\.norm1\.weight"),
        (_of_a_larger_model, rf"{FOREIGN}.*No tensor has the shape \(384, 3, 14, 14\) of its patch embedding"),
        (_of_a_smaller_input, f"{FOREIGN}.*No tensor holds the 1369 positions of its 518 input"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_wrong_file_is_named_with_the_remedy(dinov2_state, tmp_path, write, message):
    path = tmp_path / "wrong.pth"
    write(dinov2_state, path)
    with pytest.raises(ValueError, match=rf"foundation_weights: '{re.escape(str(path))}' {message}") as caught:
        build_foundation_model("dinov2_vits14", str(path))
    assert f"Download {URL} and pass the file by the key foundation_weights" in str(caught.value)


def test_files_of_other_families_are_refused(dinov2_state, tmp_path):
    base = {
        key: torch.tensor(0.1).expand(value.shape) for key, value in _constant_state("vit_base_patch16_224").items()
    }
    for name, state, message in [
        ("rad_dino", _constant_state("vit_base_patch14_dinov2"), r"It lacks 'embeddings\.cls_token'"),
        ("biomedclip", base, r"It lacks 'visual\.trunk\.\*'"),
        ("mae_vitb16", {**base, "head.weight": torch.zeros(1000, 768)}, r"Unexpected key\(s\).*head\.weight"),
        ("clip_vitb16", base, r"Missing key\(s\).*norm_pre"),
        ("dinov3_vits16", dinov2_state, r"No tensor has the shape \(384, 3, 16, 16\)"),
        ("sam_vit_b", dinov2_state, r"Missing key\(s\).*pos_embed"),
    ]:
        with (
            saved(state, tmp_path / "wrong.pth") as path,
            pytest.raises(ValueError, match=f"is not a checkpoint of {name}.*{message}"),
        ):
            build_foundation_model(name, path)


def test_missing_file_is_named_with_the_remedy(tmp_path):
    path = tmp_path / "absent.pth"
    with pytest.raises(FileNotFoundError, match=f"no file '{path}'.*{URL}.*foundation_weights"):
        build_foundation_model("dinov2_vits14", str(path))


def test_a_half_precision_file_without_mask_token_is_taken(dinov2_state, tmp_path):
    torch.save(dinov2_state, tmp_path / "half.pth")
    model = build_foundation_model("dinov2_vits14", tmp_path / "half.pth", image_size=28)
    weight = model.backbone.blocks[0].attn.qkv.weight
    assert weight.dtype == torch.float32
    assert (weight == torch.tensor(0.1, dtype=torch.float16).float()).all()


def test_without_file_the_hub_is_asked(monkeypatch, dinov2_state):
    asked = []
    monkeypatch.setattr(
        weights, "load_state_dict_from_hf", lambda *where, **kw: asked.append((where, kw)) or dinov2_state
    )
    model = build_foundation_model("dinov2_vits14", image_size=28)
    assert asked == [(("timm/vit_small_patch14_dinov2.lvd142m", "model.safetensors"), {"weights_only": True})]
    assert (model.backbone.cls_token == torch.tensor(0.1, dtype=torch.float16).float()).all()


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("dinov2_vits14", "vqseg_bundle.networks.foundation.weights.load_state_dict_from_hf"),
        ("sam_vit_b", "torch.hub.load_state_dict_from_url"),
    ],
)
def test_failed_download_says_where_to_get_the_file(monkeypatch, name, function):
    def fail(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(function, fail)
    source = FOUNDATION_SPECS[name].source
    with pytest.raises(FileNotFoundError, match=f"could not be downloaded.*{source}.*by the key foundation_weights"):
        build_foundation_model(name)


def test_weights_that_are_not_for_download_are_asked_for():
    with pytest.raises(FileNotFoundError, match=r"medsam_vit_b can only be downloaded by hand\. Download medsam_vit_b"):
        build_foundation_model("medsam_vit_b")


@pytest.mark.parametrize("image_size", [0, -14, 13, 128])
def test_image_size_must_be_a_multiple_of_the_patch_size(image_size):
    with pytest.raises(
        ValueError,
        match=f"positive multiple of the patch size 14 of dinov2_vits14, or None .* 518, got {image_size}: set",
    ):
        build_foundation_model("dinov2_vits14", "unused.pth", image_size=image_size)


@pytest.mark.parametrize("name", ["sam_vit_b", "medsam_vit_b"])
def test_a_missing_package_is_named_with_the_remedy(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "segment_anything", None)
    with pytest.raises(ValueError, match=f"{name} needs the package segment-anything.*pip install segment-anything"):
        build_foundation_model(name, "unused.pth")


def test_no_other_package_of_foundation_models_is_needed():
    code = (
        "import sys; missing = ['segment_anything', 'transformers', 'open_clip']; "
        "sys.modules |= dict.fromkeys(missing); "
        "from vqseg_bundle.networks import foundation; "
        "foundation.build_foundation_model('rad_dino', 'unused.pth')"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert result.stderr.splitlines()[-1].startswith(
        "FileNotFoundError: foundation_weights: there is no file 'unused.pth'"
    )


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"foundation_model must be one of \['none', 'dinov2_vits14', .* got 'dino'"):
        build_foundation_model("dino")


def test_none_builds_nothing():
    assert build_foundation_model("none") is None


class _Hostile:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return Path.touch, (self.trace,)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"patch_embed.proj.weight": _Hostile(tmp_path / "trace")}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"model\.pth' is damaged or not a checkpoint"):
        build_foundation_model("dinov2_vits14", str(tmp_path / "model.pth"))
    assert not (tmp_path / "trace").exists()
