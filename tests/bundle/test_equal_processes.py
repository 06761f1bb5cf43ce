"""Two processes and one: the same global batches give the same losses; what cannot be joined is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.losses import MaskedDiceLoss
from support.bundle_runs import TINY, write_cohort
from support.processes import free_port, run_as_rank, run_group
from support.training_parts import TinyFoundationModel, labeled_batches, make_student, make_trainer, unlabeled_batches
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from vqseg_bundle.bundle import join_processes, run_together
from vqseg_bundle.engines import EMATeacher
from vqseg_bundle.engines.pseudo_labels import PseudoLabels
from vqseg_bundle.handlers import CodebookMaintenance
from vqseg_bundle.layers import PostVQFeatureAdapter, QuantizedPerturbation
from vqseg_bundle.losses import (
    PooledDiceLoss,
    PseudoLabelLoss,
    SegmentationLoss,
    UncertaintyMaskedConsistencyLoss,
    VQSegLoss,
)
from vqseg_bundle.networks import VQSegTrainingModule

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="needs PyTorch's gloo backend")

STEPS = 5
#: the two ranks' pictures are of other brightness and contrast, so that what is pooled differs from the ranks' mean
CONTRAST = (1.0, 0.4)
METHODS = ("mapped", "ema", "uncertainty")
CLASSES = 2


class UncertainTeacher:
    """The teacher, with the entropy of its opinion."""

    def __init__(self, teacher: EMATeacher) -> None:
        self.teacher = teacher

    def pseudo_label(self, images: Tensor, generator: torch.Generator | None = None) -> PseudoLabels:
        found = self.teacher.pseudo_label(images).probabilities
        return PseudoLabels(found, torch.special.entr(found).sum(dim=1))


def _batches_of(rank: int, contrast: float) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    found = labeled_batches(STEPS, seed=10 + rank), unlabeled_batches(STEPS, seed=20 + rank)
    for batch in (*found[0], *found[1]):
        for key in ("image", "strong"):
            batch[key] = batch[key] * contrast + (1.0 - contrast)
    for batch in found[0]:
        batch["label"] = (batch["image"] > 0.8).float()
        batch["label"][..., : rank * 4] = CLASSES  # "ignore", on the second rank only
    return found


def _joined(parts: list[list[dict[str, Tensor]]]) -> list[dict[str, Tensor]]:
    return [{key: torch.cat([batch[key] for batch in step]) for key in step[0]} for step in zip(*parts, strict=True)]


def _train(method: str, world: int, labeled: Any, unlabeled: Any) -> dict[str, Any]:
    quantizer = {"normalize": True, "entropy_temperature": 0.1, "codebook_type": "ema" if method == "ema" else "mapped"}
    student = make_student(quantizer=quantizer)
    module = VQSegTrainingModule(student, QuantizedPerturbation(perturb_prob=0.0), PostVQFeatureAdapter(2, 5, 7))
    teacher = EMATeacher(student)
    torch.manual_seed(1)
    segmentation = SegmentationLoss(lambda_dice=1.0)
    consistency: Any = PseudoLabelLoss(segmentation, confidence_threshold=0.55)
    labeler: Any = teacher
    if method == "uncertainty":
        consistency, labeler = UncertaintyMaskedConsistencyLoss(0.95), UncertainTeacher(teacher)
    network = DistributedDataParallel(module) if world > 1 else module
    trainer = make_trainer(
        student,
        network=network,
        teacher=teacher,
        pseudo_labeler=labeler,
        foundation_model=TinyFoundationModel(),
        epoch_length=STEPS,
        train_data_loader=labeled,
        unlabeled_data_loader=unlabeled,
        optimizer=torch.optim.AdamW(network.parameters(), lr=1e-3),
        max_grad_norm=5.0,
        loss_function=VQSegLoss(
            lambda_reconstruction=0.1, lambda_entropy=0.1, segmentation_loss=segmentation, consistency_loss=consistency
        ),
        train_handlers=[CodebookMaintenance(student.quantizers(), total_iterations=STEPS)],
    )
    losses: list[Tensor] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(torch.stack(engine.state.output["terms"]).detach())
    )
    trainer.run()
    return {"losses": torch.stack(losses), "student": student.state_dict(), "teacher": teacher.state_dict()}


def _train_one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    found = {method: _train(method, 2, *_batches_of(rank, CONTRAST[rank])) for method in METHODS}
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("equal")
    run_group(_train_one_of_two, 2, str(folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("method", METHODS)
def test_five_steps_have_the_losses_of_one_process(ranks: list[dict[str, Any]], method: str) -> None:
    """Every term of every step; adaptive steps, clipped gradients, masks that keep another share on each rank."""
    parts = [_batches_of(rank, CONTRAST[rank]) for rank in range(2)]
    one = _train(method, 1, _joined([part[0] for part in parts]), _joined([part[1] for part in parts]))
    mean = torch.stack([found[method]["losses"] for found in ranks]).mean(dim=0)
    assert mean.shape == (STEPS, 8)
    assert (mean - one["losses"]).abs().max() < 1e-4
    assert (ranks[0][method]["losses"] - ranks[1][method]["losses"]).abs().max() > 1e-2
    for model in ("student", "teacher"):
        expected: Mapping[str, Tensor] = one[model]
        for key, value in ranks[0][method][model].items():
            assert torch.equal(value, ranks[1][method][model][key]), key
            if value.is_floating_point() and not key.endswith("bias"):  # norms undo a bias, whose gradient is rounding
                torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-3, msg=key)


@pytest.mark.parametrize("include_background, squared", [(True, False), (False, True), (False, False)])
def test_in_one_process_it_is_monais_masked_dice(include_background: bool, squared: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 6, 5, generator=generator)
    target = torch.nn.functional.one_hot(torch.randint(4, (3, 6, 5), generator=generator)).movedim(-1, 1).float()
    mask = (torch.rand(3, 1, 6, 5, generator=generator) < 0.7).float()
    ours, monais = (logits.clone().requires_grad_() for _ in range(2))
    loss = PooledDiceLoss(include_background, squared)(ours, target, mask)
    expected = MaskedDiceLoss(include_background, softmax=True, squared_pred=squared, batch=True)(monais, target, mask)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours.grad, monais.grad)


#: neither QPM nor CutMix, whose draws belong to a process; masks, Dice, code entropy, clipping and AdamW as always
SETTINGS = {
    **TINY,
    "perturb_prob": 0.0,
    "train#mixer#_disabled_": True,
    "confidence_threshold": 0.4,
    "max_iterations": STEPS,
    "iterations_per_epoch": STEPS,
    "network_def#num_embeddings": 256,
}


def _train_bundle(rank: int, world: int, cohort: str, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    losses: list[torch.Tensor] = []

    def prepare(parser: ConfigParser) -> None:
        for name in ("train#dataset", "train#unlabeled_dataset"):
            _seed_by_sample(parser.get_parsed_content(name))
        trainer = parser.get_parsed_content("train#trainer")
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED, lambda engine: losses.append(torch.stack(engine.state.output["terms"]).detach())
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(Path(folder) / "cache"))
        settings = {**SETTINGS, "labeled_batch_size": 4 // world, "unlabeled_batch_size": 4 // world}
        places = {"dataset_dir": cohort, "output_dir": str(Path(folder) / f"out_of_{world}")}
        configs = ["train.json", "multi_gpu_train.json"]
        run_as_rank(rank, world, port, "training", configs, {**places, **settings, "before": prepare})
    torch.save(torch.stack(losses), Path(folder) / f"losses_{rank}_of_{world}.pt")


def _seed_by_sample(dataset: Any) -> None:
    """Augment a sample alike whichever process draws it."""
    original = dataset._transform

    def transform(index: int) -> Any:
        dataset.transform.set_random_state(seed=index)
        return original(index)

    dataset._transform = transform


@pytest.mark.timeout(240)
def test_five_steps_of_two_processes_have_the_losses_of_one(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort")
    for world in (1, 2):
        run_group(_train_bundle, world, world, str(cohort.root), str(tmp_path), free_port())
    whole = torch.load(tmp_path / "losses_0_of_1.pt", weights_only=True)
    parts = [torch.load(tmp_path / f"losses_{rank}_of_2.pt", weights_only=True) for rank in range(2)]
    assert whole.shape == (STEPS, 8)
    assert (whole[:, 2] > 0).all()  # the masks keep something
    assert (torch.stack(parts).mean(dim=0) - whole).abs().max() < 1e-4
    assert (parts[0] - parts[1]).abs().max() > 1e-3  # each saw its own samples


TORCHRUN = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}


@pytest.mark.parametrize("minutes", [0, -1, "soon", True])
def test_a_timeout_must_be_positive(monkeypatch: pytest.MonkeyPatch, minutes: Any) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=rf"process_timeout_minutes must be a positive number, got {minutes!r}"):
        join_processes(minutes)


def test_a_process_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**TORCHRUN, "LOCAL_RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(SystemExit, match=r"process 2 of this machine has no GPU .* finds 2. .*per_node=2 or fewer"):
        join_processes(1)


def _failing(error: Exception) -> Engine:
    def fail(engine: Engine, batch: Any) -> None:
        raise error

    engine = Engine(fail)
    engine.logger.disabled = True
    run = engine.run
    engine.run = lambda: run([0])  # type: ignore[method-assign, assignment]
    return engine


def test_a_lost_process_is_a_message() -> None:
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:545] Read error: Connection reset by peer\nmore")
    message = r"process 0 of 1 stops in iteration 1: another process .*Connection reset by peer\).*--resume true"
    with pytest.raises(SystemExit, match=message):
        run_together(_failing(lost))


def test_an_error_of_its_own_is_raised_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run_together(_failing(RuntimeError("shapes do not fit")))
