"""Every foundation model in its whole size against the package of its authors or users: same weights, same features."""

from __future__ import annotations

import pytest
from support.official_foundations import OFFICIAL_MODELS, largest_difference

from vqseg_bundle.networks.foundation import FOUNDATION_SPECS


def test_every_model_is_compared():
    """The other two have a size each, which test_foundation_families.py compares."""
    assert set(FOUNDATION_SPECS) == {*OFFICIAL_MODELS, "rad_dino", "biomedclip"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", OFFICIAL_MODELS)
def test_features_at_the_native_size_are_the_official_ones(name, tmp_path):
    assert largest_difference(name, tmp_path) < 1e-4
