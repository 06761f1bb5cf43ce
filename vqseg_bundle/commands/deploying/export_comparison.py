"""Exported networks compared with their source on whole volumes, window by window as inference cuts them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from monai.inferers import Inferer
from torch import Tensor

from .exported import Exported, Source, WindowOutput

__all__ = ["Agreement", "compare_exports"]


@dataclass
class Agreement:
    """Agreement of an exported network with its source.

    Attributes:
        volumes: number of volumes compared.
        windows: number of windows compared.
        tokens: number of tokens compared.
        differing_tokens: number of tokens with another code.
        equal_windows: number of windows in which all codes agree.
        largest_difference: largest difference of the logits in those windows; infinite if one is not a finite number.
    """

    volumes: int = 0
    windows: int = 0
    tokens: int = 0
    differing_tokens: int = 0
    equal_windows: int = 0
    largest_difference: float = 0.0

    def add(self, source: WindowOutput, exported: WindowOutput) -> None:
        """Count a batch of windows."""
        for index in range(len(source.logits)):
            self.windows += 1
            differing = 0
            if source.indices is not None and exported.indices is not None:
                differing = int((source.indices[index] != exported.indices[index]).sum())
                self.tokens += source.indices[index].numel()
            self.differing_tokens += differing
            if differing == 0:
                self.equal_windows += 1
                difference = (source.logits[index] - exported.logits[index]).abs().max().item()
                # max() would drop NaN, which is neither larger nor smaller
                self.largest_difference = max(
                    self.largest_difference, difference if math.isfinite(difference) else math.inf
                )


def compare_exports(
    images: Iterable[Mapping[str, Any]], inferer: Inferer, source: Source, exports: Mapping[str, Exported]
) -> dict[str, Agreement]:
    """Run source and exports on the same windows of volumes.

    Args:
        images: preprocessed cases with "image", ``(C, *S)``.
        inferer: divides a volume as inference does, into batches of windows that the exports accept.
        source: the network in PyTorch.
        exports: exported networks by name.

    Returns:
        agreements by the exports' names.
    """
    agreements = {name: Agreement() for name in exports}

    def run(windows: Tensor) -> Tensor:
        expected = source.run(windows)
        for name, exported in exports.items():
            agreements[name].add(expected, exported.run(windows))
        return expected.logits

    for image in images:
        inferer(image["image"].as_tensor()[None], run)
        for agreement in agreements.values():
            agreement.volumes += 1
    return agreements
