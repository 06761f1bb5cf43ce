"""Write the table of plans in docs/planning.md: ``python -m scripts.planning_table``.

Beside each, nnU-Net's: the plans of the ten tasks of the Decathlon by nnU-Net 2 that lie with the results in
https://github.com/automl/AutoNNUnet (output/baseline/*/3d_fullres/fold_0/debug.json). Medians stand for the files.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from scripts.tool import tool_parser, write_between_markers
from vqseg_bundle.planning import Fingerprint, Machine, Plan, make_plan

__all__ = ["COHORTS", "table"]

_DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "planning.md"
_CPU, _GPU = Machine("cpu", 8.0), Machine("cuda", 19.2, half=True)


class Known(NamedTuple):
    """A cohort: number of scans, their median shape and spacing with the slices last, and nnU-Net's patches.

    ``planes`` is nnU-Net's 2D patch, ``volume`` its 3D patch, both in the order of the shape, empty where unknown;
    ``sizes`` are the shapes of pictures that vary.
    """

    scans: int
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    planes: tuple[int, ...] = ()
    volume: tuple[int, ...] = ()
    sizes: tuple[tuple[int, int, int], ...] = ()


def _pictures(*sides: tuple[int, int]) -> tuple[tuple[int, int, int], ...]:
    return tuple((*size, 1) for size in sides)


COHORTS = {
    "Task01 brain tumour": Known(484, (138, 169, 138), (1, 1, 1), (160, 192), (128, 128, 128)),
    "Task02 heart": Known(20, (232, 320, 115), (1.25, 1.25, 1.37), (256, 320), (160, 192, 80)),
    "Task03 liver": Known(131, (512, 512, 432), (0.768, 0.768, 1), (512, 512), (128, 128, 128)),
    "Task04 hippocampus": Known(260, (35, 50, 36), (1, 1, 1), (40, 56), (40, 56, 40)),
    "Task05 prostate": Known(32, (320, 320, 20), (0.625, 0.625, 3.6), (320, 320), (256, 320, 20)),
    "Task06 lung": Known(63, (512, 512, 252), (0.785, 0.785, 1.245), (512, 512), (160, 192, 80)),
    "Task07 pancreas": Known(281, (512, 512, 93), (0.803, 0.803, 2.5), (512, 512), (224, 224, 40)),
    "Task08 hepatic vessel": Known(303, (512, 512, 49), (0.799, 0.799, 5), (512, 512), (192, 192, 64)),
    "Task09 spleen": Known(41, (512, 512, 90), (0.793, 0.793, 5), (512, 512), (160, 192, 64)),
    "Task10 colon": Known(126, (512, 512, 95), (0.781, 0.781, 5), (512, 512), (192, 192, 56)),
    "ACDC, spacing lost": Known(140, (256, 216, 9), (1, 1, 1), sizes=((208, 174, 10), (256, 216, 9), (288, 256, 8))),
    "COVID CT, JPEG": Known(450, (366, 250, 1), (1, 1, 1), sizes=_pictures((293, 182), (366, 250), (475, 369))),
    "ISIC, colour pictures": Known(
        900, (1022, 767, 1), (1, 1, 1), sizes=_pictures((722, 542), (1022, 767), (2048, 1536))
    ),
    "chest CT, DICOM": Known(1, (512, 512, 64), (0.84, 0.84, 5)),
}
#: reason to what it explains
REASONS = {
    "a": "a view on a CPU has at most 16,384 voxels",
    "b": "voxels are enlarged until a view shows a quarter of an image, as there is no second stage",
    "c": "four views a step, two of them unlabelled, share the memory of nnU-Net's two",
    "d": "slices: voxels are more than twice as long as wide, or there are too few for volumes",
    "e": "the coarsest axis takes its 10th percentile in nnU-Net, which medians do not tell",
}


def table() -> str:
    """The rows of all cohorts, and the reasons."""
    columns = ["cohort", "scans", "voxels", "mm", "nnU-Net 2D", "CPU: mm, size", "patch", "strides"]
    columns += ["nnU-Net 3D", "GPU, 24 GB: mm, size", "patch", "strides", "why"]
    lines = [
        f"| {' | '.join(columns)} |",
        f"|{' --- |' * len(columns)}",
        *(_row(name, known) for name, known in COHORTS.items()),
        "",
    ]
    return "\n".join([*lines, *(f"- {letter}: {reason}" for letter, reason in REASONS.items())])


def _row(name: str, known: Known) -> str:
    cpu, gpu = (make_plan(_fingerprint(known), machine) for machine in (_CPU, _GPU))
    cells = [
        name,
        str(known.scans),
        _by(known.shape),
        _by(known.spacing) if not known.sizes else "unknown",
        _by(known.planes),
        *_planned(cpu),
        _by(known.volume),
        *_planned(gpu),
        _reasons(known, cpu, gpu),
    ]
    return f"| {' | '.join(cells)} |"


def _fingerprint(known: Known) -> Fingerprint:
    shapes = known.sizes or (known.shape,)
    repeats = -(-known.scans // len(shapes))
    listed = (shapes * repeats)[: known.scans]
    return Fingerprint(listed, (known.spacing,) * known.scans, without_geometry=known.scans if known.sizes else 0)


def _planned(plan: Plan) -> list[str]:
    sized = f"size {_by(plan.image_size)}" if plan.image_size else _by(plan.spacing or ()) or "as stored"
    return [sized, _by(plan.patch_size), " ".join(_stride(stride) for stride in plan.strides)]


def _stride(stride: int | list[int]) -> str:
    return str(stride) if isinstance(stride, int) else "".join(map(str, stride))


def _reasons(known: Known, cpu: Plan, gpu: Plan) -> str:
    if not known.planes:
        return ""
    found = []
    if _voxels(cpu.patch_size) < _voxels(known.planes) and _voxels(known.planes) > 128 * 128:
        found.append("a")
    if cpu.spacing or gpu.spacing:
        found.append("b")
    if len(gpu.patch_size) == 3 and tuple(gpu.patch_size) != known.volume:
        found.append("c")
    if len(gpu.patch_size) == 2:
        found.append("d")
    if known.spacing[2] > 3 * known.spacing[0] and known.shape[2] * 3 < known.shape[0]:
        found.append("e")
    return " ".join(found)


def _voxels(sides: list[int] | tuple[int, ...]) -> int:
    product = 1
    for side in sides:
        product *= side
    return product


def _by(values: list[float] | list[int] | tuple[float, ...]) -> str:
    return " x ".join(f"{value:g}" for value in values)


def main() -> None:
    """Write the table."""
    tool_parser("planning_table", "Write the table of plans in docs/planning.md.", "").parse_args()
    write_between_markers(_DOCUMENT, "plans", table())


if __name__ == "__main__":
    main()
