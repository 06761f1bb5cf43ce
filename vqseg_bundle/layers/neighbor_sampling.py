"""Exact draws from the transition law, one per token, without a K x K matrix.

If the law is smooth, most tokens are served by rejection sampling: a uniformly proposed code is accepted with
probability ``exp(-d_ij / T)``. The remaining tokens (all, if the law is peaked) are drawn by inverting the running sum
of their code's exact row. The choice between the two does not depend on the value drawn, so the law remains exact.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vqseg_bundle.common import exact_dtype
from vqseg_bundle.layers.code_products import MAX_BUFFER_ELEMENTS
from vqseg_bundle.layers.transition import CodeDistances, neighbor_logits

__all__ = ["draw_neighbors"]

# elements of exact rows in memory at once
_ROW_ELEMENTS = MAX_BUFFER_ELEMENTS // 4
# tokens whose blocks of codes are searched, or whose proposals are checked, at once
_CHUNK_TOKENS = 4096
# A proposal costs D per token, a row K D per distinct code. More rounds serve few more tokens; if the first one serves
# less than the least share, the others would serve almost none.
_ROUNDS = 16
_LEAST_ACCEPTED = 0.05


def draw_neighbors(
    tokens: Tensor, distances: CodeDistances, temperature: float | Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """One draw per token: code ``j != i`` with probability ``exp(-d_ij / T) / Z_i``.

    Args:
        tokens: codes to move away from, ``(N,)``, int64.
        distances: of a codebook with at least 2 codewords.
        temperature: T > 0, in units of the distance.
        generator: source of randomness; None uses torch's global one.

    Returns:
        ``(N,)``, int64.

    Raises:
        ValueError: fewer than 2 codewords.
    """
    if len(distances) < 2:
        raise ValueError(f"codebook must hold at least 2 codewords to move between, got {len(distances)}.")
    drawn = torch.full_like(tokens, -1)
    for turn in range(_ROUNDS):
        _accept_proposals(drawn, tokens, distances, temperature, generator)
        if turn == 0 and int((drawn >= 0).sum()) < _LEAST_ACCEPTED * len(tokens):
            break
    left = drawn < 0
    drawn[left] = _draw_from_rows(tokens[left], distances, temperature, generator)
    return drawn


def _accept_proposals(
    drawn: Tensor,
    tokens: Tensor,
    distances: CodeDistances,
    temperature: float | Tensor,
    generator: torch.Generator | None,
) -> None:
    """One proposal per token; writes accepted ones where ``drawn`` is still -1."""
    proposed = torch.randint(len(distances) - 1, tokens.shape, device=tokens.device, generator=generator)
    proposed += proposed >= tokens  # uniform over all codes but the token's own
    uniform = torch.rand(tokens.shape, device=tokens.device, generator=generator, dtype=exact_dtype(tokens.device))
    for chunk in _chunks(len(tokens)):
        distance = distances.pairs(tokens[chunk], proposed[chunk])
        accepted = (drawn[chunk] < 0) & (uniform[chunk] < torch.exp(-distance / temperature))
        drawn[chunk] = torch.where(accepted, proposed[chunk], drawn[chunk])


def _draw_from_rows(
    tokens: Tensor, distances: CodeDistances, temperature: float | Tensor, generator: torch.Generator | None
) -> Tensor:
    """One draw per token from the exact rows of the distinct codes."""
    uniform = torch.rand(tokens.shape, device=tokens.device, generator=generator, dtype=exact_dtype(tokens.device))
    codes, row_of_token = tokens.unique(return_inverse=True)
    order = row_of_token.argsort()
    size = len(distances)
    width = math.isqrt(size - 1) + 1  # of a block of codes
    rows = max(1, min(len(codes), _ROW_ELEMENTS // size))
    starts = torch.arange(0, len(codes) + rows, rows, device=tokens.device)
    # host synchronisation: where each chunk of rows begins among the sorted tokens
    bounds = torch.searchsorted(row_of_token[order], starts).tolist()
    drawn = torch.empty_like(tokens)
    for chunk, (start, stop) in enumerate(itertools.pairwise(bounds)):
        first = chunk * rows
        own = codes[first : first + rows]
        weights = neighbor_logits(own, distances, temperature).exp_()
        if size % width:
            weights = F.pad(weights, (0, width - size % width))  # weight 0, to fill the last block
        blocks = weights.unflatten(1, (-1, width))  # (rows, blocks, width)
        sums = blocks.sum(dim=2)
        for members in order[start:stop].split(_CHUNK_TOKENS):
            row = row_of_token[members] - first
            block, rest = _invert_running_sum(sums[row], uniform[members])
            column, _ = _invert_running_sum(blocks[row, block], rest)
            drawn[members] = block * width + column
    return drawn


def _chunks(length: int) -> list[slice]:
    return [slice(start, start + _CHUNK_TOKENS) for start in range(0, length, _CHUNK_TOKENS)]


def _invert_running_sum(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Draw a column in proportion to its weight: the first whose running sum exceeds ``u`` times the total.

    A column of weight 0 is never drawn, no matter how a parallel scan rounds the running sum
    (https://github.com/pytorch/pytorch/pull/16075).

    Args:
        weights: ``(N, M)``, non-negative, at least one positive per row.
        uniform: ``(N,)``, float64 (see :func:`~vqseg_bundle.common.exact_dtype`) in [0, 1).

    Returns:
        columns ``(N,)``, int64, and the position of ``u`` within its column, ``(N,)``, in [0, 1): uniform again.
    """
    positive = weights > 0
    running = weights.to(uniform.dtype).cumsum(dim=1).masked_fill_(~positive, 0.0)
    total = running.amax(dim=1)
    # rounding must not lift the target to the total itself, which no column would exceed
    target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    column = (running > target.unsqueeze(1)).to(torch.uint8).argmax(dim=1, keepdim=True)
    width = weights.gather(1, column).to(uniform.dtype)
    rest = (target.unsqueeze(1) - (running.gather(1, column) - width)) / width
    return column.squeeze(1), rest.clamp_(0.0, 1.0 - torch.finfo(rest.dtype).eps / 2).squeeze(1)
