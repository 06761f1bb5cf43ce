from __future__ import annotations

import torch
from monai.data import MetaTensor, list_data_collate

from vqseg_bundle.data import KeepSourced


def test_batches_know_the_files_of_their_images():
    images = [MetaTensor(torch.zeros(1, 2, 2), meta={"filename_or_obj": name}) for name in ("a.nii.gz", "b.nii.gz")]
    batch = list_data_collate([KeepSourced("image")({"image": image}) for image in images])
    assert batch["source"] == ["a.nii.gz", "b.nii.gz"]


def test_an_image_without_meta_data_is_of_no_file():
    case = {"image": torch.zeros(1, 2, 2)}
    assert KeepSourced("image", "file")(case)["file"] == ""
    assert list(case) == ["image"]
