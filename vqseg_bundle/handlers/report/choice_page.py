"""The page of ``vqseg choose``: a map of the cohort, and thumbnails by what each chosen patient stands for."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from PIL import Image

from vqseg_bundle.handlers.report.pictures import Place, class_colors, draw_map

__all__ = ["ShownPatient", "principal_components", "render_choice"]

_MOST_SHOWN = 24
_LABELED = "#8a949e"


class ShownPatient(NamedTuple):
    """A patient on the page.

    Attributes:
        name: the patient.
        files: its scans, as they are shown.
        picture: one slice, uint8 ``(rows, columns)``.
        row_to_column: height over width of its pixels.
        cluster: number of its cluster, from 0.
        distance: from the cluster's centre.
    """

    name: str
    files: Sequence[str]
    picture: np.ndarray
    row_to_column: float
    cluster: int
    distance: float


def principal_components(features: np.ndarray) -> tuple[np.ndarray, float]:
    """Coordinates of rows along the first two principal components, ``(N, 2)``, and their share of the variance."""
    centered = features - features.mean(axis=0)
    left, values, _ = np.linalg.svd(centered, full_matrices=False)
    places = np.zeros((len(features), 2))
    count = min(2, len(values))
    places[:, :count] = left[:, :count] * values[:count]
    total = float((values**2).sum())
    return places, float((values[:2] ** 2).sum()) / total if total > 0 else 1.0


def render_choice(
    title: str,
    facts: Mapping[str, str],
    patients: Sequence[ShownPatient],
    features: np.ndarray,
    chosen: Sequence[int],
    labeled: Sequence[int],
) -> str:
    """The whole page as HTML.

    Args:
        title: name of the cohort.
        facts: what the head says of the choice.
        patients: all of them.
        features: their standardised features, ``(N, F)``.
        chosen: rows of those to label, in order; each leads the cluster of its position.
        labeled: rows of those labelled already, which lead the next clusters.
    """
    folder = Path(__file__).parent
    templates = Environment(loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    colors = [*class_colors(len(chosen)), *[_LABELED] * len(labeled)]
    places, share = principal_components(features)
    leads = [*chosen, *labeled]
    spots = []
    for row, (patient, (x, y)) in enumerate(zip(patients, places, strict=True)):
        role = "chosen" if row in chosen else "labelled" if row in labeled else ""
        spots.append(Place(patient.name, x, y, colors[patient.cluster], role, f"#cluster-{patient.cluster + 1}"))
    return templates.get_template("choice.html.jinja").render(
        title=title,
        style=Markup((folder / "page.css").read_text(encoding="utf-8")),
        facts=facts,
        map=draw_map(spots),
        share=share,
        clusters=[
            _cluster(position, patients[lead], patients, colors[position], position < len(chosen))
            for position, lead in enumerate(leads)
        ],
    )


def _cluster(
    number: int, lead: ShownPatient, patients: Sequence[ShownPatient], color: str, chosen: bool
) -> dict[str, Any]:
    """What the page shows of a cluster: the patient that stands for it, then its others, nearest the centre first."""
    others = [patient for patient in patients if patient.cluster == number and patient is not lead]
    others.sort(key=lambda patient: patient.distance)
    shown = [lead, *others[: _MOST_SHOWN - 1]]
    return {
        "anchor": f"cluster-{number + 1}",
        "name": lead.name,
        "color": color,
        "chosen": chosen,
        "files": lead.files,
        "others": len(others),
        "more": len(others) + 1 - len(shown),
        "thumbnails": [_thumbnail(patient) for patient in shown],
    }


def _thumbnail(patient: ShownPatient) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(patient.picture).save(file, format="PNG", optimize=True)
    rows, columns = patient.picture.shape
    return {
        "name": patient.name,
        "source": f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}",
        "ratio": f"{columns / (rows * patient.row_to_column):.4f}",
    }
