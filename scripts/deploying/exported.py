"""Exported networks, TorchScript and ONNX, run on windows beside the network they were exported from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from monai.utils import optional_import
from torch import Tensor

from scripts.deploying.run_folder import DeploymentError
from vqseg_bundle.networks import VQNetwork

__all__ = ["Exported", "OnnxFile", "ScriptedFile", "Source", "WindowOutput", "open_exported"]

_IMAGE_DECODER = "reconstruction_decoder"


class WindowOutput(NamedTuple):
    """What a network makes of a batch of windows.

    Attributes:
        logits: ``(B, out_channels, *S)``.
        indices: codes of the tokens, ``(B, *S_L)``; None without quantiser.
    """

    logits: Tensor
    indices: Tensor | None


class Exported(Protocol):
    """An exported file that can be run.

    Attributes:
        window: the shape ``(B, C, *S)`` that it takes, None where it takes any.
    """

    window: list[int] | None

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
            return _run(self._network, windows, self._network.quantizer is not None)


class ScriptedFile:
    """A TorchScript file, ``monai.bundle ckpt_export``'s.

    Args:
        path: the file.

    Raises:
        DeploymentError: it is none, or of another kind of network.
    """

    window: list[int] | None = None

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
            return _run(self._module, windows, getattr(self._module, "quantizer", None) is not None)

    def has_image_decoder(self) -> bool:
        """Whether the file holds weights that only training needs."""
        return any(_IMAGE_DECODER in name for name in self._module.state_dict())


class OnnxFile:
    """An ONNX file, ``monai.bundle onnx_export``'s, run by onnxruntime on the CPU.

    The codes are no output of it: they are read where the codewords are looked up.

    Args:
        path: the file.
        codewords: sizes ``(K, D)`` of the codebook, None without quantiser.

    Raises:
        DeploymentError: onnxruntime is missing, or the file is none or of another network.
    """

    def __init__(self, path: Path, codewords: Sequence[int] | None) -> None:
        onnx, has_onnx = optional_import("onnx")
        onnxruntime, has_runtime = optional_import("onnxruntime")
        if not (has_onnx and has_runtime):
            raise DeploymentError(f"{path} needs onnx and onnxruntime: pip install onnx onnxruntime")
        try:
            model = onnx.load(str(path))
        except Exception as error:  # protobuf's own kind of error, which has no public name
            raise DeploymentError(f"{path}: no ONNX file; make it with monai.bundle onnx_export.") from error
        self._names = [entry.name for entry in model.graph.initializer]
        outputs = [model.graph.output[0].name]
        if codewords is not None:
            outputs.append(_expose_codes(onnx, model, path))
        self._outputs = outputs
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0]
        self.window: list[int] | None = [int(size) for size in self._input.shape]

    def run(self, windows: Tensor) -> WindowOutput:
        """Logits and codes of windows ``(B, C, *S)``."""
        found = self._session.run(self._outputs, {self._input.name: windows.numpy()})
        indices = torch.from_numpy(found[1]) if len(found) > 1 else None
        return WindowOutput(torch.from_numpy(found[0]), indices)

    def has_image_decoder(self) -> bool:
        """Whether the file holds weights that only training needs."""
        return any(_IMAGE_DECODER in name for name in self._names)


def open_exported(path: Path, network: VQNetwork) -> Exported:
    """Open an exported file by its suffix.

    Args:
        path: ``.ts`` or ``.onnx``.
        network: what it was exported from.

    Raises:
        DeploymentError: there is no such file, or it cannot be used.
    """
    if not path.is_file():
        raise DeploymentError(f"--exported {path} is not a file: name a .ts or .onnx file.")
    if path.suffix == ".ts":
        return ScriptedFile(path)
    if path.suffix == ".onnx":
        quantizer = network.quantizer
        return OnnxFile(path, (quantizer.num_embeddings, quantizer.embedding_dim) if quantizer else None)
    raise DeploymentError(f"--exported {path}: expected a .ts or .onnx file, found {path.suffix or 'no suffix'}.")


def _run(network: Any, windows: Tensor, quantised: bool) -> WindowOutput:
    indices = network.quantizer(network.encode(windows)[0]).indices if quantised else None
    return WindowOutput(network(windows), indices)


def _expose_codes(onnx: Any, model: Any, path: Path) -> str:
    """Make the codes an output: the second input of the graph's only lookup of rows."""
    found = [node.input[1] for node in model.graph.node if node.op_type == "Gather" and "embedding" in node.name]
    if len(found) != 1:
        raise DeploymentError(f"{path}: expected one lookup of codewords, found {len(found)}: not of this bundle.")
    model.graph.output.append(onnx.helper.make_tensor_value_info(found[0], onnx.TensorProto.INT64, None))
    return found[0]
