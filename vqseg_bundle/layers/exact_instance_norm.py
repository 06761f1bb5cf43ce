"""Instance norm that stays exact in an ONNX file."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["keep_instance_norm_exact"]


def keep_instance_norm_exact(network: nn.Module) -> None:
    """Spell out each instance norm, with means taken axis by axis, in the network's ONNX export.

    onnxruntime sums a whole map in one float32 pass, both in InstanceNormalization and in ReduceMean. If a map is
    nearly constant, its small standard deviation carries the rounding of that sum into the logits: 2.3e-4 off a float64
    run, compared with 1.2e-5 in PyTorch. Sums along one axis are short enough: 1.6e-5. Outside the export nothing
    changes.

    Args:
        network: gets a forward hook on every instance norm without running statistics.
    """
    for module in network.modules():
        if isinstance(module, (nn.InstanceNorm2d, nn.InstanceNorm3d)) and not module.track_running_stats:
            module.register_forward_hook(_write_out_in_onnx_export)


def _write_out_in_onnx_export(self: nn.InstanceNorm2d, input: tuple[Tensor], output: Tensor) -> Tensor:
    if not torch.jit.is_scripting():  # noqa: SIM102 TorchScript compiles what stands behind an "and"
        if torch.onnx.is_in_onnx_export():
            return _instance_norm(self, input[0])
    return output


def _instance_norm(norm: nn.InstanceNorm2d, maps: Tensor) -> Tensor:
    centered = maps - _spatial_mean(maps)
    normalized = centered / (_spatial_mean(centered.square()) + norm.eps).sqrt()
    if not norm.affine:
        return normalized
    shape = [1, -1] + [1] * (maps.dim() - 2)
    return normalized * norm.weight.reshape(shape) + norm.bias.reshape(shape)


def _spatial_mean(maps: Tensor) -> Tensor:
    for axis in range(maps.dim() - 1, 1, -1):
        maps = maps.mean(axis, keepdim=True)
    return maps
