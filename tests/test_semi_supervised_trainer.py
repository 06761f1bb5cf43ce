from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines.utils import IterationEvents
from monai.handlers import CheckpointLoader
from monai.transforms import CutMix
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vqseg_bundle.engines import STRONG, EMATeacher, SemiSupervisedTrainer
from vqseg_bundle.handlers import CodebookMaintenance
from vqseg_bundle.layers import PostVQFeatureAdapter, QuantizedPerturbation
from vqseg_bundle.losses import VQSegLoss, VQSegTargets
from vqseg_bundle.networks import FoundationModel, VQSegNet, VQSegTrainingModule

EVENTS = (
    IterationEvents.FORWARD_COMPLETED,
    IterationEvents.LOSS_COMPLETED,
    IterationEvents.BACKWARD_COMPLETED,
    IterationEvents.MODEL_COMPLETED,
)
WEIGHTS = {"lambda_reconstruction": 0.1, "lambda_commitment": 0.25}


def _labeled(batches: int = 3, size: tuple[int, ...] = (16, 16), seed: int = 1) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randn(2, 1, *size, generator=generator) for _ in range(batches)]
    return [{"image": image, STRONG: image * 1.1, "label": (image > 0).float()} for image in images]


def _unlabeled(batches: int = 2, size: tuple[int, ...] = (16, 16), seed: int = 2) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randn(3, 1, *size, generator=generator) for _ in range(batches)]
    return [{"image": image, STRONG: image * 1.1} for image in images]


def _student(seed: int = 0, **changes: Any) -> VQSegNet:
    arguments: dict[str, Any] = {
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 2,
        "channels": (4, 6, 8),
        "strides": (2, 2),
        "num_embeddings": 16,
        "embedding_dim": 5,
        "quantizer": {"normalize": True},
    }
    torch.manual_seed(seed)
    return VQSegNet(**(arguments | changes))


def _trainer(student: nn.Module | None = None, adapter: nn.Module | None = None, **changes: Any) -> Any:
    student = student or _student()
    network = changes.pop("network", None) or VQSegTrainingModule(student, QuantizedPerturbation(), adapter)
    arguments: dict[str, Any] = {
        "device": "cpu",
        "max_epochs": 1,
        "epoch_length": 3,
        "train_data_loader": _labeled(),
        "unlabeled_data_loader": _unlabeled(),
        "network": network,
        "student": student,
        "teacher": EMATeacher(student),
        "loss_function": VQSegLoss(**WEIGHTS),
        "targets": VQSegTargets,
        "optimizer": torch.optim.SGD(network.parameters(), lr=0.1),
        "generator": torch.Generator().manual_seed(0),
    }
    return SemiSupervisedTrainer(**(arguments | changes))


def _count_steps(trainer: Any) -> list[int]:
    steps = [0]
    trainer.optimizer.register_step_post_hook(lambda *_: steps.__setitem__(0, steps[0] + 1))
    return steps


# one iteration


def test_all_iteration_events_are_fired_in_order():
    trainer = _trainer(epoch_length=2)
    fired: list[tuple[str, set[str]]] = []

    def keep(engine, name):
        fired.append((name, set(engine.state.output)))

    for event in reversed(EVENTS):
        trainer.add_event_handler(event, keep, event.name)
    trainer.run()
    before_loss = {"image", "label", "pred", "student"}
    once = [
        ("FORWARD_COMPLETED", before_loss),
        ("LOSS_COMPLETED", {*before_loss, "terms", "loss"}),
        ("BACKWARD_COMPLETED", {*before_loss, "terms", "loss"}),
        ("MODEL_COMPLETED", {*before_loss, "terms", "loss"}),
    ]
    assert fired == once * 2


def test_gradients_are_there_when_backward_has_completed_and_the_step_when_the_model_has():
    trainer = _trainer(epoch_length=1)
    start = trainer.student.code_projection.weight.clone()
    changed = {}

    def look(engine, name):
        weight = engine.student.code_projection.weight
        changed[name] = (weight.grad is not None, not torch.equal(weight, start))

    for event in EVENTS[1:]:
        trainer.add_event_handler(event, look, event.name)
    trainer.run()
    assert changed == {
        "LOSS_COMPLETED": (False, False),
        "BACKWARD_COMPLETED": (True, False),
        "MODEL_COMPLETED": (True, True),
    }


