"""Two processes on the CPU, started by torchrun."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support.bundle_runs import (
    CONFIGS,
    ROOT,
    TINY,
    CohortFolder,
    Result,
    as_arguments,
    make_volumes,
    run_command,
    run_here,
    write_cohort,
)
from support.processes import free_port, run_as_rank, run_group

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="needs PyTorch's gloo backend")

# each process leaves what it holds after the last step; with more codes than tokens some are revived at every step
OVERLAY = {
    "codebook_maintenance#patience": 1,
    "codebook_maintenance#interval": 1,
    "kept": "$torch.save({'teacher': @teacher.module.state_dict(), 'student': @network.state_dict(), "
    "'validated': len(@validate#dataset#data), 'random': torch.get_rng_state(), "
    "'world': torch.distributed.get_world_size()}, os.path.join(@output_dir, 'kept_' + str(@rank) + '.tensors'))",
    "training": ["@together", "@kept", "@finished"],
}
FAILURE = {"+train#handlers": [{"_target_": "tests.support.process_failures.Fail", "how": "killed", "iteration": 5}]}


def run_processes(run_id: str, *configs: str | Path, **settings: Any) -> Result:
    """The command with torchrun, two processes."""
    names = [str(CONFIGS / name) for name in configs]
    launch = ["--standalone", "--nnodes=1", "--nproc_per_node=2", "-m", "monai.bundle", "run", run_id]
    arguments = [*launch, "--config_file", str(names), *as_arguments({"bundle_root": ROOT, **settings})]
    return run_command(*arguments, module="torch.distributed.run", timeout=240)


def write_overlay(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def uneven_cohort(tmp_path_factory: pytest.TempPathFactory) -> CohortFolder:
    """Three cases to validate on and three to test on."""
    cohort = write_cohort(tmp_path_factory.mktemp("uneven") / "cohort")
    for split, seeds in {"validation": (20, 21), "test": (30,)}.items():
        for seed in seeds:
            cohort.add(split, f"case_{seed}", *make_volumes(seed))
    cohort.save()
    return cohort


@pytest.fixture(scope="module")
def run(uneven_cohort: CohortFolder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    folder = tmp_path_factory.mktemp("processes")
    overlay = write_overlay(folder / "keep.json", OVERLAY)
    places = {
        "dataset_dir": uneven_cohort.root,
        "output_dir": folder / "out",
        **TINY,
        "network_def#num_embeddings": 512,
    }
    result = run_processes("training", "train.json", "multi_gpu_train.json", overlay, **places)
    assert result.returncode == 0, result.stdout + result.stderr
    return result, folder / "out"


def test_it_finishes_and_one_process_writes(run: tuple[Result, Path]) -> None:
    result, output_dir = run
    assert result.stdout.count("Epoch[2] Metrics -- val_mean_dice") == 1
    assert result.stdout.count("cohort nested: 2 labelled") == 1
    assert sorted(path.name for path in output_dir.glob("*.pt")) == ["model.pt", "resume.previous.pt", "resume.pt"]
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
    (best,) = re.findall(r"val_mean_dice best value: [\d.]+ at epoch: (\d+)", run[0].stdout)[-1:]
    assert int(best) == math.ceil(TINY["max_iterations"] / TINY["iterations_per_epoch"]), (
        "the last is not the best here"
    )
    for key, value in saved.items():
        torch.testing.assert_close(value, kept["teacher"][key], rtol=0, atol=0)


def test_the_validation_list_is_divided_and_its_score_is_that_of_the_whole(
    run: tuple[Result, Path], uneven_cohort: CohortFolder, tmp_path: Path
) -> None:
    kept = [torch.load(run[1] / f"kept_{rank}.tensors", weights_only=True) for rank in (0, 1)]
    assert [record["validated"] for record in kept] == [2, 1]
    best = max(float(score) for score in re.findall(r"val_mean_dice best value: ([\d.]+)", run[0].stdout))
    where = {"dataset_dir": str(uneven_cohort.root), "output_dir": str(tmp_path), "device": "cpu"}
    settings = {**where, "checkpoint": str(run[1] / "model.pt"), "evaluation_split": "validation"}
    settings["largest_component"] = []  # the score is that of the network alone
    parser = run_here("evaluating", "train.json", "evaluate.json", **settings)
    score = parser.get_parsed_content("validate#evaluator").state.metrics["val_mean_dice"]
    assert score == pytest.approx(best, abs=1e-6)
    assert score == json.loads((tmp_path / "summary.json").read_text())["overall"]["dice"]["mean"]


def test_an_evaluation_by_two_processes_is_that_of_one(
    run: tuple[Result, Path], uneven_cohort: CohortFolder, tmp_path: Path
) -> None:
    settings = {"dataset_dir": str(uneven_cohort.root), "checkpoint": str(run[1] / "model.pt")}
    one, two = tmp_path / "one", tmp_path / "two"
    run_here("evaluating", "train.json", "evaluate.json", **settings, output_dir=str(one), device="cpu")
    configs = ["train.json", "evaluate.json", "multi_gpu_evaluate.json"]
    run_group(run_as_rank, 2, 2, free_port(), "evaluating", configs, {**settings, "output_dir": str(two)})
    for name in ("metrics.csv", "summary.json"):
        assert (two / name).read_bytes() == (one / name).read_bytes()
    assert json.loads((two / "summary.json").read_text())["num_cases"] == 3
    predictions = [sorted(path.name for path in (folder / "predictions").iterdir()) for folder in (one, two)]
    assert predictions[0] == predictions[1] == [f"{name}_pred.nii.gz" for name in ("case_30", "case_5", "turned")]
    page = (two / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in ("case_30", "case_5", "turned"))
    assert (two / "evaluation.log").read_text().count("Metrics of 3 cases") == 1


def test_a_killed_process_ends_the_run_with_a_message_and_resume_goes_on(
    shared_cohort: CohortFolder, tmp_path: Path
) -> None:
    """One process dies in the second epoch; there are fewer validation cases than processes."""
    failure, overlay = write_overlay(tmp_path / "fail.json", FAILURE), write_overlay(tmp_path / "keep.json", OVERLAY)
    settings = {"dataset_dir": shared_cohort.root, "output_dir": tmp_path / "out", **TINY}
    failed = run_processes("training", "train.json", "multi_gpu_train.json", failure, **settings)
    output = failed.stdout + failed.stderr
    assert failed.returncode == 1
    assert "process 0 of 2 stops in iteration 5: another process has ended or has not answered in time" in output
    assert "Signal 9 (SIGKILL) received" in output

    saved = torch.load(tmp_path / "out" / "resume.pt", weights_only=True)
    assert saved["engine"]["iteration"] == 4

    settings |= {"resume": True, "resume_changed": True}  # the overlay maintains the codebook at other steps
    resumed = run_processes("training", "train.json", "multi_gpu_train.json", overlay, **settings)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert torch.load(tmp_path / "out" / "resume.pt", weights_only=True)["engine"]["iteration"] == 6
    kept = [torch.load(tmp_path / "out" / f"kept_{rank}.tensors", weights_only=True) for rank in (0, 1)]
    assert [record["validated"] for record in kept] == [1, 1]
    torch.testing.assert_close(kept[0]["teacher"], kept[1]["teacher"], rtol=0, atol=0)
    assert not torch.equal(kept[0]["random"], kept[1]["random"])


def test_without_torchrun_the_overlay_says_how_to_start_it(
    shared_cohort: CohortFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    settings = {"dataset_dir": str(shared_cohort.root), "output_dir": str(tmp_path), **TINY}
    with pytest.raises(SystemExit, match=r"run without torchrun \(RANK.* not set\). Start it by .torchrun"):
        run_here("training", "train.json", "multi_gpu_train.json", **settings)
