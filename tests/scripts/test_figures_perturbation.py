"""The figure of the two perturbations: its numbers are those of the layers and of the deployed network."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.bundle_runs import Trained

from scripts.figures.__main__ import main
from scripts.figures.kept_class import kept_class
from scripts.figures.perturbation_figure import describe, window
from scripts.figures.perturbation_sweep import Perturbed, mean_dice, perturbed_prediction, radius_curves, sweep
from scripts.figures.trained_network import Case, TrainedNetwork, display_slice, load_case, open_trained
from vqseg_bundle.layers import FeatureDropout, QuantizedPerturbation, dropout_kl_divergence, qpm_kl_divergence


@pytest.fixture(scope="module")
def network(trained: Trained) -> TrainedNetwork:
    return open_trained(trained.output_dir / "model.pt")


@pytest.fixture(scope="module")
def case(trained: Trained, network: TrainedNetwork) -> Case:
    folder = trained.cohort.root
    return load_case(network, folder / "images" / "turned.nii.gz", folder / "labels" / "turned.nii.gz")


@pytest.mark.parametrize("temperature", ["auto", 1.0])
def test_the_curves_are_the_layers_own_numbers(temperature: float | str) -> None:
    codebook = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    strengths = [0.0, 0.4, 0.9]
    curves = radius_curves({"mine": codebook}, strengths, temperature)
    assert list(curves) == ["dropout", "QPM, mine"]
    assert curves["dropout"] == [dropout_kl_divergence(strength) for strength in strengths]
    assert curves["QPM, mine"] == [qpm_kl_divergence(codebook, each, temperature).item() for each in strengths]
    assert curves["dropout"][2] == pytest.approx(0.5 * (9 + np.log(0.1)))


def test_a_sentence_says_what_the_figure_shows() -> None:
    curves = {"dropout": [0.1, 3.0], "QPM, mine": [0.1, 0.25], "QPM, random": [0.1, 0.2]}
    scores = {"QPM": [0.9, 0.88], "dropout": [0.9, 0.5]}
    results = [
        Perturbed(method, strength, torch.zeros(1), [dice, dice])
        for method, found in scores.items()
        for strength, dice in zip((0.0, 0.9), found, strict=True)
    ]
    assert describe([0.0, 0.95], curves, results) == (
        "At strength 0.95, dropout moves the distribution 12 times as far as QPM.\n"
        "Up to 0.9, mean Dice goes from 0.900 to 0.880 under QPM, and from 0.900 to 0.500 under dropout."
    )


@pytest.mark.parametrize("perturbation", [QuantizedPerturbation(0.0), FeatureDropout(0.0)])
def test_without_strength_it_is_the_deployed_prediction(
    network: TrainedNetwork, case: Case, perturbation: QuantizedPerturbation | FeatureDropout
) -> None:
    with torch.no_grad():
        expected = network.inferer(case.image[None], network.network)[0].argmax(dim=0)
    found = perturbed_prediction(network, case, perturbation, seed=0)
    assert torch.equal(found, expected)
    assert found.shape == case.image.shape[1:]


@pytest.mark.parametrize("perturbation", [QuantizedPerturbation(0.9), FeatureDropout(0.9)])
def test_a_perturbed_prediction_is_that_of_its_seed(
    network: TrainedNetwork, case: Case, perturbation: QuantizedPerturbation | FeatureDropout
) -> None:
    clean = perturbed_prediction(network, case, type(perturbation)(0.0), seed=0)
    first, again, other = (perturbed_prediction(network, case, perturbation, seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, clean)


def test_the_sweep_scores_each_draw_against_the_label(network: TrainedNetwork, case: Case) -> None:
    results = sweep(network, case, [0.0, 0.5], moves=QuantizedPerturbation(0.0, "auto"), draws=2, seed=7)
    assert [(each.method, each.strength, len(each.dice)) for each in results] == [
        ("QPM", 0.0, 1),
        ("QPM", 0.5, 2),
        ("dropout", 0.0, 1),
        ("dropout", 0.5, 2),
    ]
    assert case.label is not None
    qpm = QuantizedPerturbation(0.5, "auto")
    draws = [perturbed_prediction(network, case, qpm, seed) for seed in (7, 8)]
    assert torch.equal(results[1].prediction, draws[0])
    assert results[1].dice == [mean_dice(draw, case.label, 3) for draw in draws]


def test_without_a_label_dice_is_the_agreement_with_the_unperturbed_prediction(
    network: TrainedNetwork, case: Case
) -> None:
    results = sweep(
        network, case._replace(label=None), [0.0], moves=QuantizedPerturbation(0.0, "auto"), draws=1, seed=0
    )
    assert [each.dice for each in results] == [[1.0], [1.0]]


class OneCodeAPixel:
    """Tokens of 2 x 2 pixels; the image's value at their first pixel is the code."""

    stride = (2, 2)
    codebook = torch.tensor([[0.0], [1.0], [10.0], [11.0]])

    def encode(self, images: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(features=images[:, :, ::2, ::2])

    def project_codebook(self) -> torch.Tensor:
        return self.codebook

    def __call__(self, features: torch.Tensor, codebook: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(indices=features[:, 0].long())


def test_moves_between_neighbours_of_one_class_keep_it(network: TrainedNetwork, case: Case) -> None:
    """Codes 0 and 1 are background, 2 and 3 structure: a moved token goes to its neighbour, or to any of the four."""
    codes = torch.arange(4).repeat_interleave(2).expand(2, 8)[None, :, :, None].float()  # two equal slices' worth
    label = (codes[0] >= 2).long()
    stub = OneCodeAPixel()
    known = network._replace(network=stub, quantizer=stub, labels={0: "background", 1: "structure"})
    shown = case._replace(image=codes, label=label)
    near = kept_class(known, shown, QuantizedPerturbation(0.3, temperature=0.1), seed=0)
    assert near == (1.0, 1.0, 0.5, 0.5)
    far = kept_class(known, shown, QuantizedPerturbation(0.3, temperature=1e6), seed=0)
    assert far.all_tokens < 1.0
    with pytest.raises(ValueError, match="needs a label with a structure"):
        kept_class(known, shown._replace(label=torch.zeros_like(label)), QuantizedPerturbation(), seed=0)


def test_mean_dice_by_hand() -> None:
    """Class 1: 2 of 2 + 3 pixels shared, 0.8; class 2: none of 1 + 1; class 3 is in neither and does not count."""
    prediction = torch.tensor([[1, 1, 0, 2, 0, 0]])
    label = torch.tensor([[1, 1, 1, 0, 0, 2]])
    assert mean_dice(prediction, label, classes=4) == pytest.approx(0.4)
    assert np.isnan(mean_dice(prediction, torch.zeros_like(label), classes=4))


def test_the_window_is_a_square_around_the_foreground() -> None:
    mask = np.zeros((100, 90), dtype=bool)
    mask[40:60, 70:80] = True
    rows, columns = window(mask)
    assert (rows.stop - rows.start, columns.stop - columns.start) == (32, 32)
    assert rows.start <= 40
    assert columns.stop == 90
    mask[:, 10] = True
    assert window(mask) == (slice(0, 100), slice(0, 90))
    assert window(np.zeros((5, 6), dtype=bool)) == (slice(0, 5), slice(0, 6))


def test_the_slice_shown_is_the_one_with_most_label(case: Case) -> None:
    assert case.label is not None
    sums = [int((case.label[..., number] > 0).sum()) for number in range(case.label.shape[-1])]
    assert sums[display_slice(case, None)] == max(sums)
    assert display_slice(case._replace(label=None), None) == len(sums) // 2
    assert display_slice(case, 1) == 1


def test_the_command_draws_and_prints_what_it_draws(
    trained: Trained, network: TrainedNetwork, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = tmp_path / "figure.png"
    folder = trained.cohort.root
    words = ["--checkpoint", str(trained.output_dir / "model.pt"), "--image", str(folder / "images" / "case_5.nii.gz")]
    words += ["--label", str(folder / "labels" / "case_5.nii.gz"), "--strengths", "0,0.5", "--draws", "1"]
    main(["perturbation", *words, "--output", str(figure)])
    printed = capsys.readouterr().out
    codebook = network.quantizer.project_codebook().detach()
    radius = [qpm_kl_divergence(codebook, strength, "auto").item() for strength in (0.5, 0.9)]
    assert re.search(r"QPM's moves keep the class of \d+% of the tokens .*, of \d+\.\d% of the foreground's", printed)
    assert f"QPM, trained codebook: KL radius {radius[0]:.3g} at 0.5, {radius[1]:.3g} at 0.9" in printed
    assert len(re.findall(r"(?:QPM|dropout) 0(?:\.5)?: Dice \d\.\d{3}", printed)) == 4
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_without_weights_the_radius_alone_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["perturbation", "--output", str(tmp_path / "figure.png")])
    printed = capsys.readouterr().out
    assert "dropout: KL radius 0.153 at 0.5, 3.35 at 0.9" in printed
    assert "QPM, random codebook" in printed
    assert "trained" not in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--image", "a.nii.gz"], "--image needs --checkpoint"),
        (["--label", "a.nii.gz"], "--label needs --image"),
        (["--draws", "0"], "--draws must be at least 1, got 0"),
        (["--strengths", "0,1"], r"--strengths must lie in \[0, 1\): dropout of rate 1 keeps nothing"),
        (["--strengths", "0;1"], "--strengths: expected numbers such as"),
        (["--temperature", "-1"], '--temperature: expected "auto" or a positive number, found "-1"'),
        (["--temperature", "warm"], '--temperature: expected "auto" or a positive number, found "warm"'),
        (["--checkpoint", "missing/model.pt"], "missing/model.pt not found"),
    ],
)
def test_bad_arguments_end_with_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["perturbation", *words, "--output", str(tmp_path / "figure.png")])
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_a_label_of_another_image_is_refused(trained: Trained, network: TrainedNetwork) -> None:
    folder = trained.cohort.root
    with pytest.raises(ValueError, match=r"case_5\.nii\.gz: expected the image's size .* give the label of this image"):
        load_case(network, folder / "images" / "turned.nii.gz", folder / "labels" / "case_5.nii.gz")
