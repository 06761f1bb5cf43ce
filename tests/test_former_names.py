"""Commands that were renamed say their new names."""

from __future__ import annotations

import importlib.util
import runpy

import pytest

FORMER = {
    "compare": "comparison",
    "convert_checkpoint": "published",
    "measure_alignment": "alignment",
    "plot_codebook": "figures codebook",
    "plot_perturbation": "figures perturbation",
}


@pytest.mark.parametrize(("former", "new"), FORMER.items())
def test_a_former_name_says_the_new_one(former: str, new: str) -> None:
    with pytest.raises(SystemExit, match=rf"scripts\.{former} is now python -m scripts\.{new}, with the same options"):
        runpy.run_module(f"scripts.{former}", run_name="__main__")
    assert importlib.util.find_spec(f"scripts.{new.split()[0]}.__main__") is not None
