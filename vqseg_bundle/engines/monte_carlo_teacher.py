"""UA-MT's teacher, which estimates its uncertainty (Yu et al., MICCAI 2019, https://arxiv.org/abs/1907.07034)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vqseg_bundle.engines.ema_teacher import EMATeacher
from vqseg_bundle.engines.pseudo_labels import PseudoLabels, modes_kept

__all__ = ["MonteCarloTeacher"]

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


class MonteCarloTeacher:
    r"""Pseudo-labels of an EMA teacher with dropout and input noise, and their uncertainty.

    With :math:`p_t` the softmax of one of T stochastic passes, the uncertainty is the entropy of their mean,

    .. math:: \mu_c = \frac{1}{T} \sum_t p_{t, c}, \qquad u = -\sum_c \mu_c \ln \mu_c

    and the target is one further stochastic pass, as in the paper. Each pass sees the images plus clamped Gaussian
    noise, with the network's dropout layers on and everything else in eval mode. Dropout draws from torch's global
    random state.

    Args:
        teacher: the average of the student.
        samples: T, at least 1.
        noise_std: standard deviation of the noise, in units of the network's input.
        noise_bound: the noise is clamped to plus and minus this.

    Raises:
        ValueError: an argument is out of range, or the network has no dropout layer.
    """

    def __init__(self, teacher: EMATeacher, samples: int = 8, noise_std: float = 0.1, noise_bound: float = 0.2) -> None:
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}.")
        if not (noise_std >= 0 and noise_bound >= 0):
            raise ValueError(f"noise_std and noise_bound must not be negative, got {noise_std} and {noise_bound}.")
        if not _active_dropout(teacher):
            raise ValueError(
                "the teacher must have dropout layers for its uncertainty, it has none; give network_def#dropout a "
                "rate above 0."
            )
        self.teacher = teacher
        self.samples = samples
        self.noise_std = noise_std
        self.noise_bound = noise_bound

    def pseudo_label(self, images: Tensor, generator: torch.Generator | None = None) -> PseudoLabels:
        """Pseudo-labels of weakly augmented images, with their entropy.

        Args:
            images: ``(B, C, *S)``.
            generator: source of the noise, on the images' device; None uses torch's global one.
        """
        with modes_kept(self.teacher), torch.inference_mode():
            for layer in _active_dropout(self.teacher):
                layer.train()
            target = self._pass(images, generator)
            mean = torch.zeros_like(target)
            for _ in range(self.samples):
                mean += self._pass(images, generator) / self.samples
            entropy = torch.special.entr(mean).sum(dim=1)
        # tensors made in inference mode cannot be saved for a backward pass; their copies can
        return PseudoLabels(target.clone(), entropy.clone())

    def _pass(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        noise = torch.randn(images.shape, device=images.device, dtype=images.dtype, generator=generator)
        noise = (self.noise_std * noise).clamp(-self.noise_bound, self.noise_bound)
        return self.teacher.module(images + noise).float().softmax(dim=1)


def _active_dropout(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, _DROPOUT) and module.p > 0]
