"""What moves a quantiser's codewords besides gradients: moving averages and revival."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from support.layer_parts import KINDS, SHAPES, make_quantizer

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_ema_update_pairs_each_token_with_its_own_code(spatial_dims, normalize):
    quantizer = make_quantizer(spatial_dims, 5, codebook_type="ema", normalize=normalize, ema_decay=0.0)
    features = torch.randn(SHAPES[spatial_dims])
    indices = quantizer(features).indices
    used = indices.unique()
    quantizer.update(features, indices)
    for code in used.tolist():
        members = torch.stack([features[(b, slice(None), *site)] for b, *site in (indices == code).nonzero().tolist()])
        members = F.normalize(members, dim=1) if normalize else members
        torch.testing.assert_close(quantizer.codebook.codewords[code], members.mean(dim=0))
    assert len(used) > 1


def test_ema_updates_bring_the_codewords_to_the_features():
    quantizer, features = make_quantizer(codebook_type="ema", ema_decay=0.5), torch.randn(SHAPES[2]) + 3.0
    errors = []
    for _ in range(8):
        output = quantizer(features)
        errors.append(output.commitment_loss.item())
        quantizer.update(features, output.indices)
    assert errors[-1] < 0.5 * errors[0]


def test_update_leaves_a_mapped_codebook_alone():
    quantizer, features = make_quantizer(), torch.randn(SHAPES[2])
    before = copy.deepcopy(quantizer.state_dict())
    quantizer.update(features, quantizer(features).indices)
    torch.testing.assert_close(quantizer.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "normalize"), list(itertools.product(KINDS, [False, True])))
def test_revive_places_codewords_on_features(kind, normalize):
    quantizer = make_quantizer(codebook_type=kind, normalize=normalize)
    if kind == "mapped":
        torch.nn.init.normal_(quantizer.codebook.mapping.weight)
    before = quantizer.project_codebook().detach()
    codes, places = torch.tensor([39, 4]), 9.0 * torch.randn(2, 6)
    quantizer.revive(codes, places)
    after = quantizer.project_codebook().detach()
    expected = F.normalize(places, dim=1) if normalize else places
    torch.testing.assert_close(after[codes], expected, rtol=1e-4, atol=1e-4)
    # before normalization, too: later moving averages add unit tokens
    torch.testing.assert_close(quantizer.codebook()[codes], expected, rtol=1e-4, atol=1e-4)
    kept = [code for code in range(40) if code not in codes.tolist()]
    assert torch.equal(after[kept], before[kept])
    features = places.t().reshape(1, 6, 1, 2)
    assert quantizer(features).indices.flatten().tolist() == codes.tolist()