def test_output_and_what_a_handler_makes_of_it():
    trainer = _trainer(epoch_length=1, postprocessing=lambda data: {**data, "pred": data["pred"].argmax(1)})
    trainer.run()
    output = trainer.state.output
    assert output["pred"].shape == output["label"].shape == (2, 16, 16)
    assert output["label"].dtype is torch.int64
    assert output["loss"] is output["terms"].total
    assert torch.equal(output["image"], _labeled()[0][STRONG])


def test_labelled_images_without_strong_view_are_used_as_they_are():
    batches = [{"image": batch["image"], "label": batch["label"]} for batch in _labeled()]
    trainer = _trainer(epoch_length=1, train_data_loader=batches)
    trainer.run()
    assert torch.equal(trainer.state.output["image"], batches[0]["image"])


def test_metatensors_are_taken_off():
    batches = [{key: MetaTensor(value) for key, value in batch.items()} for batch in _labeled()]
    trainer = _trainer(epoch_length=1, train_data_loader=batches)
    trainer.run()
    assert type(trainer.state.output["image"]) is torch.Tensor
    assert type(trainer.state.output["loss"]) is torch.Tensor


# the length of a training


@pytest.mark.parametrize(
    ("max_epochs", "max_iterations", "steps", "epochs"),
    [
        (2, 6, 6, 2),
        (3, 7, 7, 3),  # the last epoch is short
        (1, 2, 2, 1),  # the only one is
        (4, 7, 12, 4),  # overridden: whole epochs
        (1, 7, 3, 1),
        (2, None, 6, 2),
    ],
)
def test_steps_and_completed_epochs(max_epochs, max_iterations, steps, epochs):
    trainer = _trainer(max_epochs=max_epochs, max_iterations=max_iterations, train_data_loader=_labeled(2))
    counted, completed, done = _count_steps(trainer), [], []
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: completed.append(engine.state.iteration))
    trainer.add_event_handler(Events.COMPLETED, lambda engine: done.append(engine.state.epoch))
    trainer.run()
    assert trainer.total_iterations == steps == counted[0] == trainer.state.iteration
    assert completed == [min(3 * (epoch + 1), steps) for epoch in range(epochs)]
    assert done == [epochs]


def test_progress_and_ramp_follow_the_budget():
    ramps: list[float] = []
    loss = VQSegLoss(**WEIGHTS)

    def keep_ramp(output, targets, ramp):
        ramps.append(ramp)
        return loss(output, targets, ramp)

    _trainer(max_epochs=2, max_iterations=5, loss_function=keep_ramp, ramp_up_share=0.8).run()
    # progress 0, 0.2, 0.4, 0.6, 0.8 of which the ramp takes 0.8
    expected = [math.exp(-5 * (1 - share) ** 2) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert ramps == pytest.approx(expected, rel=1e-9)


def test_the_shorter_unlabelled_loader_cycles():
    seen: list[Tensor] = []
    trainer = _trainer(epoch_length=5, train_data_loader=_labeled(5), unlabeled_data_loader=_unlabeled(2))
    trainer.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    trainer.run()
    strong = [batch[STRONG] for batch in _unlabeled(2)]
    assert [next(i for i in range(2) if torch.equal(batch, strong[i])) for batch in seen] == [0, 1, 0, 1, 0]


def test_an_unlabelled_loader_without_batches_is_refused():
    trainer = _trainer(unlabeled_data_loader=[])
    with pytest.raises(ValueError, match="unlabeled_data_loader gave no batch; pass None"):
        trainer.run()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ramp_up_share": 1.5}, r"ramp_up_share must lie in \[0, 1\], got 1.5"),
        ({"max_grad_norm": 0.0}, r"max_grad_norm must be positive or None, got 0.0"),
        ({"max_iterations": 0}, r"must be at least 1, got 1, 3 and 0"),
    ],
)
def test_arguments_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        _trainer(**changes)


