"""A network's weights: which go into which network, which are refused, and that inference changes none."""

from __future__ import annotations

import pytest
import torch
from support.training_parts import assert_same_tensors, make_network, state_of
from torch import nn

from vqseg_bundle.networks import VQSegNet

DECODER = "reconstruction_decoder."


def test_the_deepest_level_as_code_level_is_the_network_of_before():
    network = make_network(code_level=2)
    assert "code_level" not in network.arguments
    assert_same_tensors(state_of(network), make_network().state_dict())


@pytest.mark.parametrize("codebook_type", ["mapped", "ema"])
def test_eval_forward_changes_nothing(codebook_type):
    network = make_network(norm="batch", quantizer={"codebook_type": codebook_type, "entropy_temperature": 0.1}).eval()
    before, attributes = state_of(network), dict(network.__dict__)
    first = network(torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    network(torch.randn(3, 1, 20, 16))
    assert_same_tensors(before, network.state_dict())
    assert network.__dict__ == attributes
    again = network(torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(first, again)


def test_without_quantiser_no_level_has_codes():
    assert_same_tensors(
        state_of(make_network(num_embeddings=None, code_level=1)), make_network(num_embeddings=None).state_dict()
    )


def test_the_same_network_without_quantiser_is_a_plain_unet():
    quantised, plain = make_network(), make_network(num_embeddings=None)
    assert plain.quantizer is None
    extra = ("quantizer.", "code_projection.", "code_expansion.")
    shapes = {key: value.shape for key, value in quantised.state_dict().items() if not key.startswith(extra)}
    assert {key: value.shape for key, value in plain.state_dict().items()} == shapes
    image = torch.randn(1, 1, 16, 16)
    encoding = plain.encode(image)
    torch.testing.assert_close(encoding.features, plain.encoder(image)[-1])
    assert torch.equal(plain(image), plain.segmentation_decoder(encoding.features, encoding.skips))


def test_a_network_without_image_decoder_drops_exactly_that_decoders_keys():
    trained, deployed = make_network(), make_network(reconstruction=False)
    nn.init.normal_(trained.code_projection.weight)
    for parameter in deployed.parameters():
        nn.init.zeros_(parameter)
    trained_state = state_of(trained)
    result = deployed.load_state_dict(trained_state)
    assert result.missing_keys == [] == result.unexpected_keys
    assert trained_state.keys() - deployed.state_dict().keys() == {
        key for key in trained_state if key.startswith(DECODER)
    }
    assert_same_tensors(dict(deployed.state_dict()), trained.deployed_state_dict())
    image = torch.randn(1, 1, 16, 16)
    assert torch.equal(deployed.eval()(image), trained.eval()(image))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("reconstruction", [True, False])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state.pop("code_projection.bias"), r"1 entries missing \['code_projection.bias'\]"),
        (lambda state: state.update({"module.head": torch.zeros(1)}), r"1 unexpected \['module.head'\]"),
        (lambda state: state.update({"code_projection.bias": torch.zeros(7)}), r"1 of another shape \['code_proj"),
    ],
)
def test_any_other_mismatch_is_refused_and_changes_nothing(strict, reconstruction, spoil, message):
    state = state_of(make_network())
    spoil(state)
    network = make_network(reconstruction=reconstruction)
    before = state_of(network)
    with pytest.raises(RuntimeError, match=f"another VQSegNet: .*{message}.*model.json"):
        network.load_state_dict(state, strict=strict)
    assert_same_tensors(before, network.state_dict())


def test_weights_of_another_architecture_are_refused_by_a_lenient_loader():
    with pytest.raises(RuntimeError, match=r"these weights belong to another VQSegNet: 0 entries missing .* 0 unexpec"):
        make_network().load_state_dict(make_network(num_embeddings=32).state_dict(), strict=False)
    with pytest.raises(RuntimeError, match=r"unexpected \['code_projection"):
        make_network(num_embeddings=None).load_state_dict(make_network().state_dict(), strict=False)


def test_a_training_network_takes_deployed_weights_only_when_lenient():
    deployed = {key: torch.randn_like(value) for key, value in make_network().deployed_state_dict().items()}
    network = make_network()
    before = state_of(network)
    with pytest.raises(RuntimeError, match=rf"entries missing \['{DECODER}"):
        network.load_state_dict(deployed)
    network.load_state_dict(deployed, strict=False)
    assert_same_tensors(network.deployed_state_dict(), deployed)
    decoder = {key: value for key, value in before.items() if key.startswith(DECODER)}
    assert len(decoder) > 0
    assert_same_tensors({key: network.state_dict()[key] for key in decoder}, decoder)


def test_half_an_image_decoder_is_no_deployed_network():
    state = state_of(make_network())
    state.pop(f"{DECODER}head.conv.conv.weight")
    with pytest.raises(RuntimeError, match=rf"1 entries missing \['{DECODER}head.conv.conv.weight'\]"):
        make_network().load_state_dict(state, strict=False)


def test_recorded_arguments_rebuild_the_network():
    network = make_network(strides=((2, 1), 2), skip_connections=(False, "quantized"), quantizer={"normalize": True})
    rebuilt = VQSegNet(**network.arguments)
    rebuilt.load_state_dict(network.state_dict())
    image = torch.randn(1, 1, 16, 16)
    assert torch.equal(rebuilt.eval()(image), network.eval()(image))
