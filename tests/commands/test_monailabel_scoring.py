"""The scores for MONAI Label, without its server, which other tests start: its modules are stood in for."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import nibabel as nib
import pytest
from support.bundle_runs import make_volumes

APP = "vqseg_bundle.commands.deploying.monailabel_app"
PREPROCESSING = {
    "in_channels": 1,
    "slice_axis": "axial",
    "intensity_window": None,
    "spacing": None,
    "image_size": [16, 16],
}


class ScoringMethod:
    def __init__(self, description: str) -> None:
        self.description = description


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The application's module."""
    names = {
        "monaibundle_main": {"MyApp": type("MyApp", (), {})},
        "monailabel.interfaces.app": {"MONAILabelApp": type("MONAILabelApp", (), {})},
        "monailabel.interfaces.tasks.scoring": {"ScoringMethod": ScoringMethod},
        "monailabel.interfaces.tasks.strategy": {"Strategy": ScoringMethod},
        "monailabel.tasks.infer.bundle": {"BundleInferTask": object},
    }
    for name, content in names.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, APP, raising=False)
    yield importlib.import_module(APP)
    sys.modules.pop(APP, None)


def test_an_image_that_cannot_be_used_is_logged_and_the_others_are_scored(
    app: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.pt").touch()
    (tmp_path / "models" / "model.json").write_text(json.dumps({"preprocessing": PREPROCESSING}))
    images = {name: tmp_path / f"{name}.nii.gz" for name in ("a", "bad", "c")}
    for seed, path in enumerate(images.values()):
        nib.save(make_volumes(seed)[0], path)
    images["bad"].write_bytes(images["bad"].read_bytes()[:2000])
    infos: dict[str, Any] = {}
    store = SimpleNamespace(
        list_images=lambda: list(images),
        get_image_uri=lambda image: str(images[image]),
        get_unlabeled_images=lambda: list(images),
        get_image_info=lambda image: infos.get(image, {}),
        update_image_info=lambda image, info: infos.update({image: info}),
    )
    task = mock.Mock(return_value=({}, {"uncertainty": 0.25}))
    with caplog.at_level(logging.WARNING):
        assert app.UncertaintyScoring("tiny", str(tmp_path), task)({}, store) == {"total": 3, "executed": 2}
    assert {image: info["vqseg_tiny"]["uncertainty"] for image, info in infos.items()} == {"a": 0.25, "c": 0.25}
    (message,) = [each.getMessage() for each in caplog.records if each.name == APP]
    assert message.startswith(f"not scored: {images['bad']}: ")
