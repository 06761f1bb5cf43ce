"""Download a task of the Medical Segmentation Decathlon with MONAI's own downloader."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path

from monai.apps import DecathlonDataset, download_url, extractall
from monai.apps.utils import HashCheckError

from vqseg_bundle.data import DataError

__all__ = ["download_task"]


def download_task(folder: Path, task: str) -> Path:
    """Download and unpack a task into a folder, unless it is there already.

    Args:
        folder: where the archive and the task's folder go.
        task: its name in the Decathlon, such as ``Task06_Lung``.

    Returns:
        The task's folder, with its ``dataset.json``.

    Raises:
        DataError: the task is unknown, or it cannot be downloaded or written.
    """
    if task not in DecathlonDataset.resource:
        known = ", ".join(sorted(DecathlonDataset.resource))
        raise DataError(f"--decathlon-task: expected one of {known}, found {task}.")
    if (folder / task / "dataset.json").is_file():
        return folder / task
    source, archive = DecathlonDataset.resource[task], folder / f"{task}.tar"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        download_url(source, archive, hash_val=DecathlonDataset.md5[task], hash_type="md5")
        extractall(archive, folder, hash_val=DecathlonDataset.md5[task], hash_type="md5")
    except HashCheckError as error:
        raise DataError(
            f"--decathlon-task {task}: expected an archive of MD5 {DecathlonDataset.md5[task]}, found another one "
            f"({error}). Delete {archive} if it is there, and download it again."
        ) from error
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"--decathlon-task {task}: cannot be downloaded from {source} into {folder} ({error}). Without a network, "
            "copy the task's folder here by other means and name it with --dataset-dir."
        ) from error
    return folder / task
