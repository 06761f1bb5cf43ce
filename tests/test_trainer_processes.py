"""The training in two processes on the CPU."""

from __future__ import annotations

from pathlib import Path

import ignite.distributed as idist
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from monai.transforms import CutMix
from torch.nn.parallel import DistributedDataParallel
from training_parts import TinyFoundationModel, labeled_batches, make_student, make_trainer, unlabeled_batches

from vqseg_bundle.handlers import CodebookMaintenance
from vqseg_bundle.layers import PostVQFeatureAdapter, QuantizedPerturbation
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
        record = {
            "student": student.state_dict(),
            "teacher": trainer.teacher.state_dict(),
            "steps": trainer.state.iteration,
            "loss": trainer.state.output["loss"].item(),
        }
        torch.save(record, Path(folder) / f"{codebook_type}{rank}.pt")
    dist.barrier()
    idist.finalize()


@pytest.mark.timeout(240)
def test_two_processes_train_one_student(tmp_path):
    mp.spawn(_train_on_one_rank, args=(str(tmp_path),), nprocs=2)
    for codebook_type in ("mapped", "ema"):
        first, second = (torch.load(tmp_path / f"{codebook_type}{rank}.pt", weights_only=True) for rank in range(2))
        assert first["steps"] == second["steps"] == 3
        assert first["loss"] != second["loss"]  # each saw its own data
        untrained = make_student(quantizer={"codebook_type": codebook_type}).state_dict()
        assert not torch.equal(first["student"]["code_projection.weight"], untrained["code_projection.weight"])
        for model in ("student", "teacher"):
            for key, value in first[model].items():
                assert torch.equal(value, second[model][key]), (codebook_type, model, key)
