"""Trainings on input that is senseless: refused, warned of, or right for a reason."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from support.bundle_runs import TINY, CohortFolder, run_here

Keys = dict[str, Any]


def check_start(cohort: CohortFolder, output_dir: Path, keys: Keys, expected: str, caplog: Any) -> None:
    """A training of one step is refused by a message before it writes, or runs.

    Args:
        cohort: to train on.
        output_dir: of the training.
        keys: overrides.
        expected: the message; after "warned: " that of a warning, after "right: " why there is nothing to say.
        caplog: pytest's.
    """
    settings = {**TINY, "dataset_dir": str(cohort.root), "output_dir": str(output_dir), "max_iterations": 1, **keys}
    if expected.startswith(("warned: ", "right: ")):
        with caplog.at_level(logging.WARNING):
            run_here("training", "train.json", **settings)
        kind, _, text = expected.partition(": ")
        warnings = [message for message in caplog.messages if not re.search("other axes|nvImage|Logging file", message)]
        if kind == "warned":
            assert any(re.search(text, message) for message in warnings), warnings
        return
    with pytest.raises(SystemExit, match=expected) as caught:
        run_here("training", "train.json", **settings)
    assert isinstance(caught.value.code, str)
    assert not output_dir.exists()
