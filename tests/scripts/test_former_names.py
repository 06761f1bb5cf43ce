"""Commands that were renamed say their new names."""

from __future__ import annotations

import re
import runpy

import pytest
from support.bundle_runs import command_here

FORMER = {
    "check_data": "vqseg check",
    "check_export": "vqseg check-export",
    "make_bundle": "vqseg bundle",
    "make_datalist": "vqseg data",
    "pack_bundle": "vqseg pack",
    "compare": "python -m scripts.comparison",
    "convert_checkpoint": "python -m scripts.published",
    "measure_alignment": "python -m scripts.alignment",
    "plot_codebook": "python -m scripts.figures codebook",
    "plot_perturbation": "python -m scripts.figures perturbation",
}


@pytest.mark.parametrize(("former", "new"), FORMER.items())
def test_a_former_name_says_the_new_one(former: str, new: str) -> None:
    with pytest.raises(SystemExit, match=rf"^python -m scripts\.{former} is now {re.escape(new)}, with the same"):
        runpy.run_module(f"scripts.{former}", run_name="__main__")


@pytest.mark.parametrize("new", FORMER.values())
def test_the_new_name_is_one(new: str) -> None:
    module, *words = new.removeprefix("python -m ").replace("vqseg ", "vqseg_bundle ").split()
    result = command_here(*words, "--help", module=module)
    assert result.returncode == 0
    assert new in result.stdout
