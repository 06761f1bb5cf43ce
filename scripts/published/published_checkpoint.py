"""Checkpoints of the published VQ-Seg code as weights of :class:`~vqseg_bundle.networks.DINOv2DPTNet`.

https://github.com/script-Yang/VQ-Seg; names and shapes are those of its train.py's files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vqseg_bundle.networks import VQNetwork, build_network

__all__ = ["ConversionError", "Encoder", "convert", "find_encoder", "read_published"]

#: entries under which a training may keep the weights
_ENTRIES = ("model", "state_dict")
#: prefixes of DistributedDataParallel and the published wrapper class
_PREFIXES = ("module.", "model.")
_UNUSED = re.compile(
    r"backbone\.mask_token$"  # of DINOv2's own training
    r"|vq\.(code_use_count|total_tokens)$"  # statistics
    r"|head\.scratch\.refinenet4\.resConfUnit1\."  # the deepest level has nothing to add; never run
)
_RENAMED = (
    (r"^backbone\.patch_embed\.proj\.", "encoder.patch_embed."),
    (r"^backbone\.(.*\.mlp)\.w12\.", r"encoder.\1.fc1."),
    (r"^backbone\.(.*\.mlp)\.w3\.", r"encoder.\1.fc2."),
    (r"^backbone\.", "encoder."),
    (r"^head\.projects\.(\d)\.", r"segmentation_decoder.reassemble.\1.projection."),
    (r"^head\.resize_layers\.(\d)\.", r"segmentation_decoder.reassemble.\1.resample."),
    (r"^head\.scratch\.output_conv\.", "segmentation_decoder.head."),
)
_REDUCTION = re.compile(r"^head\.scratch\.layer([1-4])_rn\.(.+)")
_FUSION = re.compile(r"^head\.scratch\.refinenet([1-4])\.(out_conv|resConfUnit1|resConfUnit2)\.(.+)")
_FUSION_PARTS = {"out_conv": "projection", "resConfUnit1": "skip", "resConfUnit2": "refine"}
_CODES, _MAP, _OFFSET = "vq.codebook.weight", "vq.embedding_proj.weight", "vq.embedding_proj.bias"
_POSITIONS, _CLASSES, _FUSED = (
    "backbone.pos_embed",
    "head.scratch.output_conv.2.weight",
    "head.scratch.layer1_rn.weight",
)
_WIDTHS = [f"head.projects.{level}.weight" for level in range(4)]


class ConversionError(ValueError):
    """A file that cannot be converted; the message names it and says what to do."""


class Encoder(NamedTuple):
    """A DINOv2 model of the published code.

    Attributes:
        size: its name there.
        name: its name here.
        levels: the blocks whose outputs go to the decoder.
    """

    size: str
    name: str
    levels: tuple[int, int, int, int]


_ENCODERS = {
    384: Encoder("small", "dinov2_vits14", (2, 5, 8, 11)),
    768: Encoder("base", "dinov2_vitb14", (2, 5, 8, 11)),
    1024: Encoder("large", "dinov2_vitl14", (4, 11, 17, 23)),
    1536: Encoder("giant", "dinov2_vitg14", (9, 19, 29, 39)),
}


def read_published(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint under the published network's names, without prefixes.

    Args:
        path: file of :func:`torch.save`, read with ``weights_only``, so that no code in it is run.

    Raises:
        ConversionError: the file is missing or damaged, or contains something else.
    """
    if not path.is_file():
        raise ConversionError(f"--checkpoint {path}: there is no such file.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged and foreign files fail in many ways
        raise ConversionError(
            f"--checkpoint {path}: damaged, incomplete or not a checkpoint ({type(error).__name__}). Copy it again."
        ) from error
    for entry in _ENTRIES:
        if isinstance(content, Mapping) and isinstance(content.get(entry), Mapping):
            content = content[entry]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ConversionError(f"--checkpoint {path}: expected tensors under names, found {_kind(content)}.")
    state = {_bare(str(name)): value for name, value in content.items()}
    missing = [name for name in (_POSITIONS, _CODES, _MAP, _OFFSET, _CLASSES, _FUSED, *_WIDTHS) if name not in state]
    if missing:
        found = ", ".join(list(state)[:3])
        raise ConversionError(
            f"--checkpoint {path}: not a checkpoint of the published VQ-Seg code, it lacks {', '.join(missing[:3])}; "
            f"found {len(state)} tensors: {found}, ..."
        )
    return state


def find_encoder(state: Mapping[str, Tensor]) -> Encoder:
    """The DINOv2 of a checkpoint.

    Raises:
        ConversionError: no DINOv2 has its width.
    """
    width = state[_POSITIONS].shape[-1]
    if width not in _ENCODERS:
        known = ", ".join(f"{width} ({encoder.size})" for width, encoder in _ENCODERS.items())
        raise ConversionError(
            f"{_POSITIONS} of the checkpoint is {width} wide, which none of the published encoders is: {known}."
        )
    return _ENCODERS[width]


def convert(state: Mapping[str, Tensor], in_channels: int = 1) -> VQNetwork:
    """The deployed network that is equivalent to the published one in evaluation.

    The published codewords are an affine map of frozen vectors, ``W b + a``, ours a linear one. The network gets the
    codewords unchanged, with the identity as the map.

    Args:
        state: see :func:`read_published`.
        in_channels: channels of the images; unless there are three, they are averaged to grey.

    Returns:
        the network, in eval mode, without an image decoder.

    Raises:
        ConversionError: a name or shape does not belong to a published network with this encoder.
    """
    encoder = find_encoder(state)
    codewords = F.linear(state[_CODES].float(), state[_MAP].float(), state[_OFFSET].float())
    converted = {
        "quantizer.codebook.basis": codewords,
        "quantizer.codebook.mapping.weight": torch.eye(codewords.shape[1]),
    }
    for name, value in state.items():
        if name not in (_CODES, _MAP, _OFFSET) and not _UNUSED.match(name):
            converted[_renamed(name)] = value.float()
    network = build_network(_description(state, encoder, in_channels))
    try:
        network.load_state_dict(converted)
    except RuntimeError as error:
        raise ConversionError(
            f"the checkpoint does not fit the published network with encoder {encoder.size}: {error}"
        ) from error
    return network.eval()


def _description(state: Mapping[str, Tensor], encoder: Encoder, in_channels: int) -> dict[str, Any]:
    return {
        "architecture": "DINOv2DPTNet",
        "spatial_dims": 2,
        "in_channels": in_channels,
        "out_channels": state[_CLASSES].shape[0],
        "encoder": encoder.name,
        "encoder_levels": encoder.levels,
        "reassemble_channels": [state[name].shape[0] for name in _WIDTHS],
        "fusion_channels": state[_FUSED].shape[0],
        "num_embeddings": state[_CODES].shape[0],
        "reconstruction": False,
        "quantizer": {"codebook_type": "mapped", "normalize": False},
    }


def _bare(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.partition(".")[2]
    return name


def _renamed(name: str) -> str:
    if reduction := _REDUCTION.match(name):
        return f"segmentation_decoder.reassemble.{int(reduction[1]) - 1}.reduction.{reduction[2]}"
    if fusion := _FUSION.match(name):
        return f"segmentation_decoder.fusion.{4 - int(fusion[1])}.{_FUSION_PARTS[fusion[2]]}.{fusion[3]}"
    for pattern, replacement in _RENAMED:
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name)
    return name


def _kind(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"entries {', '.join(map(str, list(content)[:5]))}"
    return type(content).__name__
