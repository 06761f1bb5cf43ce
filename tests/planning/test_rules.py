"""Each rule of the planning on cohorts whose plan is known beforehand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vqseg_bundle.planning import (
    PLANNED_IDS,
    BodyIntensities,
    Fingerprint,
    Machine,
    Pace,
    Plan,
    PlanError,
    make_plan,
)

CPU, CUDA = Machine("cpu", 8.0), Machine("cuda", 20.0, half=True)


def cohort(shape: tuple[int, ...], spacing: tuple[float, ...] = (1.0, 1.0, 1.0), count: int = 100, **more: Any) -> Any:
    return Fingerprint((tuple(shape),) * count, (tuple(spacing),) * count, **more)  # type: ignore[arg-type]


def plan(fingerprint: Fingerprint, machine: Machine = CPU, **given: Any) -> Plan:
    return make_plan(fingerprint, machine, {PLANNED_IDS[name]: (value, "given") for name, value in given.items()})


HIPPOCAMPUS = cohort((35, 50, 36))


def test_the_hippocampus_is_planned_as_nnu_net_plans_it() -> None:
    """nnU-Net's 2D plan: patch 56 x 40, three halvings; ours has half of its widths."""
    found = plan(HIPPOCAMPUS)
    assert (found.patch_size, found.strides, found.channels) == ([40, 56], [2, 2, 2], [16, 32, 64, 128])
    assert (found.code_level, found.reconstruction_channels) == (2, [8, 16])
    assert (found.spacing, found.image_size) == (None, None)
    assert (found.labeled_batch_size, found.unlabeled_batch_size, found.max_iterations) == (4, 4, 4000)


def test_the_demo_keeps_its_settings_on_every_machine() -> None:
    demo = cohort((96, 96, 12), (1.5, 1.5, 6.0), count=12)
    for machine in (CPU, CUDA):
        found = make_plan(demo, machine, demo=True)
        assert (found.spatial_dims, found.patch_size, found.strides) == (2, [96, 96], [2, 2, 2, 2])
        assert found.channels == [16, 32, 64, 128, 256]
        assert (found.code_level, found.reconstruction_channels) == (2, [8, 16])
        assert (found.labeled_batch_size, found.unlabeled_batch_size, found.max_iterations) == (4, 4, 1000)


