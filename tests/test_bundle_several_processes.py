"""Two processes on the CPU, started by torchrun."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from bundle_runs import CONFIGS, ROOT, TINY, CohortFolder, Result, as_arguments, run_command

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="needs PyTorch's gloo backend")

# each process leaves what it holds after the last step; with more codes than tokens some are revived at every step
OVERLAY = {
    "train#handlers#1#patience": 1,
    "train#handlers#1#interval": 1,
    "kept": "$torch.save({'teacher': @teacher.module.state_dict(), 'student': @network.state_dict(), "
    "'world': torch.distributed.get_world_size()}, os.path.join(@output_dir, 'kept_' + str(@rank) + '.tensors'))",
    "training": ["$@train#trainer.run()", "@kept", "@finished"],
}


@pytest.fixture(scope="module")
def run(shared_cohort: CohortFolder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    folder = tmp_path_factory.mktemp("processes")
    overlay = folder / "keep.json"
    overlay.write_text(json.dumps(OVERLAY))
    configs = [str(CONFIGS / "train.json"), str(CONFIGS / "multi_gpu_train.json"), str(overlay)]
    places = {"dataset_dir": shared_cohort.root, "output_dir": folder / "out", **TINY, "bundle_root": ROOT}
    places["network_def#num_embeddings"] = 512
    launch = ["--standalone", "--nnodes=1", "--nproc_per_node=2", "-m", "monai.bundle", "run", "training"]
    arguments = [*launch, "--config_file", str(configs), *as_arguments(places)]
    result = run_command(*arguments, module="torch.distributed.run")
    assert result.returncode == 0, result.stdout + result.stderr
    return result, folder / "out"


def test_it_finishes_and_one_process_writes(run: tuple[Result, Path]) -> None:
    result, output_dir = run
    assert result.stdout.count("Epoch[2] Metrics -- val_mean_dice") == 1
    assert result.stdout.count("cohort nested: 2 labelled") == 1
    assert sorted(path.name for path in output_dir.glob("*.pt")) == ["model.pt", "resume.pt"]
    assert not list(output_dir.glob("previous-*"))
    engine = torch.load(output_dir / "resume.pt", weights_only=True)["engine"]
    assert engine["iteration"] == 6


@pytest.mark.parametrize("network", ["teacher", "student"])
def test_both_processes_end_with_the_same_network(run: tuple[Result, Path], network: str) -> None:
    first, second = (torch.load(run[1] / f"kept_{rank}.tensors", weights_only=True) for rank in (0, 1))
    assert first["world"] == second["world"] == 2
    torch.testing.assert_close(second[network], first[network], rtol=0, atol=0)


def test_the_weights_saved_are_those_of_the_teacher(run: tuple[Result, Path]) -> None:
    kept = torch.load(run[1] / "kept_0.tensors", weights_only=True)
    resume = torch.load(run[1] / "resume.pt", weights_only=True)
    for key, value in kept["teacher"].items():
        torch.testing.assert_close(resume["teacher"][f"module.{key}"], value, rtol=0, atol=0)
    saved = torch.load(run[1] / "model.pt", weights_only=True)
    assert saved.keys() == {key for key in kept["teacher"] if not key.startswith("reconstruction_decoder.")}
