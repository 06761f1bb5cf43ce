"""Faults to plant in a small cohort, each with the code under which it is found and the file that is named."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable

import nibabel as nib
import numpy as np
from PIL import Image

from support.bundle_runs import CohortFolder
from support.data_parts import write_picture, write_segments

SPLITS = {"training": 6, "unlabeled": 4, "validation": 2, "test": 2}
SIZES = ((16, 16, 6), (18, 15, 7), (16, 20, 5))
AFFINE = np.diag([1.5, 1.5, 6.0, 1.0])
# cases 0 to 5 are for training, 6 to 9 unlabelled, 10 and 11 for validation, 12 and 13 for testing
IMAGES = [f"images/case_{i:02}.nii.gz" for i in range(14)]
LABELS = [f"labels/case_{i:02}.nii.gz" for i in range(14)]


def rewrite(
    folder: CohortFolder,
    name: str,
    change: Callable[[np.ndarray], np.ndarray] = lambda voxels: voxels,
    affine: np.ndarray | None = None,
) -> None:
    old = nib.load(folder.root / name)
    voxels = change(np.array(old.dataobj))
    folder.write(name, nib.Nifti1Image(voxels, old.affine if affine is None else affine))


def put(name: str, **values: float) -> Callable[[CohortFolder], None]:
    """Set the middle voxel, and make the type one that can hold the value."""

    def plant(folder: CohortFolder) -> None:
        def change(voxels: np.ndarray) -> np.ndarray:
            voxels = voxels.astype(np.float32)
            voxels[8, 8, 2] = values["value"]
            return voxels

        rewrite(folder, name, change)

    return plant


def reshaped(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[CohortFolder], None]:
    return lambda folder: rewrite(folder, name, change)


def placed(names: tuple[str, ...], affine: np.ndarray) -> Callable[[CohortFolder], None]:
    def plant(folder: CohortFolder) -> None:
        for name in names:
            rewrite(folder, name, affine=affine)

    return plant


def copied(source: str, target: str) -> Callable[[CohortFolder], None]:
    def plant(folder: CohortFolder) -> None:
        shutil.copy(folder.root / source, folder.root / target)

    return plant


def all_ignored(folder: CohortFolder) -> None:
    names = folder.datalist["labels"]
    folder.datalist["labels"] = {**names, str(len(names)): "ignore"}
    rewrite(folder, LABELS[1], lambda voxels: np.full_like(voxels, len(names)))
    folder.save()


def every_other_slice(voxels: np.ndarray) -> np.ndarray:
    kept = np.ones_like(voxels)
    kept[..., 1::2] = 0
    return kept


def deleted(folder: CohortFolder) -> None:
    (folder.root / IMAGES[6]).unlink()


def emptied(folder: CohortFolder) -> None:
    (folder.root / LABELS[2]).write_bytes(b"")


def truncated(folder: CohortFolder) -> None:
    path = folder.root / IMAGES[12]
    path.write_bytes(path.read_bytes()[:500])


def with_wrong_checksum(folder: CohortFolder) -> None:
    content = bytearray((folder.root / IMAGES[7]).read_bytes())
    content[-8] ^= 0xFF
    (folder.root / IMAGES[7]).write_bytes(bytes(content))


def text_for_volume(folder: CohortFolder) -> None:
    (folder.root / IMAGES[8]).write_bytes(gzip.compress(b"text" * 200))


def zero_spacing(folder: CohortFolder) -> None:
    patch_header(folder, IMAGES[1], bytes(16))


def nan_spacing(folder: CohortFolder) -> None:
    patch_header(folder, IMAGES[1], np.full(4, np.nan, np.float32).tobytes())


def patch_header(folder: CohortFolder, name: str, row: bytes) -> None:
    content = bytearray(gzip.decompress((folder.root / name).read_bytes()))
    content[312:328] = row  # srow_z
    (folder.root / name).write_bytes(gzip.compress(bytes(content)))


def in_two_splits(folder: CohortFolder) -> None:
    folder.datalist["test"].append(folder.datalist["training"][3])


def patient_in_two_splits(folder: CohortFolder) -> None:
    for split in ("training", "test"):
        folder.datalist[split][0] = {**folder.datalist[split][0], "patient": "p7"}


def listed_twice(folder: CohortFolder) -> None:
    folder.datalist["unlabeled"].append(folder.datalist["unlabeled"][1])


def image_as_label(folder: CohortFolder) -> None:
    folder.datalist["training"][0] = {"image": IMAGES[0], "label": IMAGES[0]}


def one_label_twice(folder: CohortFolder) -> None:
    folder.datalist["training"][3] = {"image": IMAGES[3], "label": LABELS[0]}


def copied_label(folder: CohortFolder) -> None:
    shutil.copy(folder.root / LABELS[0], folder.root / LABELS[3])
    assert SIZES[0] == SIZES[3 % 3]


def conflicting_labels(folder: CohortFolder) -> None:
    shutil.copy(folder.root / IMAGES[2], folder.root / IMAGES[5])


def mask_of_255(folder: CohortFolder) -> None:
    voxels = np.asarray(nib.load(folder.root / IMAGES[1]).dataobj)[:, :, 2]
    write_picture(folder.root / "images/p.png", np.clip(voxels + 50, 0, 255).astype(np.uint8))
    write_picture(folder.root / "labels/p.png", (voxels > 50).astype(np.uint8) * 255)
    folder.datalist["training"].append({"image": "images/p.png", "label": "labels/p.png"})


def white_first(folder: CohortFolder) -> None:
    mask_of_255(folder)
    inverted = Image.fromarray((np.asarray(Image.open(folder.root / "labels/p.png")) == 0).astype(np.uint8))
    inverted.putpalette([255, 255, 255, 0, 0, 0])
    inverted.save(folder.root / "labels/q.png")
    shutil.copy(folder.root / "images/p.png", folder.root / "images/q.png")
    folder.datalist["training"].append({"image": "images/q.png", "label": "labels/q.png"})


def other_palette(folder: CohortFolder) -> None:
    colors = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]])
    for i, order in enumerate(([0, 1, 2], [0, 2, 1])):
        voxels = np.asarray(nib.load(folder.root / IMAGES[i]).dataobj)[:, :, 2]
        write_picture(folder.root / f"images/p{i}.png", np.clip(voxels + 50, 0, 255).astype(np.uint8))
        mask = Image.fromarray(np.digitize(voxels, (20, 50)).astype(np.uint8))
        mask.putpalette(colors[order].ravel().tolist())
        mask.save(folder.root / f"labels/p{i}.png")
        folder.datalist["training"].append({"image": f"images/p{i}.png", "label": f"labels/p{i}.png"})


def other_segment_names(folder: CohortFolder) -> None:
    label = nib.load(folder.root / LABELS[1])
    names = {1: "core", 2: "shell"}
    write_segments(folder.root / "labels/case_01.seg.nrrd", np.asarray(label.dataobj), label.affine, names)
    folder.datalist["training"][1] = {"image": IMAGES[1], "label": "labels/case_01.seg.nrrd"}


def without_class(folder: CohortFolder) -> None:
    rewrite(folder, LABELS[4], lambda voxels: np.minimum(voxels, 1))


def unused_class(folder: CohortFolder) -> None:
    folder.datalist["labels"] = {**folder.datalist["labels"], "3": "calcification"}


def one_not_in_hounsfield_units(folder: CohortFolder) -> None:
    for name in IMAGES:
        rewrite(folder, name, lambda voxels: np.clip(np.round(voxels * 10 - 1000), -1024, 400).astype(np.int16))
    rewrite(folder, IMAGES[9], lambda voxels: voxels + np.int16(1024))


def single_slice(folder: CohortFolder) -> None:
    rewrite(folder, IMAGES[9], lambda voxels: voxels[:, :, :1])


def small_structure(folder: CohortFolder) -> None:
    def change(voxels: np.ndarray) -> np.ndarray:
        core = np.flatnonzero(voxels == 2)
        voxels.flat[core[2:]] = 1
        return voxels

    rewrite(folder, LABELS[4], change)


def padded(folder: CohortFolder) -> None:
    def change(voxels: np.ndarray) -> np.ndarray:
        voxels[:2] = np.finfo(np.float32).min
        return voxels

    rewrite(folder, IMAGES[2], change)


def unlabeled_validation(folder: CohortFolder) -> None:
    folder.datalist["validation"][1] = {"image": IMAGES[11]}


def empty_validation(folder: CohortFolder) -> None:
    for name in LABELS[10:12]:
        rewrite(folder, name, np.zeros_like)


def empty_training(folder: CohortFolder) -> None:
    for name in LABELS[:6]:
        rewrite(folder, name, np.zeros_like)


def without_core(*names: str) -> Callable[[CohortFolder], None]:
    def plant(folder: CohortFolder) -> None:
        for name in names:
            rewrite(folder, name, lambda voxels: np.minimum(voxels, 1))

    return plant


def two_forms(folder: CohortFolder) -> None:
    path = folder.root / IMAGES[6]
    image = nib.load(path)
    image.set_qform(MOVED, 1)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), path)


FLIPPED = AFFINE @ np.diag([-1.0, 1.0, 1.0, 1.0])
MOVED = AFFINE + np.array([[0, 0, 0, 9.0], [0] * 4, [0] * 4, [0] * 4])

FAULTS: list[tuple[str, Callable[[CohortFolder], None], str, str]] = [
    ("deleted", deleted, "missing_file", IMAGES[6]),
    ("emptied", emptied, "empty_file", LABELS[2]),
    ("truncated", truncated, "unreadable_file", IMAGES[12]),
    ("wrong checksum", with_wrong_checksum, "unreadable_file", IMAGES[7]),
    ("text", text_for_volume, "unreadable_file", IMAGES[8]),
    ("zero spacing", zero_spacing, "invalid_spacing", IMAGES[1]),
    ("NaN spacing", nan_spacing, "invalid_spacing", IMAGES[1]),
    ("two splits", in_two_splits, "image_in_two_splits", IMAGES[3]),
    ("patient in two splits", patient_in_two_splits, "patient_in_two_splits", IMAGES[12]),
    ("listed twice", listed_twice, "listed_twice", IMAGES[7]),
    ("image as label", image_as_label, "image_as_label", IMAGES[0]),
    ("one label for two", one_label_twice, "identical_labels", LABELS[0]),
    ("copied label", copied_label, "identical_labels", LABELS[3]),
    ("leaked image", copied(IMAGES[0], IMAGES[13]), "leaked_image", IMAGES[13]),
    ("unlabelled copy", copied(IMAGES[0], IMAGES[6]), "labeled_and_unlabeled", IMAGES[6]),
    ("unlabelled twice", copied(IMAGES[6], IMAGES[9]), "identical_images", IMAGES[9]),
    ("two annotations", conflicting_labels, "conflicting_labels", IMAGES[5]),
    ("two channels", reshaped(IMAGES[6], lambda v: np.stack([v, v], -1)), "wrong_channels", IMAGES[6]),
    ("cut label", reshaped(LABELS[0], lambda v: v[:-1]), "shape_mismatch", LABELS[0]),
    ("flipped label", placed((LABELS[0],), FLIPPED), "label_flipped", LABELS[0]),
    ("moved label", placed((LABELS[0],), MOVED), "affine_mismatch", LABELS[0]),
    ("voxels in metres", placed((IMAGES[6],), AFFINE / 1000), "spacing_outlier", IMAGES[6]),
    ("all in metres", placed((*IMAGES, *LABELS[:6], *LABELS[10:]), AFFINE / 1000), "unit_not_mm", IMAGES[0]),
    ("micrometres", placed((IMAGES[6],), AFFINE * 1000), "unit_not_mm", IMAGES[6]),
    ("sheared", placed((IMAGES[6],), AFFINE + np.diag([0.5, 0.0, 0.0], 1)), "sheared", IMAGES[6]),
    ("two forms", two_forms, "uncertain_geometry", IMAGES[6]),
    ("thick slices", placed((IMAGES[6],), np.diag([0.9, 0.9, 17, 1])), "anisotropy_outlier", IMAGES[6]),
    ("other axes", placed((IMAGES[6],), FLIPPED), "orientation_outlier", IMAGES[6]),
    ("large image", reshaped(IMAGES[6], lambda v: np.tile(v, (4, 4, 1))), "shape_outlier", IMAGES[6]),
    ("single slice", single_slice, "single_slice", IMAGES[9]),
    ("unknown value", put(LABELS[1], value=7), "label_values", LABELS[1]),
    ("fraction", put(LABELS[1], value=0.5), "label_not_whole", LABELS[1]),
    ("empty label", reshaped(LABELS[1], np.zeros_like), "empty_label", LABELS[1]),
    ("ignored everywhere", all_ignored, "nothing_labeled", LABELS[1]),
    ("every other slice", reshaped(LABELS[1], every_other_slice), "lone_slices", LABELS[1]),
    ("mask of 255", mask_of_255, "mask_of_255", "labels/p.png"),
    ("palette of falling greys", white_first, "unreadable_file", "labels/q.png"),
    ("palettes", other_palette, "palettes_differ", "labels/p1.png"),
    ("segment names", other_segment_names, "segment_names", "labels/case_01.seg.nrrd"),
    ("unused class", unused_class, "unused_class", "datalist.json"),
    ("training without structure", empty_training, "empty_training", LABELS[0]),
    ("class not learnt", without_core(*LABELS[:6]), "unlearnt_class", "datalist.json"),
    ("class not validated", without_core(*LABELS[10:12]), "unvalidated_class", "datalist.json"),
    ("absent class", without_class, "missing_class", LABELS[4]),
    ("small structure", small_structure, "label_share_outlier", LABELS[4]),
    ("NaN", put(IMAGES[2], value=np.nan), "not_finite", IMAGES[2]),
    ("infinity", put(IMAGES[8], value=np.inf), "not_finite", IMAGES[8]),
    ("beyond float32", reshaped(IMAGES[8], lambda v: v.astype(float) * -1e300), "not_finite", IMAGES[8]),
    ("padding", padded, "sentinel", IMAGES[2]),
    ("NaN in a label", put(LABELS[2], value=np.nan), "not_finite", LABELS[2]),
    ("validation without label", unlabeled_validation, "validation_without_label", IMAGES[11]),
    ("validation without structure", empty_validation, "empty_validation", LABELS[10]),
    ("constant", reshaped(IMAGES[8], np.ones_like), "constant_image", IMAGES[8]),
    ("scale", reshaped(IMAGES[8], lambda v: v * 1000), "intensity_outlier", IMAGES[8]),
    ("not Hounsfield", one_not_in_hounsfield_units, "not_hounsfield", IMAGES[9]),
]