@pytest.mark.parametrize(
    "patch, strides, tokens", [((64, 64), 3, 8), ((96, 96), 4, 6), ((128, 128), 4, 8), ((72, 72), 4, 5), ((8, 8), 1, 4)]
)
def test_an_axis_is_halved_while_it_has_more_than_eight_tokens(patch: tuple, strides: int, tokens: int) -> None:
    found = plan(cohort((*patch, 10)), patch_size=list(patch))
    assert found.strides == [2] * strides
    assert -(-patch[0] // 2**strides) == tokens


@pytest.mark.parametrize("dims", [2, 3])
def test_the_smallest_images_are_halved_once(dims: int) -> None:
    """A network has two levels at least; a single voxel's axis is left."""
    found = plan(cohort((7, 6, 1)), spatial_dims=dims)
    assert found.patch_size == [8, 6, 1][:dims]
    assert found.strides == [2 if dims == 2 else [2, 2, 1]]
    assert len(found.channels) == 2


def test_micrometres_keep_their_digits() -> None:
    """Of 0.3 and 0.6 micrometres, whose rounding to a thousandth of a millimetre would be none."""
    fine, coarse = cohort((64, 64, 9), (3e-4, 3e-4, 1e-3), 1), cohort((64, 64, 9), (6e-4, 6e-4, 1e-3), 1)
    found = plan(replace(fine, shapes=fine.shapes + coarse.shapes, spacings=fine.spacings + coarse.spacings))
    assert found.spacing == [0.00045, 0.00045]


def test_codes_lie_no_more_than_16_pixels_apart_unless_fused() -> None:
    large = cohort((512, 512, 90), (0.8, 0.8, 5.0))
    assert plan(large, CUDA, code_level=None, patch_size=[512, 512]).strides == [2] * 4
    fused = plan(large, CUDA, patch_size=[512, 512])
    assert fused.strides == [2] * 6
    assert fused.channels == [32, 64, 128, 256, 512, 512, 512]
    assert fused.reconstruction_channels == [16, 32]


def test_a_coarse_axis_is_halved_once_the_others_are_as_coarse() -> None:
    found = plan(cohort((96, 96, 12), (1.5, 1.5, 6.0)), spatial_dims=3)
    assert found.strides == [[2, 2, 1], [2, 2, 1], 2, [2, 2, 1]]
    assert found.patch_size == [96, 96, 12]


def test_volumes_are_for_gpus_and_near_isotropic_voxels() -> None:
    assert plan(HIPPOCAMPUS, CUDA).patch_size == [40, 56, 40]
    assert plan(HIPPOCAMPUS, CPU).spatial_dims == 2
    assert plan(cohort((320, 320, 20), (0.6, 0.6, 3.6)), CUDA).spatial_dims == 2
    assert plan(cohort((320, 320, 20)), CUDA).spatial_dims == 2
    assert plan(cohort((320, 320, 64), without_geometry=100), CUDA).spatial_dims == 2


def test_voxels_are_resampled_where_their_size_varies_or_is_anisotropic_in_the_plane() -> None:
    shapes = ((100, 100, 10),) * 20
    varying = Fingerprint(shapes, ((1.0, 1.0, 5.0),) * 10 + ((1.4, 1.4, 5.0),) * 10)
    assert plan(varying).spacing == [1.2, 1.2]
    # 100 voxels of 1.0 and 1.4 mm are 83 and 117 of 1.2 mm: the median is 100
    assert plan(varying).patch_size == [112, 112]
    nearly = Fingerprint(shapes, ((1.0, 1.0, 5.0),) * 10 + ((1.1, 1.1, 5.0),) * 10)
    assert plan(nearly).spacing is None
    flat = cohort((100, 40, 50), (1.0, 4.0, 1.0))
    assert plan(flat).spacing == [2.0, 2.0]


def test_in_3d_a_sparse_coarsest_axis_takes_its_tenth_percentile() -> None:
    spacings = tuple((0.8, 0.8, 2.5 if index < 4 else 5.0) for index in range(20))
    found = plan(Fingerprint(((200, 200, 40),) * 20, spacings), CUDA, spatial_dims=3)
    assert found.spacing == [0.8, 0.8, 2.5]


def test_a_view_shows_at_least_a_quarter_of_an_image() -> None:
    found = plan(cohort((512, 512, 90), (0.8, 0.8, 5.0)))
    assert (found.spacing, found.patch_size) == ([1.6, 1.6], [128, 128])
    assert plan(cohort((512, 512, 90), (0.8, 0.8, 5.0)), patch_size=[256, 256]).spacing is None


def test_pictures_of_many_sizes_are_resized_as_a_whole() -> None:
    sizes = tuple((side, side * 3 // 4, 1) for side in range(600, 1800, 100))
    pictures = Fingerprint(sizes, ((1.0, 1.0, 1.0),) * len(sizes), without_geometry=len(sizes))
    found = plan(pictures)
    assert (found.image_size, found.patch_size, found.spacing) == ([144, 112], [144, 112], None)
    assert plan(pictures, patch_size=[64, 64]).image_size == [64, 64]
    # 1.46 : 1; 160 x 96 would have more pixels, and stretch every picture by 14 %
    tall = Fingerprint(((366, 250, 1), (183, 125, 1), (366, 250, 1)), ((1.0, 1.0, 1.0),) * 3, without_geometry=3)
    assert plan(tall).image_size == [144, 96]
    alike = cohort((100, 100, 1), without_geometry=100)
    assert plan(alike).image_size is None
    assert plan(alike, image_size=[64, 80]).patch_size == [64, 80]
    assert plan(alike, spacing=[2.0, 2.0]).patch_size == [56, 56]


def test_batches_follow_memory_and_the_cohort() -> None:
    few = cohort((96, 96, 2), count=5)
    assert plan(few).labeled_batch_size == 2  # 5 % of 10 slices
    # of 40 pictures 5 % are two, however many pixels they have before they are resized
    resized = Fingerprint(((1200, 900, 1), (600, 450, 1)) * 20, ((1.0, 1.0, 1.0),) * 40, without_geometry=40)
    assert plan(resized).image_size == [144, 112]
    assert plan(resized, CUDA).labeled_batch_size == plan(resized).labeled_batch_size == 2
    small = plan(cohort((512, 512, 90)), Machine("cpu", 0.2))
    assert small.memory_gb <= 0.2
    assert small.patch_size[0] * small.patch_size[1] < 128 * 128
    assert plan(HIPPOCAMPUS, CUDA).memory_gb <= 20


def test_steps_follow_the_number_of_scans() -> None:
    counts = {count: plan(cohort((64, 64, 9), count=count)).max_iterations for count in (5, 160, 400, 10000)}
    assert counts == {5: 4000, 160: 4000, 400: 10000, 10000: 20000}


def test_scans_that_memory_does_not_hold_are_kept_on_disk_if_they_fit() -> None:
    # 100 scans, 20 with a label, and 5 to validate on: 130 maps of 1e6 voxels, padded from 100 x 50 to 100 x 100
    scans = cohort((100, 50, 100), labeled=20, validation=5)
    needed = 130 * 4 * 1e6 / 1e9 + 105 * 2e-5
    for memory, disk, expected in ((1.0, 1.0, (1.0, False)), (0.1, 1.0, (0.19, True)), (0.1, 0.5, (0.19, False))):
        found = plan(scans, Machine("cpu", 8.0, scans_gb=memory, disk_gb=disk), patch_size=[100, 100])
        assert (found.cache_rate, found.cache_on_disk) == expected, needed
    assert plan(scans, Machine("cpu", 8.0, disk_gb=1.0), cache_rate=0.0).cache_on_disk is True
    # 20 of them once more, as unlabelled
    machine = Machine("cpu", 8.0, scans_gb=0.3)
    assert plan(replace(scans, sparse=True), machine, patch_size=[100, 100]).cache_rate == 0.49


def test_ct_is_clipped_to_the_body_s_intensities() -> None:
    body = BodyIntensities(-912.34, 1203.27, -120.0, 310.0)
    ct = replace(HIPPOCAMPUS, modality="CT", body=body)
    assert plan(ct).intensity_window == [-912.3, 1203.3]
    assert plan(ct).intensity_statistics == [-120.0, 310.0]
    assert plan(ct, intensity_window=[-100, 300]).intensity_statistics is None
    assert plan(replace(ct, modality="")).intensity_statistics is None
    assert plan(replace(ct, modality="")).intensity_window is None
    assert plan(replace(ct, body=None)).intensity_window is None
    several = plan(replace(ct, modality="", channels=2)).table()
    assert sum("several channels, each by itself" in line for line in several) == 2


@pytest.mark.parametrize(("share", "nonzero"), [(None, False), (1.0, False), (0.75, False), (0.7, True)])
def test_scans_that_are_mostly_zero_are_normalised_within(share: float | None, nonzero: bool) -> None:
    assert plan(replace(HIPPOCAMPUS, nonzero_share=share)).normalize_nonzero is nonzero
    assert plan(replace(HIPPOCAMPUS, nonzero_share=share, modality="CT")).normalize_nonzero is False


GIVEN: dict[str, Any] = {
    "spatial_dims": 3,
    "intensity_window": [-100, 300],
    "intensity_statistics": [40.0, 80.0],
    "normalize_nonzero": True,
    "spacing": [2.0, 2.0],
    "image_size": [96, 96],
    "patch_size": [64, 96],
    "strides": [2, 2],
    "channels": [8, 16, 32],
    "code_level": None,
    "reconstruction_channels": [4, 4],
    "labeled_batch_size": 3,
    "unlabeled_batch_size": 6,
    "max_iterations": 50,
    "cache_rate": 0.5,
    "cache_on_disk": True,
}


@pytest.mark.parametrize("name", GIVEN)
def test_a_given_value_wins_and_the_others_follow(name: str) -> None:
    found, usual = plan(HIPPOCAMPUS, **{name: GIVEN[name]}), plan(HIPPOCAMPUS)
    assert getattr(found, name) == GIVEN[name] != getattr(usual, name)
    decision = next(made for made in found.decisions if made.id.endswith(name))
    assert (decision.rule, decision.why) == ("", "given")
    assert len(found.channels) == len(found.strides) + 1
    assert len(found.patch_size) == found.spatial_dims
    if name != "reconstruction_channels":
        assert found.reconstruction_channels == [width // 2 for width in found.channels[:-1]][: found.code_level]


def test_every_planned_value_may_be_given() -> None:
    assert list(GIVEN) == list(PLANNED_IDS)


@pytest.mark.parametrize(("widths", "level"), [([8], 1), ([8, 16], 2), ([8, 16, 32], 3)])
def test_given_widths_of_the_image_decoder_say_where_the_codes_are(widths: list[int], level: int) -> None:
    """Commands of up to version 0.9 gave one width per halving: codes at the bottleneck."""
    assert plan(HIPPOCAMPUS, strides=[2, 2, 2], reconstruction_channels=widths).code_level == level


def test_what_follows_from_a_given_value() -> None:
    assert plan(HIPPOCAMPUS, spacing=[2.0, 2.0]).patch_size == [20, 28]
    assert plan(HIPPOCAMPUS, image_size=[96, 96]).strides == [2] * 4
    assert plan(HIPPOCAMPUS, strides=[2, 2, 2, 2]).patch_size == [48, 64]
    assert plan(HIPPOCAMPUS, channels=[8, 16, 32]).strides == [2, 2]
    assert plan(HIPPOCAMPUS, patch_size=[32, 32, 32]).spatial_dims == 3
    assert plan(cohort((64, 64, 9), count=400), unlabeled_batch_size=8).max_iterations == 5000


@pytest.mark.parametrize(
    "given, message",
    [
        ({"channels": [8, 16], "strides": [2, 2]}, r"channels \[8, 16\] want 1 strides, .* are \[2, 2\]"),
        (
            {"patch_size": [24, 24], "channels": [8] * 5},
            r"channels \[8, 8, 8, 8, 8\] want 4 strides, .*larger",
        ),
        (
            {"patch_size": [16, 16], "code_level": 2},
            r"code_level 2 lies below the deepest level of a network with 1 strides",
        ),
        ({"spatial_dims": 2, "strides": [[2, 2, 1]]}, r"strides: expected one number or 2 for each level, found"),
    ],
)
def test_contradictions_are_refused_by_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        plan(HIPPOCAMPUS, **given)


def test_a_fingerprint_survives_json() -> None:
    ct = replace(HIPPOCAMPUS, modality="CT", body=BodyIntensities(-912.0, 1203.0, -120.0, 310.0))
    assert Fingerprint.from_json(ct.to_json()) == ct


def test_the_table_has_a_line_a_decision() -> None:
    found = plan(HIPPOCAMPUS, patch_size=[64, 64])
    assert len(found.table()) == len(found.decisions) == 16
    assert found.to_json()["patch_size"] == {"value": [64, 64], "rule": "", "why": "given"}
    assert found.to_json()["network_def#strides"]["rule"] == "choose_strides"


@pytest.mark.parametrize(
    ("minutes", "steps"),
    [(1.1, 2), (11.0, 251), (110.0, 2951), (1e6, 20000)],
)
def test_steps_follow_the_minutes_and_the_measured_pace(minutes: float, steps: int) -> None:
    """Of 100 scans at 0.5 s, 8 views a step: 12.5 steps of 6 s read all, then a step takes 2 s; 47.5 s are beside."""
    found = make_plan(HIPPOCAMPUS, CPU, budget=(minutes, Pace(step=2.0, scan=0.5, beside=47.5)))
    assert found.max_iterations == steps
    assert next(made.rule for made in found.decisions if made.id == "max_iterations") == "choose_steps_in_time"


def test_a_time_without_a_step_is_refused() -> None:
    pace = Pace(step=60.0, scan=10.0, beside=0.0)
    with pytest.raises(PlanError, match=r"time_budget 1 minutes: one step takes 2.6; give more, or max_iterations"):
        make_plan(HIPPOCAMPUS, CPU, budget=(1.0, pace))
    given = {"max_iterations": (7, "given")}
    assert make_plan(HIPPOCAMPUS, CPU, given, budget=(1.0, pace)).max_iterations == 7
