"""All segmented volumes at a glance, ``contact_sheet.html``: a row a case, with slices, contours and volumes."""

from __future__ import annotations

import base64
import io
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from monai.transforms import Compose
from monai.utils import CommonKeys
from PIL import Image

from vqseg_bundle.common import write_text
from vqseg_bundle.handlers.case_metrics import identify_case
from vqseg_bundle.handlers.quality_estimate import DiceEstimate
from vqseg_bundle.handlers.report.case_slice import Thumbnail, spread_slices
from vqseg_bundle.handlers.report.pictures import class_colors
from vqseg_bundle.handlers.report.volumes import measure_volumes, show_volume

__all__ = ["ContactSheet"]

logger = logging.getLogger(__name__)


class ContactSheet:
    """Ignite handler that writes a page with a row for each volume of an inference.

    It reads the decollated output of a MONAI evaluator after its postprocessing: "pred", class indices on the volume's
    own grid, and "image" as the network saw it, which is brought back to that grid. A case that cannot be shown is
    logged and left out.

    Args:
        path: the page.
        labels: class index to name, background included.
        preprocessing: of the images.
        choose_axis: from the size of a volume's three axes and its affine to the axis along which slices are shown.
        estimate: estimates each case's Dice from "soft_dice"; None says nothing of it.
    """

    def __init__(
        self,
        path: str | Path,
        labels: Mapping[int, str],
        preprocessing: Compose,
        choose_axis: Callable[[Sequence[int], np.ndarray], int],
        estimate: DiceEstimate | None = None,
    ) -> None:
        self.path = Path(path)
        self.names = [labels[index] for index in sorted(labels)[1:]]
        self.preprocessing = preprocessing
        self.choose_axis = choose_axis
        self.estimate = estimate
        self._rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Register the handler with an evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _update(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        for item, found in zip(batch, output, strict=True):
            name, _ = identify_case(item)
            try:
                self._rows.append(self._row(name, found))
            except Exception as error:  # a picture is not worth a run
                logger.warning("%s is not on the contact sheet: %s", name, error)

    def _row(self, name: str, found: Mapping[str, Any]) -> dict[str, Any]:
        own = self.preprocessing.inverse({CommonKeys.IMAGE: found[CommonKeys.IMAGE].cpu()})[CommonKeys.IMAGE]
        classes: Any = found[CommonKeys.PRED].cpu()
        measured = measure_volumes(classes, len(self.names) + 1)
        in_ml = measured.says_size
        volumes = [f"{show_volume(v, in_ml)} {'ml' if in_ml else 'voxels'}" for v in measured.volumes(in_ml)]
        colors = class_colors(len(self.names))
        return {
            "name": name,
            "pictures": [_picture(shown, colors) for shown in spread_slices(own, classes, self.choose_axis)],
            "volumes": list(zip(self.names, colors, volumes, strict=True)),
            "estimate": self._estimated(found.get("soft_dice")),
        }

    def _estimated(self, expected: float | None) -> str:
        if self.estimate is None or expected is None or math.isnan(expected):
            return ""
        if self.estimate.reason:
            return f"expected Dice: {expected:.3f}"
        return f"estimated Dice: {self.estimate(expected):.2f} ± {self.estimate.section['error']:.2f}"

    def _finish(self, engine: Engine) -> None:
        if not self._rows:
            return
        folder = Path(__file__).parent
        templates = Environment(loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True)
        style = Markup((folder / "page.css").read_text(encoding="utf-8"))
        rows = sorted(self._rows, key=lambda row: row["name"])
        page = templates.get_template("contact_sheet.html.jinja").render(style=style, rows=rows, estimate=self.estimate)
        write_text(self.path, page)


def _picture(shown: Thumbnail, colors: Sequence[str]) -> dict[str, Any]:
    """The slice with the outlines of its classes, as a data URL."""
    picture = np.repeat(shown.image[..., None], 3, axis=2)
    edge = np.zeros(shown.classes.shape, bool)
    for axis in (0, 1):
        differs = np.diff(shown.classes, axis=axis) != 0
        edge |= np.pad(differs, [(0, int(axis == 0)), (0, int(axis == 1))])
        edge |= np.pad(differs, [(int(axis == 0), 0), (int(axis == 1), 0)])
    for index, color in enumerate(colors, start=1):
        picture[edge & (shown.classes == index)] = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="JPEG", quality=85, subsampling=0)
    rows, columns = shown.image.shape
    return {
        "source": f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}",
        "ratio": f"{columns / (rows * shown.row_to_column):.4f}",
        "number": shown.number,
    }