# optimisation


def test_gradients_are_clipped_to_the_norm():
    def norms(max_grad_norm: float | None) -> list[float]:
        found: list[float] = []
        trainer = _trainer(max_grad_norm=max_grad_norm)
        parameters = list(trainer.network.parameters())

        def keep_norm(*_: Any) -> None:
            found.append(torch.stack([parameter.grad.norm() for parameter in parameters]).norm().item())

        trainer.optimizer.register_step_pre_hook(keep_norm)
        trainer.run()
        return found

    free, clipped = norms(None), norms(0.01)
    assert min(free) > 0.1
    assert clipped == pytest.approx([0.01] * 3, rel=1e-3)
    assert norms(1e6) == free


def test_no_gradient_is_carried_over_to_the_next_step():
    student, gradients = _student(), []
    standstill = torch.optim.SGD(student.parameters(), lr=0.0)
    standstill.register_step_pre_hook(lambda *_: gradients.append(student.code_projection.weight.grad.clone()))
    _trainer(student, optimizer=standstill, train_data_loader=_labeled(1), unlabeled_data_loader=None).run()
    assert len(gradients) == 3
    assert torch.equal(gradients[0], gradients[2])


def test_bf16_autocast_on_the_cpu_is_finite_and_keeps_float32_weights():
    trainer = _trainer(amp=True)
    found: list[tuple[torch.dtype, bool]] = []

    def keep(engine):
        found.append((engine.state.output["pred"].dtype, math.isfinite(engine.state.output["loss"].item())))

    trainer.add_event_handler(Events.ITERATION_COMPLETED, keep)
    steps = _count_steps(trainer)
    trainer.run()
    assert found == [(torch.bfloat16, True)] * 3
    assert steps == [3]
    for model in (trainer.student, trainer.teacher.module):
        assert all(parameter.dtype is torch.float32 for parameter in model.parameters())
        assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_training_lowers_the_loss_on_labels():
    losses: list[float] = []
    trainer = _trainer(max_epochs=10, train_data_loader=_labeled(1), unlabeled_data_loader=None)
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda engine: losses.append(engine.state.output["terms"].labeled_segmentation.item()),
    )
    trainer.run()
    assert losses[-1] < 0.7 * losses[0]


def _trained_weights(seed: int) -> dict[str, Tensor]:
    trainer = _trainer(generator=torch.Generator().manual_seed(seed), mixer=CutMix(batch_size=3))
    trainer.run()
    return trainer.teacher.state_dict()


def test_the_same_seed_gives_the_same_weights():
    first, again, other = _trained_weights(0), _trained_weights(0), _trained_weights(1)
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert any(not torch.equal(value, other[key]) for key, value in first.items())


# the teacher


def test_the_teacher_starts_from_weights_that_a_handler_loads(tmp_path):
    """MONAI Label inserts such a handler; the teacher was copied from the random student long before."""
    loaded, student = _student(seed=9), _student(seed=0)
    torch.save(loaded.state_dict(), tmp_path / "model.pt")
    trainer = _trainer(
        student,
        optimizer=torch.optim.SGD(student.parameters(), lr=0.0),
        train_handlers=[CheckpointLoader(str(tmp_path / "model.pt"), {"model": student}, strict=False)],
    )
    trainer.teacher.n_averaged.fill_(50)  # as after an earlier training with the same objects
    trainer.run()
    for key, value in trainer.teacher.module.state_dict().items():
        torch.testing.assert_close(value, loaded.state_dict()[key])


def test_the_teacher_follows_after_each_step():
    trainer = _trainer(epoch_length=1)
    start = trainer.student.code_projection.weight.detach().clone()
    trainer.run()
    after = trainer.student.code_projection.weight
    torch.testing.assert_close(trainer.teacher.module.code_projection.weight, (start + after) / 2)
    assert trainer.teacher.n_averaged.item() == 2


