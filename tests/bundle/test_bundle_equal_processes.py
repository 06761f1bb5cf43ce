"""The bundle in two processes and in one: the same global batches of the same cohort give the same losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ignite.engine import Events
from monai.bundle import ConfigParser
from support.bundle_runs import TINY, write_cohort
from support.processes import free_port, run_as_rank, run_group

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="needs PyTorch's gloo backend")

STEPS = 5
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


def _train(rank: int, world: int, cohort: str, folder: str, port: int) -> None:
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
        run_group(_train, world, world, str(cohort.root), str(tmp_path), free_port())
    whole = torch.load(tmp_path / "losses_0_of_1.pt", weights_only=True)
    parts = [torch.load(tmp_path / f"losses_{rank}_of_2.pt", weights_only=True) for rank in range(2)]
    assert whole.shape == (STEPS, 8)
    assert (whole[:, 2] > 0).all()  # the masks keep something
    assert (torch.stack(parts).mean(dim=0) - whole).abs().max() < 1e-4
    assert (parts[0] - parts[1]).abs().max() > 1e-3  # each saw its own samples
