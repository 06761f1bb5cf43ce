"""The semi-supervised training loop of VQ-Seg on MONAI's and Ignite's engine."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.transforms import CutMix
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn

from vqseg_bundle.common import FEATURES, SOURCE, NonFiniteError, is_disk_full, is_memory_full, process_count
from vqseg_bundle.common.process_group import average_running_statistics
from vqseg_bundle.engines.copy_paste import CopyPaste
from vqseg_bundle.engines.ema_teacher import EMATeacher
from vqseg_bundle.engines.pseudo_labels import PseudoLabeler, PseudoLabels
from vqseg_bundle.engines.schedules import iteration_budget, sigmoid_ramp_up
from vqseg_bundle.engines.step_guard import StepGuard
from vqseg_bundle.engines.step_seeds import StepSeeds
from vqseg_bundle.engines.unlabeled_streams import STRONG, UnlabeledStream, parse_streams
from vqseg_bundle.engines.unlabeled_views import UnlabeledViews, arrange_streams, endless_batches, needed_views

__all__ = ["SemiSupervisedTrainer"]


class SemiSupervisedTrainer(SupervisedTrainer):
    """Train a student on labels and on pseudo-labels.

    One iteration: the pseudo-labeller, normally the EMA teacher, labels the weak view of the unlabelled batch; the
    mixer mixes the streams with ``mixed`` (view, pseudo-label and weak view alike); the student sees the labelled
    batch's strong view and all streams in one pass; then the teacher is updated. Without unlabelled data the same loop
    trains supervised. ``engine.state.output`` has MONAI's keys plus "terms" (the named loss terms), "images" (the
    student's input, labelled images first), "student" (its whole output), "pseudo_labels" (of the weak views, as the
    labeller gives them) and "unlabeled_targets" (the same of all streams, mixed), both None without unlabelled images.
    Batches are never decollated, since labelled and unlabelled ones differ in size. A non-finite loss, gradient or
    weight ends the run in that iteration with a :class:`~vqseg_bundle.common.NonFiniteError`, which names it and the
    files of the batches (their "source").

    Arguments in addition to those of :class:`monai.engines.SupervisedTrainer` (whose ``network`` is the training
    module):

    Args:
        student: the network inside ``network``, which the teacher averages.
        teacher: the student's average, which is deployed.
        loss_function: called with the student's output, the targets and the ramp; returns named terms with ``total``.
        targets: builds the loss's targets from keyword arguments (``vqseg_bundle.losses.VQSegTargets``).
        unlabeled_data_loader: batches with "image" (weak view) and the streams' views; None trains supervised.
        unlabeled_streams: the versions of the unlabelled batch that the student sees, as streams or mappings.
        pseudo_labeler: gives the pseudo-labels; None uses the teacher.
        foundation_model: frozen model with whose features the adapter is aligned, or None. Batches with the features of
            their weak views under "foundation_features", ``(B, C_f, *G)``, need none.
        foundation_depth: number of slices of a volume for the foundation model; None uses all slices.
        mixer: MONAI's CutMix for the unlabelled batch, :class:`~vqseg_bundle.engines.CopyPaste`, or None.
        max_iterations: budget; see :func:`~vqseg_bundle.engines.iteration_budget`.
        total_iterations: length of the whole training if ``run`` is called for several parts of it (federated rounds);
            None means the budget of this run.
        ramp_up_share: share of the training over which the unlabelled terms ramp up, in [0, 1].
        max_grad_norm: gradients are clipped to this norm; None disables it.
        generator: randomness of the perturbation, on the training device. All randomness of a step follows from its
            initial seed and the step's number, see :class:`~vqseg_bundle.engines.step_seeds.StepSeeds`.

    Raises:
        ValueError: ``ramp_up_share`` outside [0, 1], ``max_grad_norm`` not positive, a count below 1, or a stream that
            :class:`~vqseg_bundle.engines.UnlabeledStream` refuses.
    """

    def __init__(
        self,
        *,
        student: nn.Module,
        teacher: EMATeacher,
        targets: Any,
        unlabeled_data_loader: Iterable[Mapping[str, Any]] | None = None,
        unlabeled_streams: Sequence[UnlabeledStream | Mapping[str, Any]] = (UnlabeledStream(),),
        pseudo_labeler: PseudoLabeler | None = None,
        foundation_model: Any | None = None,
        foundation_depth: int | None = None,
        mixer: CutMix | CopyPaste | None = None,
        max_iterations: int | None = None,
        total_iterations: int | None = None,
        ramp_up_share: float = 0.0,
        max_grad_norm: float | None = None,
        generator: torch.Generator | None = None,
        amp: bool = False,
        amp_kwargs: dict | None = None,
        **kwargs: Any,
    ) -> None:
        if not 0.0 <= ramp_up_share <= 1.0:
            raise ValueError(f"ramp_up_share must lie in [0, 1], got {ramp_up_share}.")
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be positive or None, got {max_grad_norm}.")
        if total_iterations is not None and total_iterations < 1:
            raise ValueError(f"total_iterations must be at least 1, got {total_iterations}.")
        streams = parse_streams(unlabeled_streams)
        super().__init__(amp=amp, amp_kwargs=amp_kwargs, decollate=False, **kwargs)
        self.student = student
        self.teacher = teacher
        self.targets = targets
        self.unlabeled_data_loader = unlabeled_data_loader
        self.streams = streams
        self.pseudo_labeler = pseudo_labeler if pseudo_labeler is not None else teacher
        self.foundation_model = foundation_model
        self.foundation_depth = foundation_depth
        self.mixer = mixer
        self.ramp_up_share = ramp_up_share
        self.max_grad_norm = max_grad_norm
        self.generator = generator
        self.seeds = StepSeeds(generator, mixer)
        # if disabled, every step still runs the same code; MONAI's own, None without AMP, stays unused
        scaled = self.amp and self.state.device.type == "cuda"
        self.loss_scaler = torch.amp.GradScaler(self.state.device.type, enabled=scaled)
        self.guard = StepGuard(self.network, teacher, self.state.epoch_length, scaled)
        budget = iteration_budget(self.state.max_epochs, self.state.epoch_length, max_iterations)
        self.total_iterations = budget if total_iterations is None else total_iterations
        self._unlabeled_batches: Iterator[Mapping[str, Any]] | None = None
        self.add_event_handler(Events.STARTED, self._start)
        self.add_event_handler(Events.ITERATION_COMPLETED, self._stop_at_budget)

    @property
    def progress(self) -> float:
        """Share of all iterations before the current one, in [0, 1)."""
        return max(self.state.iteration - 1, 0) / self.total_iterations

    def state_dict(self) -> OrderedDict:
        """Ignite's state, the training's length and processes, and the loss scaler's state; no random state."""
        state = super().state_dict()
        state.update(total_iterations=self.total_iterations, processes=process_count())
        state["loss_scaler"] = self.loss_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: Mapping) -> None:
        """Continue from a saved state.

        Raises:
            ValueError: it is of a training of another length, whose schedules do not fit.
        """
        own = (self.total_iterations, self.state.epoch_length)
        found = (state_dict.get("total_iterations", own[0]), state_dict["epoch_length"])
        if found != own:
            raise ValueError(
                f"resume: the checkpoint is of a training of {found[0]} iterations in epochs of {found[1]}, this one "
                f"has {own[0]} in epochs of {own[1]}. Resume with the settings of the interrupted training."
            )
        super().load_state_dict(state_dict)
        if self.loss_scaler.is_enabled() and state_dict.get("loss_scaler"):
            self.loss_scaler.load_state_dict(state_dict["loss_scaler"])

    def _register_handlers(self, handlers: Sequence[Any]) -> None:
        # before MONAI's own, which would log a traceback and save the weights
        self.add_event_handler(Events.EXCEPTION_RAISED, _raise_explained)
        super()._register_handlers(handlers)
        # if a handler lets an error pass, ignite considers it handled
        self.add_event_handler(Events.EXCEPTION_RAISED, _raise)

    def _start(self, engine: Engine) -> None:
        if self.state.iteration == 0:
            # weights may have been loaded into the student after the teacher was copied from it
            self.teacher.n_averaged.zero_()
            self.teacher.update_parameters(self.student)
        loader: Any
        for loader in (self.data_loader, self.unlabeled_data_loader):
            sampler: Any = getattr(loader, "sampler", None)
            # not PyTorch's own samplers, whose order nobody could repeat
            if hasattr(sampler, "skip"):
                sampler.skip(self.state.iteration * loader.batch_size)
        if self.unlabeled_data_loader is not None:
            self._unlabeled_batches = endless_batches(self.unlabeled_data_loader)
        if self.state.iteration >= self.total_iterations:
            # resumed after the last iteration: ignite would continue if the last epoch was short
            self.terminate()

    def _stop_at_budget(self, engine: Engine) -> None:
        # a short last epoch; ending it, unlike terminating, still validates and saves
        if self.state.iteration >= self.total_iterations and self.state.iteration % self.state.epoch_length != 0:
            self.terminate_epoch()

    def _iteration(self, engine: Engine, batchdata: dict[str, Any]) -> dict[str, Any]:
        """One optimiser step; fires all of MONAI's iteration events."""
        labeled = self._to_device(batchdata.get(STRONG, batchdata[Keys.IMAGE]))
        if Keys.LABEL in batchdata:
            labels = self._to_device(batchdata[Keys.LABEL]).squeeze(1).long()
        else:  # a client without labels trains only on the unlabelled batch
            labeled, labels = labeled[:0], labeled[:0, 0].long()
        output: dict[str, Any] = {Keys.IMAGE: labeled, Keys.LABEL: labels}
        self.state.output = output
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        # read before autocast, which on the CPU would reach the loader's transforms
        unlabeled = self._next_unlabeled()
        # not before: a loader that begins takes a number from torch's global state
        self.seeds.begin(self.state.iteration)
        self.guard.begin(self.state.iteration, batchdata, unlabeled)
        with torch.autocast(self.state.device.type, enabled=self.amp, **self.amp_kwargs):
            pseudo = views = None
            if unlabeled is not None:
                pseudo = self.pseudo_labeler.pseudo_label(unlabeled[Keys.IMAGE], self.generator)
                views = self._arrange_views(unlabeled, pseudo, batchdata, labels)
            features = self._foundation_features(batchdata, len(labeled), views)
            student = self.inferer(
                labeled,
                self.network,
                views.images if views is not None else None,
                features.shape[2:] if features is not None else None,
                self.generator,
                views.perturbed if views is not None else None,
                labels if views is None else torch.cat((labels, views.pseudo.labels)),
            )
            images = output["images"] = labeled if views is None else torch.cat((labeled, views.images))
            output[Keys.PRED], output["student"] = student.labeled_logits, student
            output["pseudo_labels"] = pseudo
            output["unlabeled_targets"] = views.pseudo if views is not None else None
            self.fire_event(IterationEvents.FORWARD_COMPLETED)
            output["terms"] = self._loss_terms(student, images, labels, views, features)
            output[Keys.LOSS] = output["terms"].total
            self.fire_event(IterationEvents.LOSS_COMPLETED)
        self._step(output)
        average_running_statistics(self.student)  # the teachers would drift apart
        self.guard.check_weights()
        self.teacher.update_parameters(self.student)
        self.fire_event(IterationEvents.MODEL_COMPLETED)
        return self.state.output  # handlers may have replaced it

    def _next_unlabeled(self) -> dict[str, Any] | None:
        if self._unlabeled_batches is None:
            return None
        batch = next(self._unlabeled_batches)
        names = [*needed_views(batch, self.streams), FEATURES]
        sources = {SOURCE: batch[SOURCE]} if SOURCE in batch else {}
        return {name: self._to_device(batch[name]) for name in names if name in batch} | sources

    def _arrange_views(
        self, views: dict[str, Any], pseudo: PseudoLabels, batch: Mapping[str, Any], labels: Tensor
    ) -> UnlabeledViews:
        labeled = None
        if isinstance(self.mixer, CopyPaste):  # nothing else needs these copies on the device
            keys = [key for key in (str(Keys.IMAGE), STRONG, FEATURES) if key in batch]
            labeled = {key: self._to_device(batch[key])[: len(labels)] for key in keys} | {str(Keys.LABEL): labels}
        return arrange_streams(views, pseudo, self.streams, self.mixer, labeled)

    def _foundation_features(
        self, batchdata: Mapping[str, Any], labeled_count: int, views: UnlabeledViews | None
    ) -> Tensor | None:
        if FEATURES in batchdata:
            features = self._to_device(batchdata[FEATURES])[:labeled_count]
            return features if views is None else torch.cat((features, views.features))
        if self.foundation_model is None:
            return None
        labeled = self._to_device(batchdata[Keys.IMAGE])[:labeled_count]
        images = labeled if views is None else torch.cat((labeled, views.weak))
        if self.foundation_depth is None:
            return self.foundation_model(images)
        return self.foundation_model(images, depth=self.foundation_depth)

    def _loss_terms(
        self, student: Any, images: Tensor, labels: Tensor, views: UnlabeledViews | None, features: Tensor | None
    ) -> Any:
        empty = images.new_empty(0)
        targets = self.targets(
            images=images,
            labels=labels,
            pseudo_probabilities=empty if views is None else views.pseudo.probabilities,
            entropy=empty if views is None else views.pseudo.entropy,
            stream_weights=tuple(stream.weight for stream in self.streams),
            foundation_features=empty if features is None else features,
        )
        return self.loss_function(student, targets, sigmoid_ramp_up(self.progress, self.ramp_up_share))

    def _step(self, output: Mapping[str, Any]) -> None:
        loss = output[Keys.LOSS]
        self.loss_scaler.scale(loss).backward()
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        self.loss_scaler.unscale_(self.optimizer)
        limit = math.inf if self.max_grad_norm is None else self.max_grad_norm
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        self.guard.check_gradients(loss, norm, output["terms"], output["unlabeled_targets"])
        self.loss_scaler.step(self.optimizer)
        self.loss_scaler.update()

    def _to_device(self, tensor: Tensor) -> Tensor:
        # a plain tensor: MetaTensor's bookkeeping would cost time in every operation of the step
        plain = tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor
        return plain.to(self.state.device, non_blocking=self.non_blocking)


def _raise_explained(engine: Engine, error: BaseException) -> None:
    if isinstance(error, NonFiniteError) or is_disk_full(error) or is_memory_full(error):
        raise error


def _raise(engine: Engine, error: BaseException) -> None:
    raise error
