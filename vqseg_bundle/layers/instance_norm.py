"""Instance norm that is quick on a CPU and stays exact in an ONNX file."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

__all__ = ["InstanceNorm", "replace_instance_norms"]


class InstanceNorm(nn.Module):
    """Instance norm without running statistics, the numbers and the names of the weights of PyTorch's own.

    PyTorch's copies a channels-last map, in which convolutions on a CPU are fastest, to the other layout and leaves it
    there. Batch norm has no need to, and is the same thing for a single image; but it sums a channel in one float32
    pass, off a float64 run by 6e-5 in a map of 128 x 128. Deployment in float32 therefore takes PyTorch's means,
    which are as quick without gradients (2e-6).

    In an ONNX file it is written out, with means taken axis by axis. onnxruntime sums a whole map in one float32 pass,
    both in InstanceNormalization and in ReduceMean. If a map is nearly constant, its small standard deviation carries
    the rounding of that sum into the logits: 2.3e-4 off a float64 run, compared with 1.2e-5 in PyTorch. Sums along one
    axis are short enough: 1.6e-5.

    Args:
        norm: what it replaces; its weights are shared.

    Shape:
        - input and output: ``(B, C, *S)``, in the same layout.
    """

    def __init__(self, norm: nn.InstanceNorm2d | nn.InstanceNorm3d) -> None:
        super().__init__()
        self.eps = norm.eps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise each map of each image to mean 0 and deviation 1."""
        if not torch.jit.is_scripting():  # noqa: SIM102 TorchScript compiles what stands behind an "and"
            if torch.onnx.is_in_onnx_export():
                return self._by_means(maps)
        if maps.device.type == "cpu" and not maps.is_contiguous():
            if maps.dtype == torch.float32 and not torch.is_grad_enabled() and maps[0, 0].numel() > 1:
                return self._by_means(maps)
            images = [self._batch_norm(image) for image in maps.split(1)]
            return torch.cat(images)
        return F.instance_norm(maps, None, None, self.weight, self.bias, True, 0.0, self.eps)

    def _batch_norm(self, image: Tensor) -> Tensor:
        return F.batch_norm(image, None, None, self.weight, self.bias, True, 0.0, self.eps)

    def _by_means(self, maps: Tensor) -> Tensor:
        centered = maps - _spatial_mean(maps)
        normalized = centered * (_spatial_mean(centered.square()) + self.eps).rsqrt()
        if self.weight is None:
            return normalized
        shape = [1, -1] + [1] * (maps.dim() - 2)
        return normalized * self.weight.reshape(shape) + self.bias.reshape(shape)


def replace_instance_norms(network: nn.Module) -> None:
    """Put :class:`InstanceNorm` in the place of every instance norm without running statistics.

    Args:
        network: changed in place.
    """
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.InstanceNorm2d | nn.InstanceNorm3d) and not child.track_running_stats:
                setattr(parent, name, InstanceNorm(child))


def _spatial_mean(maps: Tensor) -> Tensor:
    if not torch.jit.is_scripting():  # noqa: SIM102 as above
        if torch.onnx.is_in_onnx_export():
            for axis in range(maps.dim() - 1, 1, -1):
                maps = maps.mean(axis, keepdim=True)
            return maps
    return maps.mean(list(range(2, maps.dim())), keepdim=True)
