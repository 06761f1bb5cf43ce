"""Seeds that follow from others and from counters, so that no random state has to be saved."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["derive_seed"]


def derive_seed(*numbers: int | Sequence[int]) -> int:
    """A seed that depends on all the numbers and their order, well spread even if they are small and alike.

    Zeros at the end count for nothing: NumPy's ``SeedSequence`` fills up with them.

    With the seed of a training and the number of a step, each step has randomness of its own, whatever was drawn before
    it: an interrupted training that goes on from that step draws what it would have drawn.

    Args:
        numbers: not negative; sequences are taken as their numbers.

    Returns:
        below 2^32, so that NumPy's ``RandomState`` takes it, too.

    Raises:
        ValueError: a number is negative.
    """
    flat = [int(number) for item in numbers for number in ([item] if isinstance(item, int) else item)]
    if min(flat) < 0:
        raise ValueError(f"a seed must not be negative, got {min(flat)}.")
    return int(np.random.SeedSequence(flat).generate_state(1)[0])
