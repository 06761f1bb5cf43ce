"""The training in two processes on the CPU."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ignite.distributed as idist
import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine
from monai.transforms import CutMix
from support.processes import run_group
from support.training_parts import TinyFoundationModel, labeled_batches, make_student, make_trainer, unlabeled_batches
from torch.nn.parallel import DistributedDataParallel

from vqseg_bundle.common import NonFiniteError
from vqseg_bundle.engines import STRONG_2, StudentPseudoLabeler
from vqseg_bundle.handlers import CodebookMaintenance, CodebookUsage
from vqseg_bundle.layers import FeatureDropout, PostVQFeatureAdapter, QuantizedPerturbation, VectorQuantizer
from vqseg_bundle.losses import PseudoLabelLoss, VQSegLoss
from vqseg_bundle.networks import VQSegTrainingModule


def _train_on_one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    for codebook_type in ("mapped", "ema"):
        student = make_student(
            quantizer={"normalize": True, "codebook_type": codebook_type, "entropy_temperature": 0.1}
        )
        module = VQSegTrainingModule(student, QuantizedPerturbation(), PostVQFeatureAdapter(2, 5, 7))
        maintenance = CodebookMaintenance(student.quantizers(), total_iterations=10, patience=1, interval=1)
        trainer = make_trainer(
            student,
            network=DistributedDataParallel(module),
            generator=torch.Generator().manual_seed(rank),
            foundation_model=TinyFoundationModel(),
            train_data_loader=labeled_batches(seed=10 + rank),
            unlabeled_data_loader=unlabeled_batches(seed=20 + rank),
            mixer=CutMix(batch_size=3),
            train_handlers=[maintenance, CodebookUsage(student.quantizer)],
        )
        trainer.run()
        _save(trainer, Path(folder) / f"{codebook_type}{rank}.pt", maintenance)
    _revive(rank, Path(folder) / f"revived{rank}.pt")
    _train_unimatch(rank, Path(folder) / f"unimatch{rank}.pt")
    _train_with_batch_norm(rank, Path(folder) / f"batch_norm{rank}.pt")
    _stop_together(rank, Path(folder) / f"stopped{rank}.pt")
    dist.barrier()
    idist.finalize()


def _revive(rank: int, path: Path) -> None:
    """All eight codes onto the tokens of both processes, which are 1 to 4 on the first, 101 to 104 on the second."""
    torch.manual_seed(0)
    quantizer = VectorQuantizer(2, 8, 1, codebook_type="ema")
    tokens = torch.arange(1.0, 5.0).view(1, 1, 2, 2) + 100 * rank
    indices = torch.zeros(1, 2, 2, dtype=torch.int64)
    output = {"student": SimpleNamespace(features=tokens, indices=indices, quantized_skips=[])}
    engine = Engine(lambda engine, batch: output)
    CodebookMaintenance([quantizer], 10, patience=1, interval=1, max_share=1.0).attach(engine)
    engine.run([0])
    torch.save(quantizer.project_codebook(), path)


def _train_unimatch(rank: int, path: Path) -> None:
    """Three streams, the student's own labels, dropout of features; on one rank no label reaches the threshold."""
    student = make_student(num_embeddings=None, reconstruction=False)
    module = VQSegTrainingModule(student, FeatureDropout(0.5), perturb_skips=True)
    unlabeled = [{**batch, STRONG_2: batch["image"] * 0.9} for batch in unlabeled_batches(seed=20 + rank)]
    trainer = make_trainer(
        student,
        network=DistributedDataParallel(module),
        generator=torch.Generator().manual_seed(rank),
        train_data_loader=labeled_batches(seed=10 + rank),
        unlabeled_data_loader=unlabeled,
        unlabeled_streams=[
            {"view": "strong", "perturbed": False, "weight": 0.25},
            {"view": "strong_2", "perturbed": False, "weight": 0.25},
            {"view": "image", "mixed": False, "weight": 0.5},
        ],
        pseudo_labeler=StudentPseudoLabeler(student),
        loss_function=VQSegLoss(consistency_loss=PseudoLabelLoss(confidence_threshold=0.6 if rank == 0 else 1.0)),
        mixer=CutMix(batch_size=3),
    )
    trainer.run()
    _save(trainer, path)


