"""Exported networks, TorchScript and ONNX, and their source network, run on windows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from monai.utils import optional_import
from torch import Tensor

from vqseg_bundle.networks import VQNetwork

from .run_folder import DeploymentError

__all__ = ["Exported", "OnnxFile", "ScriptedFile", "Source", "WindowOutput", "open_exported"]

_IMAGE_DECODER = "reconstruction_decoder"


class WindowOutput(NamedTuple):
    """A network's output for a batch of windows.

    Attributes:
        logits: ``(B, out_channels, *S)``.
        indices: codes of all quantisers' tokens, ``(B, N)``, in the order of the pass; None without a quantiser.
    """

    logits: Tensor
    indices: Tensor | None


class Exported(Protocol):
    """An exported file that can be run.

    Attributes:
        window: the shape ``(B, C, *S)`` that it accepts; None for any, also as the size of an axis.
    """

    window: list[int | None] | None

    def run(self, windows: Tensor) -> WindowOutput:
        """Logits and codes of windows ``(B, C, *S)``."""

    def has_image_decoder(self) -> bool:
        """Whether the file holds weights that only training needs."""


class Source:
    """The network in PyTorch.

    Args:
        network: with its weights loaded, in eval mode.
    """

    def __init__(self, network: VQNetwork) -> None:
        self._network = network

    def run(self, windows: Tensor) -> WindowOutput:
        """Logits and codes of windows ``(B, C, *S)``."""
        with torch.no_grad():
            return _run(self._network, windows)


class ScriptedFile:
    """A TorchScript file from ``monai.bundle ckpt_export``.

    Args:
        path: the file.

    Raises:
        DeploymentError: it is not a TorchScript file, or of another kind of network.
    """

    window: list[int | None] | None = None

    def __init__(self, path: Path) -> None:
        try:
            self._module = torch.jit.load(str(path), map_location="cpu").eval()
        except RuntimeError as error:
            raise DeploymentError(f"{path}: no TorchScript file; make it with monai.bundle ckpt_export.") from error
        if not hasattr(self._module, "encode"):
            raise DeploymentError(f"{path}: a TorchScript file, but not of a network of this bundle.")

    def run(self, windows: Tensor) -> WindowOutput:
        """Logits and codes of windows ``(B, C, *S)``."""
        with torch.no_grad():
            return _run(self._module, windows)

    def has_image_decoder(self) -> bool:
        """Whether the file holds weights that only training needs."""
        return any(_IMAGE_DECODER in name for name in self._module.state_dict())


class OnnxFile:
    """An ONNX file from ``monai.bundle onnx_export``, run by onnxruntime on the CPU.

    Codes are not among its outputs; they are read at the lookup of the codewords.

    Args:
        path: the file.
        quantizers: the network's number of quantisers.

    Raises:
        DeploymentError: onnxruntime is missing, or the file is not an ONNX file or of another network.
    """

    def __init__(self, path: Path, quantizers: int) -> None:
        onnx, has_onnx = optional_import("onnx")
        onnxruntime, has_runtime = optional_import("onnxruntime")
        if not (has_onnx and has_runtime):
            raise DeploymentError(f"{path} needs onnx and onnxruntime: pip install onnx onnxruntime")
        try:
            model = onnx.load(str(path))
        except Exception as error:  # protobuf's own error class has no public name
            raise DeploymentError(f"{path}: no ONNX file; make it with monai.bundle onnx_export.") from error
        self._names = [entry.name for entry in model.graph.initializer]
        self._outputs = [model.graph.output[0].name, *_expose_codes(onnx, model, path, quantizers)]
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0]
        # an axis of any size has a name, or None
        self.window: list[int | None] | None = [size if isinstance(size, int) else None for size in self._input.shape]

    def run(self, windows: Tensor) -> WindowOutput:
        """Logits and codes of windows ``(B, C, *S)``."""
        logits, *codes = map(torch.from_numpy, self._session.run(self._outputs, {self._input.name: windows.numpy()}))
        return WindowOutput(logits, _join(codes))

    def has_image_decoder(self) -> bool:
        """Whether the file holds weights that only training needs."""
        return any(_IMAGE_DECODER in name for name in self._names)


def open_exported(path: Path, network: VQNetwork) -> Exported:
    """Open an exported file by its suffix.

    Args:
        path: ``.ts`` or ``.onnx``.
        network: its source.

    Raises:
        DeploymentError: the file does not exist or cannot be used.
    """
    if not path.is_file():
        raise DeploymentError(f"--exported {path} is not a file: name a .ts or .onnx file.")
    if path.suffix == ".ts":
        return ScriptedFile(path)
    if path.suffix == ".onnx":
        return OnnxFile(path, len(network.quantizers()))
    raise DeploymentError(f"--exported {path}: expected a .ts or .onnx file, found {path.suffix or 'no suffix'}.")


def _run(network: Any, windows: Tensor) -> WindowOutput:
    """Run a network or its TorchScript file."""
    features, skips = network.encode(windows)
    codes = []
    bottleneck = getattr(network, "bottleneck_stage", None)
    if bottleneck is not None:
        codes.append(bottleneck.quantizer(bottleneck.projection(network.encode_maps(windows)[-1])).indices)
    if getattr(network, "quantizer", None) is not None:
        codes.append(network.quantizer(features).indices)
    stages = network.skip_stages.children() if hasattr(network, "skip_stages") else ()
    for stage, skip in zip(stages, skips, strict=False):  # no stages if no skip connection is quantised
        if hasattr(stage, "quantizer"):
            codes.append(stage.quantizer(stage.projection(skip)).indices)
    return WindowOutput(network(windows), _join(codes))


def _join(codes: Sequence[Tensor]) -> Tensor | None:
    return torch.cat([indices.flatten(1) for indices in codes], dim=1) if codes else None


def _expose_codes(onnx: Any, model: Any, path: Path, quantizers: int) -> list[str]:
    """Add the codes to the outputs: the second inputs of the graph's row lookups, one per quantiser."""
    found = [node.input[1] for node in model.graph.node if node.op_type == "Gather" and "embedding" in node.name]
    if len(found) != quantizers:
        raise DeploymentError(
            f"{path}: expected {quantizers} lookups of codewords, found {len(found)}: not of this network."
        )
    for name in found:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None))
    return found
