"""Checkpoints of the published code become weights of this bundle; wrong files are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest
import torch
from support.bundle_runs import CohortFolder, make_volumes, refused, run_here
from support.foundation_parts import grey_image, published_state
from torch import Tensor

from scripts.published import __main__ as convert_checkpoint
from scripts.published.parity import Comparison, nearer_codes
from scripts.published.published_checkpoint import ConversionError, convert, read_published

#: of the converted state, recorded when the published code gave the same: all codes, logits within 4.2e-7
CODES = [2651, 12373, 3659, 7894, 10954, 9890, 4939, 13773, 10678, 12288, 5763, 12946, 3659, 1586, 14698, 4544]
CORNER = [-0.04250687, -0.09099594, -0.06397231, -0.01443275]
INSIDE = [0.05265855, -0.05207133, 0.08093058, -0.22641374]
MEAN, STD = -0.01620093, 0.09759174


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return published_state()


@pytest.fixture(scope="module")
def checkpoint(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "segmentation_model_iter1000.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def converted(checkpoint: Path) -> Path:
    """A folder with what the script made of the checkpoint."""
    output = checkpoint.parent / "converted"
    labels = "background, right ventricle, myocardium, left ventricle"
    arguments = [
        "--checkpoint",
        str(checkpoint),
        "--output",
        str(output),
        "--labels",
        labels,
        "--patch-size",
        "28",
        "42",
    ]
    convert_checkpoint.main(arguments)
    return output


def test_the_converted_network_gives_the_recorded_logits_and_codes(checkpoint: Path) -> None:
    network = convert(read_published(checkpoint))
    codes: list[Tensor] = []
    network.get_submodule("quantizer").register_forward_hook(lambda *args: codes.append(args[-1].indices))
    with torch.no_grad():
        logits = network(grey_image((56, 56)))
    assert codes[0].flatten().tolist() == CODES
    assert logits[0, :, 0, 0].tolist() == pytest.approx(CORNER, abs=1e-5)
    assert logits[0, :, 20, 33].tolist() == pytest.approx(INSIDE, abs=1e-5)
    assert (logits.mean().item(), logits.std().item()) == pytest.approx((MEAN, STD), abs=1e-5)


@pytest.mark.parametrize("prefix", ["module.model.", "model.", ""])
@pytest.mark.parametrize("entry", [None, "model", "state_dict"])
def test_prefixes_and_wrapping_entries_are_looked_through(tmp_path: Path, prefix: str, entry: str | None) -> None:
    names = ["backbone.pos_embed", "vq.codebook.weight", "vq.embedding_proj.weight", "vq.embedding_proj.bias"]
    names += ["head.scratch.output_conv.2.weight", "head.scratch.layer1_rn.weight"]
    names += [f"head.projects.{level}.weight" for level in range(4)]
    content: Any = {f"{prefix}{name}": torch.zeros(1) for name in names}
    torch.save({entry: content, "epoch": 3} if entry else content, tmp_path / "file.pth")
    assert list(read_published(tmp_path / "file.pth")) == names


def test_the_record_says_what_the_weights_need(converted: Path) -> None:
    record = json.loads((converted / "model.json").read_text())
    assert record["network"]["architecture"] == "DINOv2DPTNet"
    assert record["network"]["encoder"] == "dinov2_vits14"
    assert record["network"]["num_embeddings"] == 16384
    assert record["labels"]["2"] == "myocardium"
    assert record["preprocessing"]["patch_size"] == [28, 42]
    assert record["info"] == {"converted_from": "segmentation_model_iter1000.pth"}


def test_converted_weights_evaluate_and_infer(cohort: CohortFolder, converted: Path, tmp_path: Path) -> None:
    record = json.loads((converted / "model.json").read_text())
    cohort.datalist["labels"] = record["labels"]
    cohort.datalist["test"] = cohort.datalist["test"][:1]
    cohort.save()
    places = {"checkpoint": str(converted / "model.pt"), "device": "cpu"}
    out = str(tmp_path / "out")
    run_here("evaluating", "train.json", "evaluate.json", dataset_dir=str(cohort.root), output_dir=out, **places)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["num_cases"] == 1
    folder = tmp_path / "volumes"
    folder.mkdir()
    nib.save(make_volumes(9)[0], folder / "new.nii.gz")
    run_here("inference", "inference.json", dataset_dir=str(folder), output_dir=str(tmp_path / "in"), **places)
    assert nib.load(tmp_path / "in" / "predictions" / "new_pred.nii.gz").shape == (32, 32, 4)
    message = "labels#0: weights background, configuration other"
    cohort.datalist["labels"] = {**record["labels"], "0": "other"}
    cohort.save()
    evaluation = ("evaluating", "train.json", "evaluate.json")
    refused(tmp_path / "none", message, *evaluation, dataset_dir=str(cohort.root), **places)


def test_nothing_is_overwritten(checkpoint: Path, converted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (converted / "model.pt").stat().st_mtime_ns
    with pytest.raises(SystemExit, match="2"):
        convert_checkpoint.main(["--checkpoint", str(checkpoint), "--output", str(converted)])
    assert "model.pt exists there; give another folder" in capsys.readouterr().err
    assert (converted / "model.pt").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "words, message",
    [
        (["--labels", "background,heart"], "the checkpoint has 4 classes, expected as many names"),
        (["--patch-size", "224", "200"], "--patch-size must be multiples of 14"),
    ],
)
def test_wrong_options_are_refused(
    checkpoint: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        convert_checkpoint.main(["--checkpoint", str(checkpoint), "--output", str(tmp_path / "out"), *words])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [[], ["--checkpoint", "x.pth"], ["--output", "x", "--reference-code", "y"]])
def test_incomplete_commands_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        convert_checkpoint.main(words)
    assert "error: " in capsys.readouterr().err


def test_wrong_files_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"none\.pth: there is no such file"):
        read_published(tmp_path / "none.pth")
    path = tmp_path / "file.pth"
    content = checkpoint.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"no weights"):
        path.write_bytes(damaged)
        with pytest.raises(ConversionError, match=r"file\.pth: damaged, incomplete or not a checkpoint"):
            read_published(path)
    torch.save({"epoch": 3, "optimizer": {}}, path)
    with pytest.raises(ConversionError, match=r"file\.pth: expected tensors under names, found entries epoch, optim"):
        read_published(path)
    torch.save(torch.zeros(3), path)
    with pytest.raises(ConversionError, match=r"file\.pth: expected tensors under names, found Tensor"):
        read_published(path)
    torch.save({"conv.weight": torch.zeros(3)}, path)
    with pytest.raises(ConversionError, match=r"file\.pth: not a checkpoint of the published VQ-Seg code, it lacks"):
        read_published(path)


def test_a_program_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"weights": Path("x")}, tmp_path / "file.pth")
    with pytest.raises(ConversionError, match=r"damaged, incomplete or not a checkpoint \(UnpicklingError\)"):
        read_published(tmp_path / "file.pth")


def test_other_sizes_are_refused(state: dict[str, Tensor]) -> None:
    bare = {name.removeprefix("model."): value for name, value in state.items()}
    narrow = {**bare, "backbone.pos_embed": torch.zeros(1, 1370, 100)}
    with pytest.raises(ConversionError, match=r"is 100 wide, which none of the published encoders is: 384 \(small\)"):
        convert(narrow)
    without = {name: value for name, value in bare.items() if name != "backbone.blocks.7.norm1.bias"}
    with pytest.raises(
        ConversionError, match=r"encoder small: .*1 entries missing \['encoder\.blocks\.7\.norm1\.bias'\]"
    ):
        convert(without)
    with pytest.raises(ConversionError, match=r"encoder small: .*1 unexpected \['head\.extra'\]"):
        convert({**bare, "head.extra": torch.zeros(1)})


def test_a_code_that_float32_rounds_away_is_told_from_a_wrong_one() -> None:
    far = 375.0  # where float32 has steps of 3e-5, so that the squared distances of codes 0 and 1 are equal in it
    features = torch.tensor([[far**0.5, 0.0], [far**0.5, 0.0], [0.0, 1.0]])
    codewords = torch.tensor([[0.0, 0.0], [2e-7, 0.0], [0.0, 1.0]])
    plain = features.square().sum(1, keepdim=True) + codewords.square().sum(1) - 2 * features @ codewords.T
    assert plain[0, 0] == plain[0, 1]
    ours, theirs = torch.tensor([1, 0, 2]), torch.tensor([0, 1, 2])
    assert nearer_codes(features, codewords, ours, theirs) == 1


@pytest.mark.parametrize(
    "differing, nearer, difference, agree",
    [(0, 0, 1e-6, True), (0, 0, 2e-4, False), (2, 2, 5e-3, True), (2, 1, 1e-6, False)],
)
def test_the_proof_accepts_other_codes_only_where_ours_are_nearer(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    differing: int,
    nearer: int,
    difference: float,
    agree: bool,
) -> None:
    found = Comparison((28, 28), 8, 5, differing, nearer, largest_logit=1.0, largest_difference=difference)
    monkeypatch.setattr(convert_checkpoint, "compare", lambda *arguments: [found])
    if agree:
        convert_checkpoint.main(["--reference-code", "x"])
    else:
        with pytest.raises(SystemExit, match="2"):
            convert_checkpoint.main(["--reference-code", "x"])
    told = capsys.readouterr()
    assert ("they differ: expected equal codes" in told.err) is not agree
    assert (f"ours nearer in float64 for {nearer}" in told.out) is (differing > 0)


def test_the_proof_wants_a_checkout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        convert_checkpoint.main(["--reference-code", str(tmp_path)])
    assert "expected a checkout of the published VQ-Seg code, found no" in capsys.readouterr().err
