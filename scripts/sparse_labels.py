"""Thin out the labels of a cohort, to try sparse ones: ``python -m scripts.sparse_labels --help``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy.ndimage import distance_transform_edt
from skimage.morphology import thin

from scripts.tool import check_new, errors_told, tool_parser

__all__ = ["draw_scribbles", "keep_three_slices", "main"]

#: share of each class that is scribbled, in each slice
SCRIBBLED = 0.05
_EPILOG = """It writes OUTPUT/datalist.json, whose training cases have their thinned labels in OUTPUT/labels and all
others their own; images stay where they are, hence --allow_outside_files true in the training.

  slices      whole in the first, middle and last slice that shows a structure
  scribbles   in each slice 5 % of each class, background too: its middle line first, then what is nearest to it

What is not labelled is of a last class "ignore", or with --as-background of the background, as a naive reader would
have it.

example:
  python -m scripts.sparse_labels --dataset-dir ACDC --datalist acdc.json --kind scribbles --output SCRIBBLES"""


def keep_three_slices(classes: np.ndarray) -> np.ndarray:
    """Where the first, middle and last slice with a structure lie.

    Args:
        classes: class indices ``(H, W, slices)``, 0 is the background.

    Returns:
        which voxels stay labelled, as bool, none if there is no structure.
    """
    shown = np.flatnonzero((classes > 0).any(axis=(0, 1)))
    kept = np.zeros(classes.shape, dtype=bool)
    if len(shown):
        kept[..., [shown[0], shown[len(shown) // 2], shown[-1]]] = True
    return kept


def draw_scribbles(classes: np.ndarray) -> np.ndarray:
    """Scribbles of :data:`SCRIBBLED` of each class in each slice, at least one voxel; see :func:`keep_three_slices`."""
    kept = np.zeros(classes.shape, dtype=bool)
    for index in range(classes.shape[-1]):
        for value in np.unique(classes[..., index]):
            kept[..., index] |= _scribble(classes[..., index] == value)
    return kept


def _scribble(region: np.ndarray) -> np.ndarray:
    depth = distance_transform_edt(region)
    # a hand stays away from edges where there is room
    line = thin(depth > 1 if (depth > 1).any() else region)
    inside = np.flatnonzero(region)
    order = np.lexsort((-depth.flat[inside], distance_transform_edt(~line).flat[inside]))
    kept = np.zeros(region.shape, dtype=bool)
    kept.flat[inside[order[: math.ceil(SCRIBBLED * len(inside))]]] = True
    return kept


_KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"slices": keep_three_slices, "scribbles": draw_scribbles}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write labels and datalist, and print the share of voxels that stays labelled."""
    parser = tool_parser("sparse_labels", "Thin out the labels of a cohort's training cases (NIfTI).", _EPILOG)
    parser.add_argument("--dataset-dir", required=True, metavar="DIR", help="folder of the cohort")
    parser.add_argument("--datalist", required=True, metavar="FILE", help="its datalist, by vqseg data")
    parser.add_argument("--kind", required=True, choices=_KINDS, help="what stays labelled")
    parser.add_argument("--as-background", action="store_true", help="call the rest background")
    parser.add_argument("--output", required=True, metavar="OUTPUT", help="folder to write")
    options = parser.parse_args(arguments)
    with errors_told(parser):
        check_new("--output", Path(options.output) / "datalist.json", overwrite=False)
        share = _write(
            Path(options.dataset_dir), Path(options.datalist), options.kind, options.as_background, Path(options.output)
        )
    print(f"{100 * share:.1f} % of the voxels are labelled: {options.output}")


def _write(root: Path, datalist: Path, kind: str, as_background: bool, output: Path) -> float:
    content: dict[str, Any] = json.loads(datalist.read_text(encoding="utf-8"))
    labels = content["labels"]
    names = dict(labels) if isinstance(labels, dict) else {str(index): name for index, name in enumerate(labels)}
    rest = 0 if as_background else len(names)
    (output / "labels").mkdir(parents=True, exist_ok=True)
    labeled, voxels = 0, 0
    for case in content["training"]:
        volume = nib.nifti1.load(root / case["label"])
        classes = np.asarray(volume.dataobj).astype(np.uint8)
        kept = _KINDS[kind](classes)
        labeled, voxels = labeled + int(kept.sum()), voxels + kept.size
        case["label"] = f"labels/{Path(case['label']).name}"
        thinned = nib.nifti1.Nifti1Image(np.where(kept, classes, np.uint8(rest)), volume.affine)
        nib.nifti1.save(thinned, output / case["label"])
    for name in ("training", "unlabeled", "validation", "test"):
        for case in content.get(name, []):
            for key in ("image",) if name == "training" else ("image", "label"):
                if key in case:
                    case[key] = str((root / case[key]).resolve())
    content["labels"] = names if as_background else {**names, str(rest): "ignore"}
    (output / "datalist.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return labeled / voxels


if __name__ == "__main__":
    main()
