"""Instance norm in an ONNX file keeps to float64 where maps are nearly constant; elsewhere nothing changes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vqseg_bundle.layers import keep_instance_norm_exact


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
