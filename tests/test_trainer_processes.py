"""The training in two processes on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ignite.distributed as idist
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from monai.transforms import CutMix
from torch.nn.parallel import DistributedDataParallel
from training_parts import TinyFoundationModel, labeled_batches, make_student, make_trainer, unlabeled_batches

from vqseg_bundle.engines import STRONG_2, StudentPseudoLabeler
from vqseg_bundle.handlers import CodebookMaintenance
from vqseg_bundle.layers import FeatureDropout, PostVQFeatureAdapter, QuantizedPerturbation
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
        maintenance = CodebookMaintenance(student.quantizer, total_iterations=10, patience=1, interval=1)
        trainer = make_trainer(
            student,
            network=DistributedDataParallel(module),
            generator=torch.Generator().manual_seed(rank),
            foundation_model=TinyFoundationModel(),
            train_data_loader=labeled_batches(seed=10 + rank),
            unlabeled_data_loader=unlabeled_batches(seed=20 + rank),
            mixer=CutMix(batch_size=3),
            train_handlers=[maintenance],
        )
        trainer.run()
        _save(trainer, Path(folder) / f"{codebook_type}{rank}.pt")
    _train_unimatch(rank, Path(folder) / f"unimatch{rank}.pt")
    dist.barrier()
    idist.finalize()


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


def _save(trainer: Any, path: Path) -> None:
    record = {
        "student": trainer.student.state_dict(),
        "teacher": trainer.teacher.state_dict(),
        "steps": trainer.state.iteration,
        "loss": trainer.state.output["loss"].item(),
    }
    torch.save(record, path)


@pytest.mark.timeout(240)
def test_two_processes_train_one_student(tmp_path):
    mp.spawn(_train_on_one_rank, args=(str(tmp_path),), nprocs=2)
    for method in ("mapped", "ema", "unimatch"):
        first, second = (torch.load(tmp_path / f"{method}{rank}.pt", weights_only=True) for rank in range(2))
        assert first["steps"] == second["steps"] == 3
        assert first["loss"] != second["loss"]  # each saw its own data
        changes = {"num_embeddings": None} if method == "unimatch" else {"quantizer": {"codebook_type": method}}
        weight = "encoder.stages.2.conv1.conv.weight"
        assert not torch.equal(first["student"][weight], make_student(**changes).state_dict()[weight])
        for model in ("student", "teacher"):
            for key, value in first[model].items():
                assert torch.equal(value, second[model][key]), (method, model, key)
