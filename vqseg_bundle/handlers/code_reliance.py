"""How much predictions depend on the codes: during a training, and with another case's codes in an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ignite.distributed as idist
import torch
import torch.nn.functional as F  # noqa: N812
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer
from monai.utils import CommonKeys
from torch import Tensor, nn

from vqseg_bundle.common import process_count

__all__ = ["CodeRelianceMonitor", "DecoderProbe"]


class CodeRelianceMonitor:
    """Measure, at the end of each epoch, on the images of its last iteration.

    ``engine.state.metrics`` gets "code_reliance" and "skip_reliance", means over all processes; nothing if that
    iteration has a single image. Place it before the handlers that log the metrics.

    Args:
        measure: takes ``images=`` and returns scalars ``codes`` and ``skips`` (``vqseg_bundle.networks.code_reliance``
            with its network).
    """

    def __init__(self, measure: Callable[..., Any]) -> None:
        self.measure = measure

    def attach(self, engine: Engine) -> None:
        """Attach to a semi-supervised trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._measure)

    def _measure(self, engine: Engine) -> None:
        output: Any = engine.state.output
        # equally many on each process
        if len(output["images"]) < 2:
            return
        found = self.measure(images=output["images"])
        for name, value in (("code_reliance", found.codes), ("skip_reliance", found.skips)):
            total = idist.all_reduce(value.to(idist.device())) if process_count() > 1 else value
            engine.state.metrics[name] = float(total) / process_count()


class DecoderProbe:
    """Ignite handler that adds two predictions to an evaluator's output, before its postprocessing.

    These are "pred_other_codes", with the codes of another case, and "pred_without_skips". The other case is half the
    dataset further on, since neighbours often belong to one patient, and is resampled to the size of the case. Cases
    are evaluated one by one.

    Args:
        exchange: takes pairs of images, ``(B, 2 C, *S)`` (``vqseg_bundle.networks.CodeExchange``).
        cut: takes images, ``(B, C, *S)`` (``vqseg_bundle.networks.SkipsCut``).
        inferer: divides the volumes, as for the predictions.
        dataset: the preprocessed cases, at least two; with several processes those of all.
        rank: number of this process, which evaluates every ``num_processes``-th case from there.
        num_processes: their number.

    Raises:
        ValueError: there is no second case.
    """

    def __init__(
        self,
        exchange: nn.Module,
        cut: nn.Module,
        inferer: Inferer,
        dataset: Sequence[dict[str, Any]],
        rank: int = 0,
        num_processes: int = 1,
    ) -> None:
        if len(dataset) < 2:
            raise ValueError(f"DecoderProbe needs at least 2 cases to exchange codes between, got {len(dataset)}.")
        self.exchange = exchange
        self.cut = cut
        self.inferer = inferer
        self.dataset = dataset
        # each evaluates all of them if there are fewer cases than processes
        self.first, self.step = (rank, num_processes) if len(dataset) >= num_processes else (0, 1)

    def attach(self, engine: Engine) -> None:
        """Register the handler with a MONAI evaluator."""
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._predict)

    def _predict(self, engine: Engine) -> None:
        output: Any = engine.state.output
        image = torch.as_tensor(output[CommonKeys.IMAGE])
        other = self._other(image, self.first + self.step * (engine.state.iteration - 1) + len(self.dataset) // 2)
        with torch.inference_mode():
            exchanged = self.inferer(torch.cat((image, other), dim=1), self.exchange)
            without_skips = self.inferer(image, self.cut)
        # copied outside inference mode, with the image's affine, for the postprocessing
        like = output[CommonKeys.PRED]
        for key, logits in (("pred_other_codes", exchanged), ("pred_without_skips", without_skips)):
            output[key] = like.clone().copy_(logits)

    def _other(self, image: Tensor, index: int) -> Tensor:
        """The image with this number, modulo their count, or the next one if it is the case itself."""
        mode = "trilinear" if image.ndim == 5 else "bilinear"
        for number in (index, index + 1):
            other = torch.as_tensor(self.dataset[number % len(self.dataset)][CommonKeys.IMAGE])[None].to(image)
            if other.shape != image.shape or not torch.equal(other, image):
                break
        return F.interpolate(other, size=image.shape[2:], mode=mode)