def test_pseudo_labels_are_the_teachers_on_the_weak_view():
    found: list[VQSegTargets] = []
    loss = VQSegLoss(**WEIGHTS)

    def keep_targets(output, targets, ramp):
        found.append(targets)
        return loss(output, targets, ramp)

    trainer = _trainer(epoch_length=1, loss_function=keep_targets)
    expected = EMATeacher(trainer.student).pseudo_label(_unlabeled()[0]["image"])
    trainer.run()
    assert torch.equal(found[0].pseudo_labels, expected.labels)
    assert torch.equal(found[0].confidence, expected.confidence)
    assert torch.equal(found[0].images, torch.cat((_labeled()[0][STRONG], _unlabeled()[0][STRONG])))


def test_without_unlabelled_data_the_training_is_supervised():
    trainer = _trainer(unlabeled_data_loader=None)
    trainer.teacher.pseudo_label = lambda _: pytest.fail("the teacher was asked")
    trainer.run()
    assert trainer.state.output["student"].unlabeled_logits.shape[0] == 0
    assert trainer.state.output["terms"].unlabeled_segmentation.item() == 0.0
    assert trainer.teacher.n_averaged.item() == 4


# CutMix


class Levels(nn.Module):
    """Logits whose argmax is the intensity rounded to 0, 1 or 2, and whose maximum tells the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return -self.scale * (images - torch.arange(3.0).view(1, 3, *[1] * (images.ndim - 2))).square()


class LevelsOutput(NamedTuple):
    labeled_logits: Tensor
    unlabeled_logits: Tensor


class LevelsTrainingModule(nn.Module):
    def __init__(self, student: Levels) -> None:
        super().__init__()
        self.student = student

    def forward(self, labeled, unlabeled=None, grid=None, generator=None):
        return LevelsOutput(self.student(labeled), self.student(unlabeled))


class LevelsTerms(NamedTuple):
    total: Tensor


@pytest.mark.parametrize("size", [(12, 10), (8, 6, 5)])
def test_cutmix_mixes_weak_strong_pseudo_label_and_confidence_by_one_box(size):
    """The strong view is the weak one plus 10, and the teacher's opinion is a function of each weak voxel."""
    weak = (torch.rand(4, 1, *size, generator=torch.Generator().manual_seed(0)) * 2).clamp(0.1, 1.9)
    batch = {"image": weak, STRONG: weak + 10.0}
    labeled = {"image": torch.zeros(2, 1, *size), "label": torch.zeros(2, 1, *size)}
    student, weak_views, targets_seen = Levels(), [], []

    def loss(output, targets, ramp):
        targets_seen.append(targets)
        return LevelsTerms(output.unlabeled_logits.mean())

    def foundation_model(images):
        weak_views.append(images[2:])
        return torch.zeros(6, 1, 2, 2)

    _trainer(
        student,
        network=LevelsTrainingModule(student),
        epoch_length=4,
        optimizer=torch.optim.SGD(student.parameters(), lr=0.0),
        train_data_loader=[labeled],
        unlabeled_data_loader=[batch],
        loss_function=loss,
        foundation_model=foundation_model,
        mixer=CutMix(batch_size=99),  # the batch's own size rules
    ).run()
    teacher = EMATeacher(student)
    for mixed, targets in zip(weak_views, targets_seen, strict=True):
        torch.testing.assert_close(targets.images[2:], mixed + 10.0)
        expected = teacher.pseudo_label(mixed)
        assert torch.equal(targets.pseudo_labels, expected.labels)
        torch.testing.assert_close(targets.confidence, expected.confidence)
        # every voxel keeps its place and comes from some image of the batch
        assert (mixed.unsqueeze(1) == weak.unsqueeze(0)).any(dim=1).all()
    assert any(not torch.equal(mixed, weak) for mixed in weak_views)
    assert any(not torch.equal(mixed, weak_views[0]) for mixed in weak_views[1:])


# the foundation model


