"""Files in a wheel besides the package; an editable install finds them in the checkout."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_CARRIED = {"configs": "vqseg_bundle/resources/configs", "LICENSE": "vqseg_bundle/resources/LICENSE"}


class CarriedFiles(BuildHookInterface):
    """Puts them where :func:`vqseg_bundle.common.project_folder` looks."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling; ``version`` is "standard" or "editable"."""
        if version == "standard":
            build_data["force_include"].update(_CARRIED)
