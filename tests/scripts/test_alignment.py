"""What a training's adapter learned: retrieval by hand, the loss's course, and the whole command on a small run."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path

import pytest
import torch
from support.bundle_runs import TINY, run_here
from support.foundation_parts import PatchMeans
from torch.utils.tensorboard import SummaryWriter

from scripts.alignment import __main__ as measure_alignment
from scripts.alignment.loss_course import loss_course, read_scalar
from scripts.alignment.measure import CHANCE, POSITION, SHUFFLED, measure_slices, retrieved, shuffled
from scripts.alignment.picture import centered
from scripts.alignment.trained_run import TRAINED, UNTRAINED
from scripts.alignment.views import SlicePatches, ViewFeatures, as_patches
from scripts.figures.token_map import principal_colors
from vqseg_bundle import networks
from vqseg_bundle.layers import PostVQFeatureAdapter
from vqseg_bundle.losses import PatchInfoNCELoss
from vqseg_bundle.networks import VQSegNet, VQSegTrainingModule

ITERATIONS = 40


def test_a_patch_is_retrieved_where_its_own_key_is_the_nearest():
    keys = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    # of the second query the third key is nearer: cosine 0.98 against 0.83
    queries = torch.tensor([[5.0, 0.1], [2.0, 3.0], [1.0, 1.0]])
    assert retrieved(queries, keys).tolist() == [1.0, 0.0, 1.0]
    assert retrieved(queries[None], keys[None]).tolist() == [[1.0, 0.0, 1.0]]


def test_equally_near_keys_share_the_hit():
    keys = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    queries = torch.tensor([[1.0, 0.2], [0.2, 1.0], [0.0, 1.0], [1.0, 0.0]])
    assert retrieved(queries, keys).tolist() == [0.5, 0.0, 0.5, 0.0]
    assert retrieved(torch.ones(5, 2), torch.ones(5, 2)).tolist() == pytest.approx([0.2] * 5)


def test_over_all_permutations_of_the_keys_one_in_n_is_retrieved():
    keys, queries = torch.eye(4), torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    shares = [retrieved(queries, keys[list(order)]).mean().item() for order in itertools.permutations(range(4))]
    assert sum(shares) / len(shares) == pytest.approx(1 / 4)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"same shape, got \(2, 3\) and \(3, 3\)"):
        retrieved(torch.ones(2, 3), torch.ones(3, 3))


def test_shuffling_keeps_the_keys_of_a_slice_in_the_slice():
    keys = torch.arange(3 * 50 * 2, dtype=torch.float32).view(3, 50, 2)
    found = shuffled(keys, torch.Generator().manual_seed(0))
    assert torch.equal(found[..., 0].sort(dim=1).values, keys[..., 0])
    assert torch.equal(found[..., 1], found[..., 0] + 1)
    orders = (found[..., 0] - keys[:, :1, 0]).tolist()
    assert orders[0] != orders[1] != orders[2]
    assert torch.equal(shuffled(keys, torch.Generator().manual_seed(0)), found)


def test_patches_are_rows_of_the_map_and_slices_of_a_volume_join_the_batch():
    image = torch.arange(12.0).view(1, 2, 2, 3)
    assert as_patches(image)[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5]
    volume = torch.stack((image, image + 100), dim=-1)
    assert torch.equal(as_patches(volume), torch.cat((as_patches(image), as_patches(image + 100))))


def test_the_course_of_a_loss_by_hand():
    values = {10: 4.0, 20: 2.0, 30: 9.0, 170: 9.0, 180: 9.0, 190: 1.0, 200: 1.5, 210: 9.0}
    course = loss_course(values, 200)
    assert (course.first.first_step, course.first.last_step, course.first.recorded, course.first.mean) == (10, 20, 2, 3)
    assert (course.last.first_step, course.last.last_step, course.last.recorded, course.last.mean) == (
        190,
        200,
        2,
        1.25,
    )
    assert course.first.standard_error == pytest.approx(math.sqrt(2) / math.sqrt(2))
    assert course.last.standard_error == pytest.approx(0.25)
    assert course.margin == 1.75
    assert course.margin_standard_error == pytest.approx(math.sqrt(1 + 0.0625))


def test_a_training_too_short_for_a_course_is_refused():
    with pytest.raises(ValueError, match=r"the first tenth of 100 steps holds 1 recorded losses.*train 200 steps"):
        loss_course({10: 1.0, 20: 1.0, 100: 1.0}, 100)
    with pytest.raises(ValueError, match=r"the last tenth of 200 steps holds 0 recorded"):
        loss_course({10: 1.0, 20: 1.0}, 200)


def test_of_a_step_trained_again_the_later_file_counts(tmp_path):
    for moment, steps in ((1, {10: 4.0, 20: 3.0, 30: 2.0}), (2, {30: 2.5, 40: 1.0})):
        with SummaryWriter(str(tmp_path)) as writer:
            for step, value in steps.items():
                writer.add_scalar("loss_alignment", value, step)
        written = max(tmp_path.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns)
        written.rename(tmp_path / f"events.out.tfevents.{moment}.host")
    assert read_scalar(tmp_path, "loss_alignment") == {10: 4.0, 20: 3.0, 30: 2.5, 40: 1.0}
    with pytest.raises(ValueError, match="expected the scalar loss_other, found none"):
        read_scalar(tmp_path, "loss_other")
    with pytest.raises(FileNotFoundError, match="expected TensorBoard's event files in it, found none"):
        read_scalar(tmp_path / "nowhere", "loss_alignment")


def slices_of(count: int, seed: int) -> SlicePatches:
    foundation = torch.randn(count, 4, 8, generator=torch.Generator().manual_seed(seed))
    adapted = {TRAINED: 3 * foundation, UNTRAINED: foundation.roll(1, dims=1)}
    return SlicePatches(torch.zeros(count, 2, 2), adapted, foundation, (2, 2))


def test_rows_of_perfect_features_of_features_one_place_off_and_of_chance():
    measured = measure_slices(iter([slices_of(2, 0), slices_of(1, 1)]), TRAINED, PatchInfoNCELoss(), 2, 0)
    rows = {row.name: row for row in measured.rows}
    assert (measured.slices, measured.grid, measured.batch_size) == (3, (2, 2), 2)
    assert (rows[TRAINED].in_slice, rows[TRAINED].in_batch) == (1.0, 1.0)
    assert (rows[UNTRAINED].in_slice, rows[UNTRAINED].in_batch) == (0.0, 0.0)
    assert rows[TRAINED].loss < 0.1 < math.log(4) < rows[UNTRAINED].loss
    # a batch of two slices and one of one: one hit each of 12 patches
    assert (rows[CHANCE].in_slice, rows[CHANCE].in_batch) == (pytest.approx(1 / 4), pytest.approx(2 / 12))
    assert rows[CHANCE].loss == pytest.approx(math.log(4))
    assert rows[SHUFFLED].in_slice < 1


def test_a_place_tells_as_much_as_the_other_volumes_share():
    same = torch.eye(4).expand(2, 4, 4)
    turned = same.roll(1, dims=1)
    volumes = [SlicePatches(torch.zeros(2, 2, 2), {TRAINED: keys}, keys, (2, 2)) for keys in (same, same, turned)]
    rows = {row.name: row for row in measure_slices(volumes, TRAINED, PatchInfoNCELoss(), 6, 0).rows}
    # the others tell the first and the second one place and the next, equally loud: half a hit; the third a wrong one
    assert rows[POSITION].in_slice == pytest.approx((0.5 + 0.5 + 0.0) / 3)
    # among six slices, each with the two keys that are equally near
    assert rows[POSITION].in_batch == pytest.approx(2 / 3 * 1 / 12)
    alone = measure_slices(volumes[:1], TRAINED, PatchInfoNCELoss(), 6, 0)
    assert POSITION not in {row.name for row in alone.rows}


def test_the_shuffled_control_is_at_chance():
    volumes = (slices_of(8, seed) for seed in range(60))
    rows = {row.name: row for row in measure_slices(volumes, TRAINED, PatchInfoNCELoss(), 8, 0).rows}
    # of 1,920 patches; four standard deviations of a count with mean 480, and of one with mean 60
    assert rows[SHUFFLED].in_slice == pytest.approx(1 / 4, abs=0.04)
    assert rows[SHUFFLED].in_batch == pytest.approx(1 / 32, abs=0.017)


@pytest.mark.parametrize(
    "volumes, size, message", [([], 2, "at least one volume"), ([1], 1, "at least 2 slices, got 1")]
)
def test_nothing_to_measure_is_refused(volumes, size, message):
    with pytest.raises(ValueError, match=message):
        measure_slices(volumes, TRAINED, PatchInfoNCELoss(), size, 0)


@pytest.mark.parametrize("dims", [2, 3])
def test_features_are_those_that_training_compares(dims):
    torch.manual_seed(0)
    network = VQSegNet(dims, 1, 2, channels=(4, 8), strides=(2,), num_embeddings=16, embedding_dim=4)
    adapter, foundation = PostVQFeatureAdapter(dims, 4, 3), PatchMeans(28)
    depth = None if dims == 2 else 2
    features = ViewFeatures(network, {"ours": adapter}, foundation, depth, [16, 16, 4][:dims], batch_size=2)
    volume = torch.randn(1, 20, 18, 6)
    found = features(volume)
    view = volume[:, 2:18, 1:17]
    images = view.movedim(-1, 0) if dims == 2 else view[..., 1:5].unsqueeze(0)
    module = VQSegTrainingModule(network, None, adapter).eval()
    grid = (2, 2) if dims == 2 else (2, 2, 2)
    expected = as_patches(module(images, grid=grid).adapted)
    torch.testing.assert_close(found.adapted["ours"], expected)
    target = foundation(images) if dims == 2 else foundation(images, depth=2)
    torch.testing.assert_close(found.foundation, as_patches(target))
    shown = images[:, 0] if dims == 2 else images[0, 0, ..., [1, 3]].movedim(-1, 0)
    assert torch.equal(found.images, shown)


def test_like_features_have_like_colours():
    features = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 3, 2, 0, 0, 0])
    reference = centered(features)
    assert reference.mean(dim=0).abs().max() < 1e-6
    first, same, other = principal_colors(reference, [centered(7 * features), -reference])
    torch.testing.assert_close(same, first)
    assert not torch.allclose(other, same, atol=0.1)
    assert (first.min().item(), first.max().item()) == (0, 1)
    assert bool((first.std(dim=0) > 0.15).all())


@pytest.fixture(scope="module")
def run(shared_cohort, tmp_path_factory):
    """A training with a small stand-in for the foundation model, every step recorded."""
    output = tmp_path_factory.mktemp("alignment") / "out"
    settings = {
        **TINY,
        "max_iterations": ITERATIONS,
        "iterations_per_epoch": ITERATIONS,
        "foundation_model": "dinov2_vits14",
        "foundation_image_size": 56,
        "train_handlers#tensorboard#iteration_log": True,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "build_foundation_model", lambda name, weights, size: PatchMeans(size))
        run_here("training", "train.json", dataset_dir=str(shared_cohort.root), output_dir=str(output), **settings)
        yield output


def test_the_command_measures_a_run_and_keeps_what_it_found(run, tmp_path, capsys):
    output, figure = tmp_path / "found.json", tmp_path / "picture.png"
    words = ["--run", str(run), "--device", "cpu", "--output", str(output)]
    measure_alignment.main([*words, "--split", "unlabeled", "--figure", str(figure)])
    found = json.loads(output.read_text())
    assert found["cases"] == ["case_2.nii.gz", "case_3.nii.gz"]
    assert (found["iterations"], found["split"], found["grid"], found["slices"]) == (ITERATIONS, "unlabeled", [4, 4], 8)
    course = found["training_loss"]
    assert [course[part][key] for part in ("first", "last") for key in ("first_step", "last_step")] == [1, 4, 37, 40]
    assert course["margin"] == pytest.approx(course["first"]["mean"] - course["last"]["mean"])
    retrieval = found["retrieval"]
    assert set(retrieval) == {TRAINED, UNTRAINED, SHUFFLED, POSITION, CHANCE}
    assert retrieval[CHANCE]["slice"] == pytest.approx(1 / 16)
    assert retrieval[CHANCE]["batch"] == pytest.approx(1 / (8 * 16))
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "trained adapter" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        measure_alignment.main(words)
    assert "found.json: the file exists; give another name, or --force" in capsys.readouterr().err
    measure_alignment.main([*words, "--force", "--network", "teacher", "--split", "unlabeled", "--cases", "1"])
    other = json.loads(output.read_text())
    assert (other["network"], other["cases"]) == ("teacher", ["case_2.nii.gz"])
    assert other["retrieval"][TRAINED]["loss"] != retrieval[TRAINED]["loss"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cases", "0"], "--cases must be at least 1, got 0"),
        (["--device", "nothing"], "device must be 'cpu', 'cuda' or 'cuda:N', got 'nothing'"),
        (["--batch-size", "1"], "batch_size must be at least 2 slices, got 1"),
    ],
)
def test_the_command_ends_with_a_message(run, tmp_path, capsys, words, message):
    with pytest.raises(SystemExit, match="2"):
        measure_alignment.main(["--run", str(run), "--output", str(tmp_path / "a.json"), "--device", "cpu", *words])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a.json").exists()


def test_other_cases_than_the_trainings_can_be_named(run, tmp_path, shared_cohort):
    output, datalist = tmp_path / "a.json", tmp_path / "other.json"
    cases = [{"image": "images/case_4.nii.gz"}]
    datalist.write_text(json.dumps({"labels": {"0": "nothing", "1": "else"}, "training": [], "unlabeled": cases}))
    words = ["--run", str(run), "--output", str(output), "--device", "cpu", "--split", "unlabeled"]
    measure_alignment.main([*words, "--datalist", str(datalist), "--dataset-dir", str(shared_cohort.root)])
    assert json.loads(output.read_text())["cases"] == ["case_4.nii.gz"]
    with pytest.raises(SystemExit, match=r"datalist nowhere\.json: no such file"):
        measure_alignment.main([*words, "--force", "--datalist", "nowhere.json"])


def spoil(folder: Path, name: str, content: str | None) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, r"config\.json not found: --run must name the output folder of a training"),
        ("config.json", "{", r"config\.json is not valid JSON"),
        ("config.json", '{"foundation_model": "none"}', "this training had no adapter. Train with configs/pfa.json"),
        ("model.json", None, r"model\.json not found"),
        ("resume.pt", None, r"resume\.pt not found: the adapter is only in the training's own checkpoint"),
        ("resume.pt", "no checkpoint", r"resume\.pt: cannot be read"),
    ],
)
def test_a_folder_that_cannot_be_measured_is_refused(run, tmp_path, capsys, name, content, message):
    for each in ("config.json", "model.json", "resume.pt"):
        (tmp_path / each).write_bytes((run / each).read_bytes())
    spoil(tmp_path, name, content)
    with pytest.raises(SystemExit, match="2"):
        measure_alignment.main(["--run", str(tmp_path), "--device", "cpu"])
    error = capsys.readouterr().err
    assert re.search(message, error)
