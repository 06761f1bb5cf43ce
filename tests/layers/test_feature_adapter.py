"""Instance norm in an ONNX file keeps to float64 where maps are nearly constant; elsewhere nothing changes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vqseg_bundle.layers import keep_instance_norm_exact
from vqseg_bundle.layers.feature_adapter import PostVQFeatureAdapter


def _with_weights(adapter: PostVQFeatureAdapter, weight: list[list[float]], bias: list[float]) -> PostVQFeatureAdapter:
    with torch.no_grad():
        adapter.projection.weight.copy_(torch.tensor(weight).view_as(adapter.projection.weight))
        adapter.projection.bias.copy_(torch.tensor(bias))
    return adapter


@pytest.mark.parametrize(
    ("spatial_dims", "size", "grid"), [(2, (8, 6), (9, 9)), (2, (8, 8), (3, 5)), (3, (4, 4, 2), (9, 9, 3))]
)
def test_output_has_the_grid_and_channels_of_the_foundation_model(spatial_dims, size, grid):
    adapter = PostVQFeatureAdapter(spatial_dims, in_channels=5, out_channels=7)
    assert adapter(torch.randn(2, 5, *size), grid).shape == (2, 7, *grid)


def test_resizes_linearly_without_aligning_corners():
    adapter = _with_weights(PostVQFeatureAdapter(2, 1, 1), [[1.0]], [0.0])
    adapted = adapter(torch.tensor([[[[0.0, 1.0]]]]), grid=(1, 4))
    torch.testing.assert_close(adapted, torch.tensor([[[[0.0, 0.25, 0.75, 1.0]]]]))


def test_resizes_the_depth_of_volumes_too():
    adapter = _with_weights(PostVQFeatureAdapter(3, 1, 1), [[1.0]], [0.0])
    adapted = adapter(torch.tensor([0.0, 4.0]).view(1, 1, 1, 1, 2), grid=(1, 1, 4))
    torch.testing.assert_close(adapted, torch.tensor([0.0, 1.0, 3.0, 4.0]).view(1, 1, 1, 1, 4))


def test_projects_each_token_on_its_own():
    adapter = _with_weights(PostVQFeatureAdapter(2, 2, 2), [[1.0, 2.0], [0.0, -1.0]], [0.5, 0.0])
    quantized = torch.tensor([[1.0, 3.0], [10.0, 20.0]]).view(1, 2, 1, 2)
    torch.testing.assert_close(
        adapter(quantized, (1, 2)), torch.tensor([[21.5, 43.5], [-10.0, -20.0]]).view(1, 2, 1, 2)
    )


def test_gradient_reaches_the_quantized_map_and_the_projection():
    adapter = PostVQFeatureAdapter(2, 4, 6)
    quantized = torch.randn(1, 4, 8, 8, requires_grad=True)
    adapter(quantized, (9, 9)).square().sum().backward()
    assert (quantized.grad.abs().sum(dim=1) > 0).all()
    assert (adapter.projection.weight.grad.abs() > 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 4, 4), "spatial_dims must be 2 or 3, got 1"),
        ((2, 0, 4), "in_channels must be at least 1, got 0"),
        ((2, 4, -1), "out_channels must be at least 1, got -1"),
    ],
)
def test_constructor_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        PostVQFeatureAdapter(*arguments)


@pytest.mark.parametrize(
    ("shape", "grid", "message"),
    [
        ((1, 3, 8, 8), (9, 9), r"quantized must have 4 channels and 2 spatial dimensions, got shape \(1, 3, 8, 8\)"),
        ((1, 4, 8, 8, 8), (9, 9), r"quantized must have 4 channels and 2 spatial dimensions"),
        ((1, 4, 8, 8), (9, 9, 9), r"grid must hold 2 positive sizes, got \(9, 9, 9\)"),
        ((1, 4, 8, 8), (9, 0), r"grid must hold 2 positive sizes, got \(9, 0\)"),
    ],
)
def test_forward_refuses(shape, grid, message):
    with pytest.raises(ValueError, match=message):
        PostVQFeatureAdapter(2, 4, 6)(torch.zeros(shape), grid)


def nearly_constant(shape: list[int]) -> Tensor:
    """Maps around 1 whose standard deviation is 0.1."""
    return 1 + 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


def onnx_error(norm: nn.Module, maps: Tensor, file: Path) -> float:
    """Largest deviation of onnxruntime's result from a float64 run in PyTorch."""
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime (dev extra)")
    pytest.importorskip("onnxscript", reason="needs onnxscript (dev extra)")
    torch.onnx.export(norm, (maps,), str(file), dynamo=True, verbose=False)
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: maps.numpy()})
    expected = copy.deepcopy(norm).double()(maps.double())
    return (torch.from_numpy(found) - expected).abs().max().item()


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize(
    ("norm", "shape"), [(nn.InstanceNorm2d, [1, 4, 96, 96]), (nn.InstanceNorm3d, [1, 4, 16, 24, 24])]
)
def test_onnx_keeps_to_float64(norm: type[nn.Module], shape: list[int], affine: bool, tmp_path: Path) -> None:
    """The norm divides by 0.1, and the errors of float32 sums with it."""
    module, maps = norm(4, affine=affine).eval(), nearly_constant(shape)
    if affine:
        nn.init.constant_(module.weight, 2.0)
        nn.init.constant_(module.bias, -1.0)
    plain = onnx_error(module, maps, tmp_path / "plain.onnx")
    keep_instance_norm_exact(module)
    assert onnx_error(module, maps, tmp_path / "exact.onnx") < 2e-6 < plain


def test_pytorch_and_torchscript_are_left_as_they_are() -> None:
    """The same numbers, the same names of the weights."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4, affine=True))
    image = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected, names = network(image), list(network.state_dict())
    keep_instance_norm_exact(network)
    assert torch.equal(network(image), expected)
    assert torch.equal(torch.jit.script(network)(image), expected)
    assert list(network.state_dict()) == names
