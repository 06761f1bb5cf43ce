from __future__ import annotations

import pytest
import torch
from monai.inferers import SliceInferer, SlidingWindowInferer

from vqseg_bundle.engines import CodebookInferer, window_batch_size
from vqseg_bundle.networks import VQSegNet


def _network(spatial_dims: int, num_embeddings: int | None = 32) -> VQSegNet:
    torch.manual_seed(0)
    network = VQSegNet(
        spatial_dims, 1, 3, channels=(4, 8), strides=(2,), num_embeddings=num_embeddings, embedding_dim=8
    )
    return network.eval()


def _inferer(spatial_dims: int) -> SlidingWindowInferer:
    if spatial_dims == 3:
        return SlidingWindowInferer(roi_size=(16, 16, 8), sw_batch_size=2, overlap=0.25, mode="gaussian")
    return SliceInferer(roi_size=(16, 16), sw_batch_size=3, spatial_dim=2, overlap=0.25, mode="gaussian")


@pytest.mark.parametrize("num_embeddings", [32, None])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_gives_what_the_inner_inferer_gives(spatial_dims, num_embeddings):
    network, inferer = _network(spatial_dims, num_embeddings), _inferer(spatial_dims)
    volume = torch.randn(1, 1, 24, 20, 10)
    with torch.inference_mode():
        assert torch.equal(CodebookInferer(inferer)(volume, network), inferer(volume, network))


def test_projects_the_codebook_once_a_volume(monkeypatch):
    network, calls = _network(2), []
    project = network.quantizer.codebook.forward
    monkeypatch.setattr(network.quantizer.codebook, "forward", lambda: calls.append(1) or project())
    volume = torch.randn(1, 1, 24, 20, 10)
    with torch.inference_mode():
        CodebookInferer(_inferer(2))(volume, network)
        assert len(calls) == 1
        _inferer(2)(volume, network)
    assert len(calls) > 2


def test_a_scripted_network_takes_the_codebook_too():
    network, volume = _network(2), torch.randn(1, 1, 16, 16, 5)
    with torch.inference_mode():
        found = CodebookInferer(_inferer(2))(volume, torch.jit.script(network))
        torch.testing.assert_close(found, _inferer(2)(volume, network))


def test_any_other_network_is_run_as_before():
    volume = torch.randn(1, 1, 16, 16, 5)
    torch.testing.assert_close(CodebookInferer(_inferer(2))(volume, lambda image: 2.0 * image), 2.0 * volume)


def test_window_batch_by_hand():
    # 12 float32 maps of 16 channels of 100 x 100 voxels are 7.68 MB
    assert window_batch_size([100, 100], 16, "cpu", memory_gb=0.08) == 10
    assert window_batch_size([100, 100], 16, "cpu", memory_gb=1e-6) == 1
    assert window_batch_size([100, 100], 16, "cpu") == 17
    assert window_batch_size([96, 96, 16], 16, "cpu") == 1


@pytest.mark.parametrize("memory_gb", [0.0, -1.0, float("nan")])
def test_refuses_a_budget_that_is_not_positive(memory_gb):
    with pytest.raises(ValueError, match="inference_memory_gb must be positive or None, got"):
        window_batch_size([100, 100], 16, "cpu", memory_gb)
