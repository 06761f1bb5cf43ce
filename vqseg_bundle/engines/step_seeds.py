"""Randomness of a training step that follows from the training's seed and the step's number."""

from __future__ import annotations

import torch
from monai.transforms import Randomizable

from vqseg_bundle.common import derive_seed

__all__ = ["StepSeeds"]


class StepSeeds:
    """Seed everything random in a step: a generator, torch's global state and a mixer.

    A step thus draws the same whatever happened before it, and a training that is resumed needs no random state.

    Args:
        generator: its initial seed is the training's, one for each process; None seeds nothing.
        mixer: MONAI's CutMix or alike, which has a state of its own; or None.
    """

    def __init__(self, generator: torch.Generator | None, mixer: Randomizable | None) -> None:
        self.generator = generator
        self.mixer = mixer
        self.seed = generator.initial_seed() if generator is not None else 0

    def begin(self, iteration: int) -> None:
        """Seed a step.

        Args:
            iteration: its number.
        """
        if self.generator is None:
            return
        seed = derive_seed(self.seed, iteration)
        self.generator.manual_seed(seed)
        # the only source of torch's dropout layers
        torch.manual_seed(derive_seed(seed, 1))
        if self.mixer is not None:
            self.mixer.set_random_state(seed=derive_seed(seed, 2))
