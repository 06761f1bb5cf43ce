"""One step's forward pass: its output, and which tokens are perturbed."""

from __future__ import annotations

import pytest
import torch
from support.training_parts import Shift, make_images, make_module

from vqseg_bundle.layers import QuantizedPerturbation, class_balance, code_use_entropy, lookup
from vqseg_bundle.networks import VQSegOutput


def _assert_equal_outputs(left: VQSegOutput, right: VQSegOutput) -> None:
    assert len(left.quantized_skips) == len(right.quantized_skips)
    pairs = [(left, right), *zip(left.quantized_skips, right.quantized_skips, strict=True)]
    for one, other in pairs:
        for name, value in one._asdict().items():
            assert name == "quantized_skips" or torch.equal(value, getattr(other, name)), name


def test_every_field_has_the_documented_shape():
    output = make_module(Shift(), adapter=True)(*make_images(), grid=(3, 4))
    assert output.quantized_skips == []
    shapes = {name: tuple(value.shape) for name, value in output._asdict().items() if name != "quantized_skips"}
    assert shapes == {
        "labeled_logits": (2, 3, 16, 16),
        "unlabeled_logits": (3, 3, 16, 16),
        "reconstruction": (5, 1, 16, 16),
        "adapted": (5, 7, 3, 4),
        "features": (5, 5, 4, 4),
        "indices": (5, 4, 4),
        "codebook": (16, 5),
        "commitment_loss": (),
        "entropy_loss": (),
    }
    assert output.indices.dtype is torch.int64
    assert not output.features.requires_grad
    assert not output.codebook.requires_grad


def test_volumes_of_odd_size():
    module = make_module(QuantizedPerturbation(), adapter=True, spatial_dims=3, strides=(2, (2, 2, 1)))
    output = module(torch.randn(1, 1, 9, 12, 6), torch.randn(2, 1, 9, 12, 6), grid=(2, 2, 3))
    assert output.labeled_logits.shape == (1, 3, 9, 12, 6)
    assert output.unlabeled_logits.shape == (2, 3, 9, 12, 6)
    assert output.reconstruction.shape == (3, 1, 9, 12, 6)
    assert output.adapted.shape == (3, 7, 2, 2, 3)
    assert output.indices.shape == (3, 3, 3, 3)


def test_tokens_of_padding_reach_no_adapted_feature():
    """Ten pixels at stride 4 are padded to three tokens by the deepest one of two levels, and two more by another."""
    module = make_module(adapter=True, strides=(2, 2, 2), channels=(4, 6, 8, 8), code_level=1)
    images = torch.randn(1, 1, 10, 16)
    seen: list[torch.Tensor] = []
    module.adapter.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    output = module(images, None, grid=(2, 2))
    assert output.features.shape[2:] == (8, 8)
    assert seen[0].shape[2:] == (5, 8)
    assert output.adapted.shape == (1, 7, 2, 2)


def test_without_adapter_image_decoder_and_quantiser_their_fields_are_empty():
    labeled, unlabeled = make_images()
    output = make_module(reconstruction=False, num_embeddings=None)(labeled, unlabeled, grid=(3, 4))
    for name in ("reconstruction", "adapted", "indices", "codebook"):
        assert getattr(output, name).numel() == 0, name
    assert output.commitment_loss.item() == output.entropy_loss.item() == 0.0
    assert output.unlabeled_logits.shape == (3, 3, 16, 16)


def test_the_adapter_runs_only_for_a_grid():
    module = make_module(adapter=True)
    module.adapter.register_forward_hook(lambda *_: pytest.fail("the adapter ran without a grid"))
    assert module(*make_images()).adapted.numel() == 0


def test_without_unlabeled_batch_nothing_is_perturbed():
    shift = Shift()
    output = make_module(shift)(make_images()[0])
    assert shift.calls == []
    assert output.unlabeled_logits.shape == (0, 3, 16, 16)
    assert output.reconstruction.shape == (2, 1, 16, 16)


