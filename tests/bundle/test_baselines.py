"""The baselines' overlays of the training configuration: what each sets, and two steps of each."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import CutMix
from support.bundle_runs import CONFIGS, TINY, CohortFolder, refused, run_here

from vqseg_bundle import engines, layers, losses

FOLDER = CONFIGS / "baselines"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
#: Same for all by design: backbone, data, views, labelled loss, optimiser, budget, evaluation.
SHARED = (
    "labeled_batch_size",
    "unlabeled_batch_size",
    "learning_rate",
    "lambda_dice",
    "max_iterations",
    "volume_transforms",
    "labeled_crop",
    "unlabeled_crop",
    "geometric_transforms",
    "strong_transforms",
    "optimizer",
    "lr_scheduler",
    "validate",
    "network_def#channels",
    "loss#segmentation_loss",
)


def settings_of(name: str) -> dict[str, Any]:
    """A training of two steps, without overriding what the baseline sets."""
    own = json.loads((FOLDER / f"{name}.json").read_text())
    tiny = {**TINY, "max_iterations": 2, "iterations_per_epoch": 2}
    # networks of two steps are sure of nothing: a threshold would leave out every pseudo-label
    return {**{key: value for key, value in tiny.items() if key not in own}, "confidence_threshold": 0.2}


@pytest.fixture(scope="module")
def trained(shared_cohort: CohortFolder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ConfigParser]:
    """Each baseline after two steps."""
    folder = tmp_path_factory.mktemp("baselines")
    where = {"dataset_dir": str(shared_cohort.root)}
    return {
        name: run_here(
            "training",
            "train.json",
            FOLDER / f"{name}.json",
            before=_keep_initial,
            **where,
            output_dir=str(folder / name),
            **settings_of(name),
        )
        for name in NAMES
    }


def _keep_initial(parser: ConfigParser) -> None:
    state = part(parser, "network").state_dict()
    parser["initial"] = {key: value.clone() for key, value in state.items()}


def part(parser: ConfigParser, name: str) -> Any:
    return parser.get_parsed_content(name)


def views(parser: ConfigParser) -> list[str]:
    return [stream.view for stream in part(parser, "train#trainer").streams]


def test_every_baseline_is_here() -> None:
    assert NAMES == ["dropout_twin", "mean_teacher", "ua_mt", "unimatch", "unimatch_vq"]


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_are_finite_and_change_the_student_and_its_teacher(
    trained: dict[str, ConfigParser], name: str
) -> None:
    trainer = part(trained[name], "train#trainer")
    terms = {key: value.item() for key, value in trainer.state.output["terms"]._asdict().items()}
    assert trainer.state.iteration == 2
    assert all(math.isfinite(value) for value in terms.values())
    assert terms["labeled_segmentation"] > 0
    assert terms["unlabeled_segmentation"] > 0
    assert (terms["unlabeled_reconstruction"] > 0) == (name == "dropout_twin")
    before = part(trained[name], "initial")
    moved = {key: value - before[key] for key, value in trainer.student.state_dict().items() if "conv" in key}
    followed = {key: trainer.teacher.module.state_dict()[key] - before[key] for key in moved}
    for key, step in moved.items():
        assert step.abs().max() > 0, key
        # early the teacher is the mean of the weights so far, which lies on the way
        assert 0 < followed[key].norm() < step.norm(), key
    assert trainer.teacher.n_averaged.item() == 3


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shared_stays_as_it_is(name: str) -> None:
    files = [str(CONFIGS / "train.json"), str(FOLDER / f"{name}.json")]
    default, overlaid = ConfigParser(ConfigParser.load_config_file(files[0])), ConfigParser()
    overlaid.config = ConfigParser.load_config_files(files)
    for key in SHARED:
        assert overlaid[key] == default[key], key


@pytest.mark.parametrize("name", ["mean_teacher", "ua_mt", "unimatch"])
def test_plain_baselines_have_neither_quantiser_nor_image_decoder(trained: dict[str, ConfigParser], name: str) -> None:
    network = part(trained[name], "network")
    assert network.quantizer is None
    assert {key.split(".")[0] for key in network.state_dict()} == {"encoder", "segmentation_decoder"}


def test_mean_teacher(trained: dict[str, ConfigParser]) -> None:
    parser = trained["mean_teacher"]
    trainer = part(parser, "train#trainer")
    assert trainer.pseudo_labeler is trainer.teacher
    assert isinstance(trainer.loss_function.consistency_loss, losses.MeanSquaredConsistencyLoss)
    assert trainer.streams == (engines.UnlabeledStream("strong", perturbed=False, mixed=False),)
    # published: 0.1 beside half of cross-entropy plus Dice, ramped up over the whole training
    assert trainer.loss_function.lambda_u == 0.1 / 0.5
    assert (trainer.ramp_up_share, trainer.teacher.decay) == (1.0, 0.99)
    assert part(parser, "perturbation") is None
    assert part(parser, "network_def").arguments["dropout"] == 0.0


def test_ua_mt_is_mean_teacher_with_a_teacher_that_knows_its_uncertainty(trained: dict[str, ConfigParser]) -> None:
    trainer, plain = (part(trained[name], "train#trainer") for name in ("ua_mt", "mean_teacher"))
    labeler = trainer.pseudo_labeler
    assert isinstance(labeler, engines.MonteCarloTeacher)
    assert labeler.teacher is trainer.teacher
    assert (labeler.samples, labeler.noise_std, labeler.noise_bound) == (8, 0.1, 0.2)
    assert isinstance(trainer.loss_function.consistency_loss, losses.UncertaintyMaskedConsistencyLoss)
    assert trainer.loss_function.consistency_loss.initial_share == 0.75
    for key in ("streams", "ramp_up_share"):
        assert getattr(trainer, key) == getattr(plain, key)
    assert trainer.loss_function.lambda_u == plain.loss_function.lambda_u
    assert part(trained["ua_mt"], "network_def").arguments["dropout"] > 0


@pytest.mark.parametrize("name", ["unimatch", "unimatch_vq"])
def test_unimatch(trained: dict[str, ConfigParser], name: str) -> None:
    parser = trained[name]
    trainer, module = part(parser, "train#trainer"), part(parser, "training_module")
    assert isinstance(trainer.pseudo_labeler, engines.StudentPseudoLabeler)
    assert trainer.pseudo_labeler.network is trainer.student
    assert trainer.streams == (
        engines.UnlabeledStream("strong", perturbed=False, mixed=True, weight=0.25),
        engines.UnlabeledStream("strong_2", perturbed=False, mixed=True, weight=0.25),
        engines.UnlabeledStream("image", perturbed=True, mixed=False, weight=0.5),
    )
    assert isinstance(module.perturbation, layers.FeatureDropout)
    assert (module.perturbation.perturb_prob, module.perturbation.mode, module.perturb_skips) == (0.5, "channel", True)
    consistency = trainer.loss_function.consistency_loss
    assert json.loads((FOLDER / f"{name}.json").read_text())["confidence_threshold"] == 0.95
    assert consistency.confidence_threshold == settings_of(name)["confidence_threshold"]
    assert str(consistency.segmentation_loss) != str(trainer.loss_function.segmentation_loss)
    # published: half of cross-entropy plus Dice on labels, Dice on pseudo-labels
    assert (consistency.segmentation_loss.lambda_cross_entropy, consistency.segmentation_loss.lambda_dice) == (0, 1)
    assert trainer.loss_function.lambda_u == 1.0 / 0.5
    assert trainer.ramp_up_share == 0.0
    assert (module.network.quantizer is None) == (name == "unimatch")
    assert module.network.reconstruction_decoder is None


def test_unimatch_mixes_unlabelled_images_with_each_other(trained: dict[str, ConfigParser]) -> None:
    assert all(isinstance(part(trained[name], "train#mixer"), CutMix) for name in ("unimatch", "unimatch_vq"))


def test_unimatch_vq_adds_the_quantiser_to_unimatch_and_nothing_else() -> None:
    plain, quantized = (json.loads((FOLDER / f"{name}.json").read_text()) for name in ("unimatch", "unimatch_vq"))
    assert plain.pop("network_def#num_embeddings", "absent") is None
    added = {key: value for key, value in quantized.items() if key not in plain}
    assert added == {"bottleneck_perturbation": None, "train_handlers#perturbation_ramp#_disabled_": True}
    assert {key: quantized[key] for key in plain} == plain


def test_the_second_strong_view_is_a_draw_of_its_own_of_the_same_transforms(trained: dict[str, ConfigParser]) -> None:
    parser = trained["unimatch"]
    augment = part(parser, "train#preprocessing").set_random_state(seed=5)
    drawn = [augment(case) for case in part(parser, "train#dataset").data * 40]
    differs = {
        key: torch.stack([(case[key] - case["image"]).abs().mean() for case in drawn]) for key in ("strong", "strong_2")
    }
    assert all(not torch.equal(case["strong"], case["strong_2"]) for case in drawn[:4])
    # 80 draws of one law: their means are as near as their spread allows
    spread = differs["strong"].std() / math.sqrt(len(drawn))
    assert abs(differs["strong"].mean() - differs["strong_2"].mean()) < 5 * spread
    assert differs["strong_2"].min() >= 0 < differs["strong_2"].max()


@pytest.mark.parametrize("name", ["dropout_twin", "mean_teacher"])
def test_without_a_stream_that_asks_there_is_no_second_view(trained: dict[str, ConfigParser], name: str) -> None:
    case = part(trained[name], "train#preprocessing")(part(trained[name], "train#dataset").data[0])
    assert "strong_2" not in case
    assert len(part(trained[name], "all_strong_transforms")) == len(part(trained[name], "strong_transforms"))


def test_the_dropout_twin_differs_from_vqseg_in_its_perturbation_alone() -> None:
    files = [str(CONFIGS / "train.json"), str(FOLDER / "dropout_twin.json")]
    default, twin = ConfigParser.load_config_file(files[0]), ConfigParser.load_config_files(files)
    assert {key for key in default if default[key] != twin[key]} == {
        "perturbation",
        "bottleneck_perturbation",
    }


def test_the_dropout_twin(trained: dict[str, ConfigParser]) -> None:
    module = part(trained["dropout_twin"], "training_module")
    assert isinstance(module.perturbation, layers.FeatureDropout)
    assert (module.perturbation.perturb_prob, module.perturbation.mode, module.perturb_skips) == (0.5, "channel", False)
    assert module.network.quantizer is not None
    assert module.network.reconstruction_decoder is not None


def test_two_streams_of_vqseg_need_nothing_but_their_key(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    streams = [{"view": "strong", "perturbed": flag, "weight": 0.5} for flag in (False, True)]
    where = {"dataset_dir": str(shared_cohort.root), "output_dir": str(tmp_path)}
    settings = {**TINY, "max_iterations": 1, "iterations_per_epoch": 1, "unlabeled_streams": streams}
    output = part(run_here("training", "train.json", **where, **settings), "train#trainer").state.output
    assert output["student"].unlabeled_logits.shape[0] == 2 * TINY["unlabeled_batch_size"]
    assert math.isfinite(output["loss"].item())


def test_unimatch_trains_volumes_too(shared_cohort: CohortFolder, tmp_path: Path) -> None:
    where = {"dataset_dir": str(shared_cohort.root), "output_dir": str(tmp_path)}
    small = {
        "patch_size": [32, 32, 4],
        "network_def#channels": [4, 8, 16],
        "network_def#strides": [[2, 2, 1], [2, 2, 2]],
    }
    settings = {**settings_of("unimatch"), **small, "max_iterations": 1, "iterations_per_epoch": 1}
    parser = run_here("training", "train.json", "train_3d.json", FOLDER / "unimatch.json", **where, **settings)
    output = part(parser, "train#trainer").state.output
    assert output["student"].unlabeled_logits.shape == (6, 3, 32, 32, 4)
    assert math.isfinite(output["loss"].item())


@pytest.mark.parametrize(
    ("overlay", "change", "message"),
    [
        ("dropout_twin", {"perturb_prob": 1.0}, r"perturbation: perturb_prob \(the dropout rate\) must lie in"),
        ("dropout_twin", {"unlabeled_streams": "strong"}, "streams: unlabeled_streams must be a list of at least one"),
        ("unimatch", {"unlabeled_streams": [{"view": "strong_3"}]}, "streams: view of an unlabelled stream must be"),
        ("unimatch", {"unlabeled_streams": [{"weight": 0.0}]}, "streams: weight of an unlabelled stream must be a"),
        (
            "unimatch",
            {"confidence_threshold": 1.5},
            r"--confidence_threshold: expected a number in \[0, 1\), found 1.5",
        ),
        ("ua_mt", {"network_def#dropout": 0.0}, "labeler: the teacher must have dropout layers"),
        ("ua_mt", {"labeler#samples": 0}, "labeler: samples must be at least 1, got 0"),
        ("mean_teacher", {"training_module#perturb_skips": True}, "training_module: perturb_skips needs a pert"),
    ],
)
def test_bad_settings_are_refused_before_the_first_step(
    shared_cohort: CohortFolder, tmp_path: Path, overlay: str, change: dict[str, Any], message: str
) -> None:
    command = ("training", "train.json", str(FOLDER / f"{overlay}.json"))
    settings = {**settings_of(overlay), "dataset_dir": str(shared_cohort.root), **change}
    refused(tmp_path, message, *command, **settings)
