"""Overlays of one another: what two of them set differently is said."""

from __future__ import annotations

from support.bundle_runs import ROOT

from vqseg_bundle.bundle.settings.overlay_order import overruled_settings

TRAIN, BASELINES = ROOT / "configs" / "train.json", ROOT / "configs" / "baselines"


def test_two_methods_in_one_training_are_named_with_what_they_set_differently() -> None:
    (sentence,) = overruled_settings([TRAIN, BASELINES / "mean_teacher.json", BASELINES / "unimatch.json"])
    assert sentence == (
        "mean_teacher.json and unimatch.json give other values for lambda_u, ramp_up_share, unlabeled_streams: those "
        "of unimatch.json, the later one, hold. Leave one out if they are two methods."
    )


def test_overlays_that_agree_or_only_override_the_training_are_silent() -> None:
    files = [TRAIN, ROOT / "configs" / "supervised.json", ROOT / "configs" / "pfa.json"]
    assert overruled_settings(files) == []
    assert overruled_settings([TRAIN, BASELINES / "ua_mt.json", ROOT / "configs" / "supervised.json"]) == []