def test_the_perturbation_sees_the_unlabeled_indices_the_codebook_and_the_generator():
    shift, generator = Shift(), torch.Generator()
    output = make_module(shift)(*make_images(), generator=generator)
    ((indices, codebook, given),) = shift.calls
    assert torch.equal(indices, output.indices[2:])
    assert torch.equal(codebook, output.codebook)
    assert given is generator


def test_labelled_tokens_are_never_perturbed_and_unlabelled_ones_are():
    labeled, unlabeled = make_images()
    clean, perturbed = make_module()(labeled, unlabeled), make_module(Shift())(labeled, unlabeled)
    assert torch.equal(clean.labeled_logits, perturbed.labeled_logits)
    assert torch.equal(clean.reconstruction[:2], perturbed.reconstruction[:2])
    assert torch.equal(clean.indices, perturbed.indices)
    assert all((clean.unlabeled_logits[i] != perturbed.unlabeled_logits[i]).any() for i in range(3))
    assert all((clean.reconstruction[2 + i] != perturbed.reconstruction[2 + i]).any() for i in range(3))


@pytest.mark.parametrize("flags", [(False, True, False), (True, False, True), (False, False, False)])
def test_the_mask_says_which_unlabelled_images_are_perturbed(flags):
    labeled, unlabeled = make_images()
    clean, perturbed = make_module()(labeled, unlabeled), make_module(Shift())(labeled, unlabeled, perturbed=flags)
    torch.testing.assert_close(clean.labeled_logits, perturbed.labeled_logits)
    changed = [(clean.unlabeled_logits[i] - perturbed.unlabeled_logits[i]).abs().max().item() > 1e-4 for i in range(3)]
    assert changed == list(flags)


def test_only_the_chosen_images_indices_reach_the_perturbation():
    shift = Shift()
    output = make_module(shift)(*make_images(), perturbed=[True, False, True])
    assert torch.equal(torch.cat([call[0] for call in shift.calls]), output.indices[[2, 4]])


def test_a_mask_of_another_length_is_refused():
    with pytest.raises(ValueError, match="perturbed must hold 3 flags, one an unlabelled image, got 2"):
        make_module(Shift())(*make_images(), perturbed=[True, False])


def test_balanced_codes_weigh_each_class_alike() -> None:
    module = make_module(quantizer={"entropy_temperature": 0.5}, embedding_dim=5)
    labeled, unlabeled = make_images()
    classes = torch.zeros(5, 16, 16, dtype=torch.int64)
    classes[1, 3:9, 5:16] = 2
    plain = module(labeled, unlabeled, classes=classes).entropy_loss
    module.balance_codes = True
    output = module(labeled, unlabeled, classes=classes)
    tokens = output.features.movedim(1, -1).flatten(0, -2)
    weights = class_balance(classes, [4, 4], [4, 4], 3)
    expected = code_use_entropy(tokens, output.codebook, 0.5, weights=weights)
    torch.testing.assert_close(output.entropy_loss, expected)
    assert (expected - plain).abs() > 1e-3
    with pytest.raises(ValueError, match="balance_codes needs the classes of the images, got None"):
        module(labeled, unlabeled)


def test_perturbed_features_have_the_value_of_the_new_codeword():
    module = make_module(Shift(), skip_connections=False)
    labeled, unlabeled = make_images()
    output = module(labeled, unlabeled)
    moved = lookup((output.indices[2:] + 1) % 16, output.codebook)
    expected = module.network.decode_segmentation(moved, [], [16, 16])
    torch.testing.assert_close(output.unlabeled_logits, expected)
    torch.testing.assert_close(output.reconstruction[2:], module.network.decode_image(moved, [16, 16]))


