"""Dropout of features in the training module, in place of the perturbation of indices."""

from __future__ import annotations

import pytest
import torch
from support.training_parts import make_images, make_module

from vqseg_bundle.layers import Codes, FeatureDropout, QuantizedPerturbation, lookup


def test_the_dropout_twin_perturbs_post_vq_features_and_nothing_else():
    labeled, unlabeled = make_images()
    clean = make_module(adapter=True, skip_connections=False)(labeled, unlabeled, (3, 3))
    module = make_module(FeatureDropout(0.5), adapter=True, skip_connections=False)
    twin = module(labeled, unlabeled, (3, 3), torch.Generator().manual_seed(3))
    assert torch.equal(twin.indices, clean.indices)
    torch.testing.assert_close(twin.adapted, clean.adapted)
    dropped = FeatureDropout(0.5)(lookup(twin.indices[2:], twin.codebook), generator=torch.Generator().manual_seed(3))
    expected = module.network.decode_segmentation(dropped, [], [16, 16])
    torch.testing.assert_close(twin.unlabeled_logits, expected)
    torch.testing.assert_close(twin.reconstruction[2:], module.network.decode_image(dropped, [16, 16]))
    torch.testing.assert_close(twin.labeled_logits, module.network(labeled))


@pytest.mark.parametrize("perturb_skips", [True, False])
def test_without_quantiser_dropout_perturbs_the_bottleneck_and_where_asked_the_skips(perturb_skips):
    labeled, unlabeled = make_images()
    dropout = FeatureDropout(0.5)
    module = make_module(dropout, num_embeddings=None, reconstruction=False, perturb_skips=perturb_skips)
    output = module(labeled, unlabeled, generator=torch.Generator().manual_seed(3), perturbed=[True, False, True])
    generator = torch.Generator().manual_seed(3)
    encoding = module.network.encode(unlabeled)
    maps = [encoding.features, *(encoding.skips if perturb_skips else [])]
    dropped = [
        torch.stack([dropout(part[:1], generator=generator)[0], part[1], dropout(part[2:], generator=generator)[0]])
        for part in maps
    ]
    skips = dropped[1:] if perturb_skips else encoding.skips
    expected = module.network.decode_segmentation(dropped[0], skips, [16, 16])
    torch.testing.assert_close(output.unlabeled_logits, expected)
    torch.testing.assert_close(output.labeled_logits, module.network(labeled))


def test_the_unlabelled_loss_reaches_the_whole_encoder_through_dropped_features():
    module = make_module(FeatureDropout(0.5), num_embeddings=None, reconstruction=False, perturb_skips=True)
    module(*make_images()).unlabeled_logits.square().sum().backward()
    for stage in module.network.encoder.stages:
        assert all((parameter.grad.abs() > 0).any() for parameter in stage.parameters())


def test_indices_cannot_be_perturbed_without_quantiser():
    with pytest.raises(
        ValueError, match=r"must work without codes \(FeatureDropout\), or be None, for a network without"
    ):
        make_module(QuantizedPerturbation(), num_embeddings=None)


@pytest.mark.parametrize("perturbation", [QuantizedPerturbation(), None])
def test_skips_cannot_be_perturbed_by_their_indices(perturbation):
    with pytest.raises(ValueError, match="perturb_skips needs a perturbation that works without codes"):
        make_module(perturbation, perturb_skips=True)


def test_a_perturbation_of_codes_moves_values_and_keeps_gradients():
    codebook = torch.arange(8.0).reshape(4, 2)
    indices = torch.tensor([[[0, 1], [2, 3]]])
    features = lookup(indices, codebook).requires_grad_()
    output = QuantizedPerturbation(1.0, "auto")(features, Codes(indices, codebook), torch.Generator().manual_seed(0))
    moved = QuantizedPerturbation(1.0, "auto").perturb_indices(indices, codebook, torch.Generator().manual_seed(0))
    assert (moved != indices).all()
    assert torch.equal(output.detach(), lookup(moved, codebook))
    output.sum().backward()
    assert torch.equal(features.grad, torch.ones_like(features))
    with pytest.raises(ValueError, match=r"QuantizedPerturbation needs the codes of the features, got None"):
        QuantizedPerturbation()(features)
