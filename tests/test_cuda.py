"""What a GPU computes, beside the CPU; skipped without one."""

from __future__ import annotations

import pytest
import torch
from support.bundle_runs import run_here

from vqseg_bundle.common import named_tensors
from vqseg_bundle.layers import QuantizedPerturbation, nearest_code
from vqseg_bundle.layers.perturbation import Codes
from vqseg_bundle.networks import VQSegNet

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture
def full_float32():
    """Convolutions in float32 instead of TF32, which has ten bits less."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
def test_nearest_codes_equal_those_of_float64_whatever_the_precision(dtype):
    generator = torch.Generator().manual_seed(0)
    codebook = 20.0 + torch.randn(4096, 32, generator=generator)
    features = codebook[torch.randint(4096, (2048,), generator=generator)]
    features = features + 0.5 * torch.randn(features.shape, generator=generator)
    expected = torch.cdist(features.double(), codebook.double()).argmin(dim=1)
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast("cuda", dtype=dtype, enabled=dtype is not None):
            found = nearest_code(features.cuda(), codebook.cuda()).cpu()
    finally:
        torch.set_float32_matmul_precision("highest")
    assert (found != expected).float().mean() < 0.002  # ties within float32's last place


@pytest.mark.parametrize("dims", [2, 3])
def test_network_equals_the_cpus(dims, full_float32):
    torch.manual_seed(0)
    network = VQSegNet(dims, 1, 3, [8, 16, 32], [2, 2], num_embeddings=64, embedding_dim=16, code_level=1).eval()
    image = torch.randn(2, 1, *[32] * dims)
    with torch.no_grad():
        expected = network(image)
        found = network.cuda()(image.cuda()).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_perturbation_moves_the_share_it_is_told_to():
    codebook = torch.randn(256, 8, generator=torch.Generator().manual_seed(0)).cuda()
    indices = torch.randint(256, (4, 64, 64), device="cuda")
    features = codebook[indices].movedim(-1, 1)
    module = QuantizedPerturbation(0.3, temperature="auto", neighbors=8)
    moved = module(features, Codes(indices, codebook), torch.Generator("cuda").manual_seed(0))
    share = (moved != features).any(dim=1).float().mean().item()
    assert share == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / indices.numel()) ** 0.5)


@pytest.mark.parametrize("amp", [False, True])
def test_training_and_its_extension_stay_finite(tmp_path, amp):
    keys = {"device": "cuda", "amp": amp, "iterations_per_epoch": 4, "num_workers": 0, "output_dir": str(tmp_path)}
    run_here("training", "train.json", **keys, max_iterations=4)
    run_here("training", "train.json", **keys, max_iterations=8, resume=True, resume_changed=True)
    saved = torch.load(tmp_path / "resume.pt", map_location="cpu", weights_only=True)
    tensors = dict(named_tensors(saved))
    assert any("student" in name for name in tensors)
    assert all(tensor.isfinite().all() for tensor in tensors.values())
