"""The catalogue of a data check's findings: codes with severity, meaning and remedy."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FINDING_KINDS", "Finding", "FindingKind"]


@dataclass(frozen=True)
class FindingKind:
    """What all findings of one code share: severity (only ``"error"`` stops a run), meaning in one line, and remedy."""

    severity: str
    meaning: str
    remedy: str


@dataclass(frozen=True)
class Finding:
    """One fault in the data."""

    code: str  # key of :data:`FINDING_KINDS`
    files: tuple[str, ...]  # the files concerned, the one to look at first coming first
    text: str  # what was found and where, without a full stop
    expected: str  # what should be there
    found: str  # what is there
    remedy: str = ""  # what to do; if empty, the code's remedy

    @property
    def severity(self) -> str:
        """``"error"`` or ``"warning"``."""
        return FINDING_KINDS[self.code].severity

    @property
    def advice(self) -> str:
        """What to do: the finding's remedy, or else its code's."""
        return self.remedy or FINDING_KINDS[self.code].remedy

    @property
    def message(self) -> str:
        """One sentence: what was found and what to do."""
        return f"{self.text}; {self.advice}."


def _error(meaning: str, remedy: str) -> FindingKind:
    return FindingKind("error", meaning, remedy)


def _warning(meaning: str, remedy: str) -> FindingKind:
    return FindingKind("warning", meaning, remedy)


#: By code, in the order of display.
FINDING_KINDS: dict[str, FindingKind] = {
    "no_cases": _error("the datalist names no cases", "list some"),
    "no_labeled_cases": _error("there is nothing to learn labels from", 'list labelled cases under "training"'),
    "evaluation_split": _error(
        "the split to evaluate has no labelled case",
        "list labelled cases under it, or set evaluation_split to a split that has them",
    ),
    "missing_file": _error("a file is not there", "correct the path in the datalist, or dataset_dir"),
    "empty_file": _error("a file has no content", "copy it again"),
    "unreadable_file": _error("a file is truncated, damaged or not a readable volume", "copy it again, or convert it"),
    "invalid_spacing": _error(
        "a header's voxel spacing is zero, negative or not a number", "correct the header, or export the volume again"
    ),
    "wrong_channels": _error(
        "an image does not have in_channels channels, or a label has more than one",
        "convert the file, or set in_channels if the network has that many",
    ),
    "image_as_label": _error("an entry names the same file as image and label", "correct the entry"),
    "shape_mismatch": _error(
        "image and label differ in shape", "resample the label to the image, or correct the pairing"
    ),
    "label_flipped": _error(
        "a label's axes run opposite to its image's, so that it lies elsewhere",
        "if the voxels do match, copy the image's header to the label; otherwise reorient the label",
    ),
    "affine_mismatch": _error(
        "image and label lie in different places", "if the voxels do match, copy the image's header to the label"
    ),
    "not_finite": _error(
        "voxels are NaN or infinite, as float32 holds them", "replace them, for example by the background's value"
    ),
    "sentinel": _error(
        "a value that stands for missing data leaves nothing of an image's contrast",
        "replace it by the background's value, or set intensity_window, which clips it",
    ),
    "label_values": _error(
        'a label has values outside "labels"',
        'correct the file, name the class in "labels", or map the values by "label_values"',
    ),
    "label_not_whole": _error(
        "a label has values that are not whole numbers",
        "resample labels with nearest neighbours, and correct the file",
    ),
    "palettes_differ": _error(
        "masks with palettes give one colour different values, which are the classes",
        "save all masks with one palette, or as class indices without one",
    ),
    "segment_names": _error(
        "a label's own names, as of 3D Slicer's segments, give a class another value than the datalist",
        'save the file with the values of the others, or correct "labels" or "label_values"',
    ),
    "nothing_labeled": _error(
        'a label is "ignore" everywhere', 'list the image under "unlabeled", or label some of its slices'
    ),
    "empty_training": _error("no training label has any structure", "list labels that have some, or correct the files"),
    "image_in_two_splits": _error("one file is listed in two splits", "list each case in only one split"),
    "patient_in_two_splits": _error(
        "a patient is both learnt from and evaluated on", "keep all cases of a patient in one split"
    ),
    "leaked_image": _error(
        "files of identical voxels are both learnt from and evaluated on", "leave all but one of them out"
    ),
    "validation_without_label": _error(
        "a validation case has no label", 'add its "label", or list it under "unlabeled"'
    ),
    "not_evaluated": _warning(
        "a case of the split to evaluate has no label: it is left out",
        "label it; to segment it all the same, use configs/inference.json",
    ),
    "conflicting_labels": _warning(
        "identical images have different annotations", "keep the one whose label is right, leave the others out"
    ),
    "similar_patients": _warning(
        "patients whose names differ in upper and lower case alone are both learnt from and evaluated on",
        "give the patient one name if they are the same",
    ),
    "frames_apart": _warning(
        "slices or frames that seem to be of one patient are both learnt from and evaluated on",
        'name the "patient" of each entry, or make the datalist again with --patient-pattern',
    ),
    "labeled_and_unlabeled": _warning(
        "an unlabelled image is identical to a labelled one", 'leave it out of "unlabeled"'
    ),
    "identical_images": _warning("images of different names have the same voxels", "keep one of them"),
    "listed_twice": _warning("a file is listed more than once in a split", "list it once"),
    "lone_slices": _warning(
        "a label has structures on separate slices, as if only these had been labelled",
        'if the slices between were never labelled, give their voxels a last class named "ignore" in "labels"',
    ),
    "identical_labels": _warning(
        "one annotation is used for different images", "compare both with their images: one may be a wrong copy"
    ),
    "constant_image": _warning("an image has one intensity throughout", "leave the case out, or export it again"),
    "padding": _warning(
        "a value far from all others, which takes contrast from them, fills a part of an image",
        "replace it by the background's value, or set intensity_window, which clips it",
    ),
    "mask_of_255": _warning(
        "a picture's mask has values 0 and 255: 255 is read as class 1", "save class indices if it means another class"
    ),
    "empty_label": _warning(
        "a label has no foreground", "leave it as it is if the structure is absent, otherwise correct it"
    ),
    "empty_validation": _warning(
        "no validation label has any structure",
        "add cases that have some; as it is, no weights can be selected and the last ones are kept",
    ),
    "unused_class": _warning(
        'a class of "labels" is in no label', 'take it out of "labels", or label cases that have it'
    ),
    "unlearnt_class": _warning(
        "a class of other labels is in no training label, so that it cannot be learnt",
        'list a case that has it under "training"',
    ),
    "unvalidated_class": _warning(
        "a class of other labels is in no validation label, so that weights are selected without it",
        'list a case that has it under "validation"',
    ),
    "missing_class": _warning("a class that nearly all labels have is absent", "check the label"),
    "label_share_outlier": _warning("a structure is far larger or smaller than in other labels", "check the label"),
    "shape_outlier": _warning("an image is far larger or smaller than the others", "check that it belongs here"),
    "turned_images": _warning(
        "images lie on their side, as no labelled one does",
        "label one of them, or train long with --quarter_turns 0.5 --mirroring 0.5 and an image_size as wide as high",
    ),
    "single_slice": _warning("an image is a single slice, the others have many", "check that it belongs here"),
    "spacing_outlier": _warning(
        "voxels are far larger or smaller than in the other images", "check that the header's unit is mm"
    ),
    "unit_not_mm": _warning(
        "voxels are so small or large that the header's unit may not be mm",
        "name the unit in the header if it is metres or micrometres; distances are given in mm",
    ),
    "sheared": _warning(
        "an image's axes are not at right angles, as of a tilted scanner",
        "voxels are used as stored, but distances in mm are off; resample the scan if they count",
    ),
    "uncertain_geometry": _warning(
        "a file does not say, or says in two ways, where its voxels lie",
        "write the geometry into the header if another one is meant, of NIfTI one affine into both qform and sform",
    ),
    "anisotropy_outlier": _warning(
        "voxels are far more, or less, elongated than in the other images", "set spacing, or leave the case out"
    ),
    "orientation_outlier": _warning(
        "axes run in other directions than in most images",
        "harmless in training, which brings all to one orientation; check that the header is right",
    ),
    "intensity_outlier": _warning(
        "the intensity range is of another order of magnitude than in most images",
        "harmless if images are normalised one by one; check that their units agree",
    ),
    "not_hounsfield": _warning(
        "an image has no negative intensities, while most have those of air in CT",
        "apply the rescale slope and intercept, so that all are in Hounsfield units",
    ),
}