class TinyFoundationModel(FoundationModel):
    def __init__(self) -> None:
        conv = nn.Conv2d(3, 7, kernel_size=4, stride=4)
        super().__init__(conv, channels=7, image_size=12, grid=(3, 3), mean=(0.5,) * 3, std=(0.2,) * 3)

    def extract_features(self, images):
        return self.backbone(images)


def test_the_foundation_model_stays_frozen_and_the_adapter_learns():
    foundation, adapter = TinyFoundationModel(), PostVQFeatureAdapter(2, 5, 7)
    frozen = [parameter.clone() for parameter in foundation.backbone.parameters()]
    start = adapter.projection.weight.detach().clone()
    trainer = _trainer(adapter=adapter, foundation_model=foundation)
    trainer.run()
    assert trainer.state.output["student"].adapted.shape == (5, 7, 3, 3)
    assert trainer.state.output["terms"].alignment.item() > 0
    for before, parameter in zip(frozen, foundation.backbone.parameters(), strict=True):
        assert parameter.grad is None
        assert not parameter.requires_grad
        assert torch.equal(before, parameter)
    assert (adapter.projection.weight.grad.abs() > 0).all()
    assert not torch.equal(adapter.projection.weight, start)


def test_the_foundation_model_sees_the_weak_views():
    seen: list[Tensor] = []
    foundation = TinyFoundationModel()

    def keep_images(images):
        seen.append(images)
        return foundation(images)

    _trainer(adapter=PostVQFeatureAdapter(2, 5, 7), foundation_model=keep_images, epoch_length=1).run()
    assert torch.equal(seen[0], torch.cat((_labeled()[0]["image"], _unlabeled()[0]["image"])))


def test_volumes_hand_the_foundation_depth_on():
    size = (8, 8, 6)
    trainer = _trainer(
        _student(spatial_dims=3, strides=(2, (2, 2, 1))),
        adapter=PostVQFeatureAdapter(3, 5, 7),
        epoch_length=1,
        foundation_model=TinyFoundationModel(),
        foundation_depth=2,
        train_data_loader=_labeled(1, size),
        unlabeled_data_loader=_unlabeled(1, size),
    )
    trainer.run()
    assert trainer.state.output["student"].adapted.shape == (5, 7, 3, 3, 2)


# several processes


def _train_on_one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    for codebook_type in ("mapped", "ema"):
        student = _student(quantizer={"normalize": True, "codebook_type": codebook_type, "entropy_temperature": 0.1})
        module = VQSegTrainingModule(student, QuantizedPerturbation(), PostVQFeatureAdapter(2, 5, 7))
        maintenance = CodebookMaintenance(student.quantizer, total_iterations=10, patience=1, interval=1)
        trainer = _trainer(
            student,
            network=DistributedDataParallel(module),
            generator=torch.Generator().manual_seed(rank),
            foundation_model=TinyFoundationModel(),
            train_data_loader=_labeled(seed=10 + rank),
            unlabeled_data_loader=_unlabeled(seed=20 + rank),
            mixer=CutMix(batch_size=3),
            train_handlers=[maintenance],
        )
        trainer.run()
        record = {
            "student": student.state_dict(),
            "teacher": trainer.teacher.state_dict(),
            "steps": trainer.state.iteration,
            "loss": trainer.state.output["loss"].item(),
        }
        torch.save(record, Path(folder) / f"{codebook_type}{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.timeout(240)
def test_two_processes_train_one_student(tmp_path):
    mp.spawn(_train_on_one_rank, args=(str(tmp_path),), nprocs=2)
    for codebook_type in ("mapped", "ema"):
        first, second = (torch.load(tmp_path / f"{codebook_type}{rank}.pt", weights_only=True) for rank in range(2))
        assert first["steps"] == second["steps"] == 3
        assert first["loss"] != second["loss"]  # each saw its own data
        untrained = _student(quantizer={"codebook_type": codebook_type}).state_dict()
        assert not torch.equal(first["student"]["code_projection.weight"], untrained["code_projection.weight"])
        for model in ("student", "teacher"):
            for key, value in first[model].items():
                assert torch.equal(value, second[model][key]), (codebook_type, model, key)
