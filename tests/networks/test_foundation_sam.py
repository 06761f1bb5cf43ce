"""Segment Anything's image encoder, and every foundation model in its whole size against its authors' package."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import nibabel as nib
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, Sam
from support.foundation_parts import image, normalized, randomize, relative_difference, saved
from support.official_foundations import OFFICIAL_MODELS, largest_difference
from torch import nn

from vqseg_bundle.data import write_demo_cohort
from vqseg_bundle.networks.foundation import FOUNDATION_SPECS, build_foundation_model

TOLERANCE = 1e-4


NAMES = [name for name in FOUNDATION_SPECS if "sam" in name]


@pytest.fixture(scope="module")
def sam() -> Sam:
    """What segment-anything's own builder makes."""
    model = sam_model_registry["vit_b"]()
    randomize(model.image_encoder)
    return model


@pytest.fixture(scope="module")
def sam_file(sam, tmp_path_factory) -> Iterator[str]:
    with saved(sam.state_dict(), tmp_path_factory.mktemp("weights") / "sam.pth") as path:
        yield path


@pytest.mark.parametrize("name", ["sam_vit_b", "medsam_vit_b"])
def test_other_sizes_give_the_features_of_an_encoder_made_for_them(sam, sam_file, name):
    """SAMed's recipe: absolute positions resized bilinearly, relative ones of global attention linearly."""
    size, grid = 128, 8
    state = dict(sam.image_encoder.state_dict())
    positions = F.interpolate(state["pos_embed"].permute(0, 3, 1, 2), (grid, grid), mode="bilinear")
    state["pos_embed"] = positions.permute(0, 2, 3, 1)
    for block in (2, 5, 8, 11):
        for axis in "hw":
            key = f"blocks.{block}.attn.rel_pos_{axis}"
            state[key] = F.interpolate(state[key][None, None], (2 * grid - 1, 64), mode="bilinear")[0, 0]
    official = ImageEncoderViT(
        img_size=size,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=14,
        global_attn_indexes=(2, 5, 8, 11),
    ).eval()
    official.load_state_dict(state)
    pixels = image(size)
    with torch.no_grad():
        expected = official(normalized(pixels, name))
    model = build_foundation_model(name, sam_file, size)
    assert (model.channels, model.grid) == (256, (8, 8))
    assert relative_difference(model(pixels), expected) < TOLERANCE


def test_sam_scales_pixels_as_its_own_preprocessing_and_medsam_leaves_them_in_the_unit_range(sam):
    pixels = image(16)
    torch.testing.assert_close(normalized(pixels, "sam_vit_b"), (255 * pixels - sam.pixel_mean) / sam.pixel_std)
    torch.testing.assert_close(normalized(pixels, "medsam_vit_b"), pixels)


def test_nothing_but_the_encoder_is_kept_and_all_of_it_is_on_the_cpu(sam, sam_file):
    backbone = build_foundation_model("sam_vit_b", sam_file).backbone
    expected = sam.image_encoder.state_dict()
    assert set(backbone.state_dict()) == set(expected)
    for key, value in backbone.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_known_of_a_model_agrees_with_segment_anything(name):
    spec = FOUNDATION_SPECS[name]
    with torch.device("meta"):
        encoder = sam_model_registry[spec.backbone]().image_encoder
    assert encoder.img_size == spec.image_size
    assert encoder.pos_embed.shape[1:3] == spec.grid(spec.image_size)
    assert encoder.patch_embed.proj.kernel_size == (spec.patch_size, spec.patch_size)
    assert encoder.neck[0].out_channels == spec.channels


def test_a_file_of_another_size_is_refused(tmp_path):
    with torch.device("meta"):
        state = sam_model_registry["vit_l"]().state_dict()
    small = {key: torch.zeros(()).expand(value.shape) for key, value in state.items()}
    with (
        saved(small, tmp_path / "large.pth") as path,
        pytest.raises(ValueError, match=r"large\.pth' is not a checkpoint of sam_vit_b.*sam_vit_b_01ec64\.pth"),
    ):
        build_foundation_model("sam_vit_b", path)


@pytest.mark.slow
def test_the_native_size_gives_the_features_of_segment_anything(sam, sam_file):
    pixels = image(1024)
    with torch.no_grad():
        expected = sam.image_encoder(sam.preprocess(255 * pixels))
    features = build_foundation_model("sam_vit_b", sam_file)(pixels)
    assert features.shape == (1, 256, 64, 64)
    assert relative_difference(features, expected) < TOLERANCE


@pytest.mark.slow
def test_a_demo_volume_runs_at_the_native_size_within_memory(sam_file, tmp_path):
    resource = pytest.importorskip("resource", reason="memory is measured on Unix alone")
    folder = write_demo_cohort(tmp_path)
    volume = torch.as_tensor(nib.load(next(Path(folder).rglob("images/*.nii.gz"))).get_fdata())
    features = build_foundation_model("sam_vit_b", sam_file)(volume[None, None], depth=3)
    assert features.shape == (1, 256, 64, 64, 3)
    assert features.isfinite().all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 24 * 2**20  # KiB


def test_every_model_is_compared():
    """The other two have a size each, which test_foundation_families.py compares."""
    assert set(FOUNDATION_SPECS) == {*OFFICIAL_MODELS, "rad_dino", "biomedclip"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", OFFICIAL_MODELS)
def test_features_at_the_native_size_are_the_official_ones(name, tmp_path):
    assert largest_difference(name, tmp_path) < 1e-4
