"""Instance norm: PyTorch's numbers in every layout, and exact in an ONNX file."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from vqseg_bundle.layers import InstanceNorm, replace_instance_norms
from vqseg_bundle.networks import VQSegNet

CASES = [(nn.InstanceNorm2d, [3, 4, 9, 7]), (nn.InstanceNorm3d, [2, 4, 5, 6, 7])]
LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def changed(norm: nn.Module, affine: bool) -> nn.Module:
    """The same norm with weights that are not those of the start."""
    if affine:
        nn.init.constant_(norm.weight, 2.0)
        nn.init.constant_(norm.bias, -1.0)
    return norm


def around_one(shape: list[int]) -> Tensor:
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
@pytest.mark.parametrize(("norm", "shape"), CASES)
def test_the_numbers_and_gradients_are_pytorchs_and_the_layout_is_kept(norm, shape, affine):
    plain = changed(norm(shape[1], affine=affine), affine)
    maps, weights = around_one(shape), around_one(shape[::-1]).reshape(shape) - 1
    expected_input = maps.clone().requires_grad_()
    expected = plain(expected_input)
    (expected * weights).sum().backward()
    layout = LAYOUTS[maps.dim()]
    given = maps.clone(memory_format=layout).requires_grad_()
    found = InstanceNorm(plain)(given)
    (found * weights).sum().backward()
    assert found.is_contiguous(memory_format=layout)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(given.grad, expected_input.grad, atol=1e-5, rtol=0)
    with torch.inference_mode():
        deployed = torch.jit.script(InstanceNorm(plain))(given)
    assert deployed.is_contiguous(memory_format=layout)
    torch.testing.assert_close(deployed, expected, atol=5e-6, rtol=0)


def test_deployed_maps_keep_to_float64_where_batch_norm_would_not() -> None:
    maps = around_one([1, 2, 128, 128]).clone(memory_format=torch.channels_last)
    norm = InstanceNorm(nn.InstanceNorm2d(2))
    expected = F.instance_norm(maps.double())
    with torch.no_grad():
        assert (norm(maps) - expected).abs().max() < 5e-6
    assert (norm(maps) - expected).abs().max() > 1e-5


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize(
    ("norm", "shape"), [(nn.InstanceNorm2d, [1, 4, 96, 96]), (nn.InstanceNorm3d, [1, 4, 16, 24, 24])]
)
def test_onnx_keeps_to_float64(norm: type[nn.Module], shape: list[int], affine: bool, tmp_path: Path) -> None:
    """The norm divides by 0.1, and the errors of float32 sums with it."""
    plain = changed(norm(4, affine=affine).eval(), affine)
    maps = around_one(shape)
    exact = onnx_error(InstanceNorm(plain), maps, tmp_path / "exact.onnx")
    assert exact < 2e-6 < onnx_error(plain, maps, tmp_path / "plain.onnx")


def test_the_other_layout_and_torchscript_are_left_as_they_are() -> None:
    """The same numbers, the same names of the weights."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4, affine=True))
    image = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected, names = network(image), list(network.state_dict())
    replace_instance_norms(network)
    assert torch.equal(network(image), expected)
    assert torch.equal(torch.jit.script(network)(image), expected)
    assert list(network.state_dict()) == names
    tracking = nn.Sequential(nn.InstanceNorm2d(4, track_running_stats=True))
    replace_instance_norms(tracking)
    assert isinstance(tracking[0], nn.InstanceNorm2d), "its running statistics count in evaluation"


@pytest.mark.parametrize(
    ("norm", "is_laid_out"), [("instance", True), ("batch", True), (("group", {"num_groups": 2}), False)]
)
@pytest.mark.parametrize("dims", [2, 3])
def test_all_maps_of_a_network_are_channels_last_on_a_cpu(norm, is_laid_out, dims):
    network = VQSegNet(dims, 1, 3, (4, 8, 8), (2, 2), 16, 4, norm=norm, code_level=1, quantized_bottleneck=True)
    layouts = []
    for name, module in network.named_modules():
        if name.endswith((".norm1", ".norm2")):
            module.register_forward_hook(
                lambda _, __, output: layouts.append(
                    output.is_contiguous(memory_format=LAYOUTS[output.dim()]) and not output.is_contiguous()
                )
            )
    logits = network(torch.randn(2, 1, *[12] * dims))
    assert set(layouts) == {is_laid_out}
    assert len(layouts) == 10
    assert logits.shape == (2, 3, *[12] * dims)


def test_a_map_of_one_value_is_refused_in_both_layouts():
    norm = InstanceNorm(nn.InstanceNorm2d(4))
    for maps in (torch.zeros(2, 4, 1, 1), torch.zeros(2, 4, 2, 1)[:, :, ::2]):
        for mode in (torch.no_grad(), torch.enable_grad()):
            with mode, pytest.raises(ValueError, match="Expected more than 1"):
                norm(maps)
    assert F.instance_norm(torch.zeros(1, 4, 2, 1)).shape == (1, 4, 2, 1)