def test_a_quantised_skip_connection_is_perturbed_by_a_draw_of_its_own_on_unlabelled_images_alone():
    shift, (labeled, unlabeled) = Shift(), make_images()
    module = make_module(shift, skip_connections=(False, "quantized"), quantizer={"entropy_temperature": 0.1})
    output = module(labeled, unlabeled)
    network, (skip,) = module.network, output.quantized_skips
    stage = network.skip_stages[1]
    assert [tuple(value.shape) for value in skip] == [(5, 5, 8, 8), (5, 8, 8), (16, 5)]
    assert not any(value.requires_grad for value in skip)
    assert torch.equal(skip.features, stage.projection(network.encode(torch.cat((labeled, unlabeled))).skips[1]))
    assert [tuple(call[0].shape) for call in shift.calls] == [(3, 4, 4), (3, 8, 8)]
    codes = [torch.cat((indices[:2], (indices[2:] + 1) % 16)) for indices in (output.indices, skip.indices)]
    seen = stage.expansion(lookup(codes[1], skip.codebook))
    expected = network.decode_segmentation(lookup(codes[0], output.codebook), [seen, seen], [16, 16])
    torch.testing.assert_close(torch.cat((output.labeled_logits, output.unlabeled_logits)), expected)
    losses = [
        quantizer(value.features)[2:] for quantizer, value in zip(network.quantizers(), (output, skip), strict=True)
    ]
    torch.testing.assert_close(output.commitment_loss, losses[0][0] + losses[1][0])
    torch.testing.assert_close(output.entropy_loss, losses[0][1] + losses[1][1])


def test_a_quantised_bottleneck_below_the_codes_is_perturbed_by_a_perturbation_of_its_own():
    labeled, unlabeled = make_images()
    codes, bottleneck = Shift(), Shift()
    module = make_module(codes, code_level=1, quantized_bottleneck=True)
    module.bottleneck_perturbation = bottleneck
    output = module(labeled, unlabeled)
    (deep,) = output.quantized_skips
    assert deep.indices.shape == (5, 4, 4)
    assert output.indices.shape == (5, 8, 8)
    assert torch.equal(bottleneck.calls[0][0], deep.indices[2:])
    assert torch.equal(codes.calls[0][0], output.indices[2:])
    torch.testing.assert_close(output.labeled_logits, module.network(labeled))
    stage = module.network.bottleneck_stage
    own = stage.quantizer(stage.projection(module.network.encode_maps(torch.cat((labeled, unlabeled)))[-1]))
    upper = module.network.quantizer(output.features)
    torch.testing.assert_close(output.commitment_loss, own.commitment_loss + upper.commitment_loss)
    # undisturbed from below, the unlabelled images have other codes
    module.bottleneck_perturbation = None
    calm = module(labeled, unlabeled)
    assert torch.equal(calm.indices[:2], output.indices[:2])
    assert not torch.equal(calm.features[2:], output.features[2:])
    assert torch.equal(calm.quantized_skips[0].indices, deep.indices)


def test_the_adapter_sees_the_clean_features_of_both_batches():
    labeled, unlabeled = make_images()
    clean = make_module(adapter=True)(labeled, unlabeled, (3, 3))
    perturbed = make_module(Shift(), adapter=True)(labeled, unlabeled, (3, 3))
    assert torch.equal(clean.adapted, perturbed.adapted)
    expected = make_module(adapter=True).adapter(lookup(clean.indices, clean.codebook), (3, 3))
    torch.testing.assert_close(clean.adapted, expected)


def test_eps_0_equals_no_perturbation():
    labeled, unlabeled = make_images()
    _assert_equal_outputs(
        make_module()(labeled, unlabeled), make_module(QuantizedPerturbation(perturb_prob=0.0))(labeled, unlabeled)
    )


def test_the_same_generator_state_gives_the_same_output():
    labeled, unlabeled = make_images()
    module = make_module(QuantizedPerturbation(perturb_prob=0.7))
    first = module(labeled, unlabeled, generator=torch.Generator().manual_seed(3))
    _assert_equal_outputs(first, module(labeled, unlabeled, generator=torch.Generator().manual_seed(3)))
    other = module(labeled, unlabeled, generator=torch.Generator().manual_seed(4))
    assert not torch.equal(first.unlabeled_logits, other.unlabeled_logits)


def test_the_training_module_agrees_with_the_deployed_network_on_labelled_images():
    module = make_module(Shift(), adapter=True).eval()
    labeled, unlabeled = make_images()
    torch.testing.assert_close(module(labeled, unlabeled, (3, 3)).labeled_logits, module.network(labeled))