def _train_with_batch_norm(rank: int, path: Path) -> None:
    student = make_student(norm="batch")
    trainer = make_trainer(
        student,
        network=DistributedDataParallel(VQSegTrainingModule(student, QuantizedPerturbation())),
        train_data_loader=[{**batch, "strong": batch["strong"] + rank} for batch in labeled_batches(seed=10 + rank)],
        unlabeled_data_loader=unlabeled_batches(seed=20 + rank),
    )
    trainer.run()
    _save(trainer, path)


def _stop_together(rank: int, path: Path) -> None:
    """An image of the second process is not finite; with a loss scaler the shared gradients alone would not tell."""
    messages = []
    for scaled in (False, True):
        student = make_student()
        batches = [{**batch, "source": [f"l{rank}0.nii", f"l{rank}1.nii"]} for batch in labeled_batches(seed=10 + rank)]
        if rank == 1:
            batches[1]["strong"][0, 0, 0, 0] = torch.nan
        trainer = make_trainer(
            student,
            network=DistributedDataParallel(VQSegTrainingModule(student, QuantizedPerturbation())),
            train_data_loader=batches,
            unlabeled_data_loader=unlabeled_batches(seed=20 + rank),
        )
        trainer.guard.scaled = scaled
        trainer.logger.disabled = True
        with pytest.raises(NonFiniteError, match="Training stops in iteration 2") as caught:
            trainer.run()
        messages.append(str(caught.value))
    torch.save(messages, path)


def _save(trainer: Any, path: Path, maintenance: CodebookMaintenance | None = None) -> None:
    metrics = trainer.state.metrics
    record = {
        "idle": maintenance.idle if maintenance is not None else torch.zeros(0),
        "codes": {name: metrics[name] for name in ("codebook_usage", "codebook_perplexity") if name in metrics},
        "student": trainer.student.state_dict(),
        "teacher": trainer.teacher.state_dict(),
        "steps": trainer.state.iteration,
        "seen": trainer.state.output["images"].sum().item(),
    }
    torch.save(record, path)


@pytest.mark.timeout(240)
def test_two_processes_train_one_student(tmp_path):
    run_group(_train_on_one_rank, 2, str(tmp_path))
    for method in ("mapped", "ema", "unimatch", "batch_norm"):
        first, second = (torch.load(tmp_path / f"{method}{rank}.pt", weights_only=True) for rank in range(2))
        assert first["steps"] == second["steps"] == 3
        assert first["seen"] != second["seen"]  # each saw its own data
        assert torch.equal(first["idle"], second["idle"])
        assert first["codes"] == second["codes"]
        assert len(first["codes"]) == (2 if method in ("mapped", "ema") else 0)
        changes = {
            "unimatch": {"num_embeddings": None},
            "batch_norm": {"norm": "batch"},
            "mapped": {},
            "ema": {"quantizer": {"codebook_type": "ema"}},
        }[method]
        weight = "encoder.stages.2.conv1.conv.weight"
        assert not torch.equal(first["student"][weight], make_student(**changes).state_dict()[weight])
        for model in ("student", "teacher"):
            for key, value in first[model].items():
                assert torch.equal(value, second[model][key]), (method, model, key)
    revived = [torch.load(tmp_path / f"revived{rank}.pt", weights_only=True) for rank in range(2)]
    assert torch.equal(*revived)
    found = set(revived[0][1:].flatten().tolist())  # the first code is in use
    assert len(found) == 7
    assert found < {1.0, 2.0, 3.0, 4.0, 101.0, 102.0, 103.0, 104.0}
    statistics = [key for key in first["teacher"] if key.endswith("running_mean")]  # of the last method
    assert len(statistics) > 0
    assert all(first["teacher"][key].abs().max() > 0 for key in statistics)
    first_stop, second_stop = (torch.load(tmp_path / f"stopped{rank}.pt", weights_only=True) for rank in range(2))
    assert all("the loss of another process is not finite" in message for message in first_stop)
    assert all("Not finite after preprocessing: l10.nii (labelled)" in message for message in second_stop)
