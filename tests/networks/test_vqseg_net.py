"""VQ-Seg's network: logits of any size, where its codes lie, and what each decoder sees."""

from __future__ import annotations

import pytest
import torch
from support.training_parts import assert_same_tensors, make_network, state_of
from torch import nn

from vqseg_bundle.layers import lookup
from vqseg_bundle.networks import VQSegNet


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(16, 16), (17, 30), (9, 13)])
def test_forward_gives_one_logits_tensor_of_the_images_size(training, size):
    logits = make_network().train(training)(torch.randn(2, 1, *size))
    assert type(logits) is torch.Tensor
    assert logits.shape == (2, 3, *size)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(16, 16, 8), (13, 18, 5)])
def test_forward_takes_volumes_and_anisotropic_strides(training, size):
    network = make_network(spatial_dims=3, in_channels=2, strides=((2, 2, 1), 2)).train(training)
    assert network.stride == [4, 4, 2]
    logits = network(torch.randn(1, 2, *size))
    assert type(logits) is torch.Tensor
    assert logits.shape == (1, 3, *size)


def test_tokens_cover_the_strides_product():
    network = make_network(strides=((2, 1), (4, 2)))
    assert network.encode(torch.randn(1, 1, 30, 7)).features.shape == (1, 5, 4, 4)  # 32 / 8 and 8 / 2
    assert network(torch.randn(1, 1, 30, 7)).shape == (1, 3, 30, 7)


def test_odd_sizes_are_padded_at_the_far_ends_by_repetition():
    network = make_network().eval()
    image = torch.randn(1, 1, 14, 15)
    padded = torch.cat((image, image[..., -1:]), dim=3)  # 15 -> 16
    padded = torch.cat((padded, padded[:, :, -1:], padded[:, :, -1:]), dim=2)  # 14 -> 16
    torch.testing.assert_close(network(image), network(padded)[..., :14, :15], rtol=0, atol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_embeddings": None},
        {"reconstruction": False, "skip_connections": (False, True)},
        {"skip_connections": (True, "quantized"), "quantizer": {"normalize": True}},
        {"code_level": 1},
        {"code_level": 1, "skip_connections": False},
        {"code_level": 1, "quantized_bottleneck": True},
        {"skip_connections": False, "dropout": 0.2, "quantizer": {"normalize": True, "codebook_type": "ema"}},
    ],
)
def test_scripted_network_equals_the_eager_one(changes):
    network = make_network(**changes).eval()
    scripted = torch.jit.script(network)
    for size in ((16, 12), (9, 17)):
        image = torch.randn(2, 1, *size)
        torch.testing.assert_close(scripted(image), network(image), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("code_level", [None, 1])
def test_scripted_3d_network_equals_the_eager_one(code_level):
    network = make_network(spatial_dims=3, strides=(2, (2, 2, 1)), reconstruction=False, code_level=code_level).eval()
    image = torch.randn(1, 1, 9, 12, 7)
    torch.testing.assert_close(torch.jit.script(network)(image), network(image), rtol=1e-5, atol=1e-6)


def test_only_the_deployed_path_runs_in_forward():
    network = make_network()
    network.reconstruction_decoder.register_forward_hook(lambda *_: pytest.fail("the image decoder ran"))
    assert network(torch.randn(1, 1, 16, 16)).shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("skip_connections", "seen"),
    [
        (True, [True, True]),
        (False, [False, False]),
        ((True, False), [True, False]),
        ((False, True), [False, True]),
        ((False, "quantized"), [False, True]),
    ],
)
def test_skip_connections_are_chosen_level_by_level(skip_connections, seen):
    network = make_network(skip_connections=skip_connections).eval()
    features, skips = network.encode(torch.randn(1, 1, 16, 16))
    logits = network.decode_segmentation(features, skips, [16, 16])
    for level, expected in enumerate(seen):
        changed = [skip + torch.randn_like(skip) * (index == level) for index, skip in enumerate(skips)]
        assert torch.equal(network.decode_segmentation(features, changed, [16, 16]), logits) is not expected


def test_without_skip_connections_the_logits_are_a_function_of_the_codes():
    network = make_network(skip_connections=False).eval()
    image = torch.randn(1, 1, 16, 16)
    codes = network.quantizer(network.encode(image).features).quantized
    torch.testing.assert_close(network.decode_segmentation(codes, [], [16, 16]), network(image), rtol=0, atol=0)


def test_codes_above_the_bottleneck_hold_what_all_deeper_levels_see():
    network = make_network(channels=(4, 6, 8, 10), strides=(2, (4, 2), 2), code_level=2).eval()
    image = torch.randn(2, 1, 30, 27)
    encoding = network.encode(image)
    assert network.stride == [8, 4]
    assert network.arguments["code_level"] == 2
    assert encoding.features.shape == (2, 5, 4, 8)  # 32 / 8 and 32 / 4: padded to the bottleneck's 16 and 8
    assert [skip.shape[1] for skip in encoding.skips] == [4, 6]
    deeper = [*network.encoder.stages[2:], network.fusion]
    for stage in deeper:
        before = state_of(stage)
        for parameter in stage.parameters():
            nn.init.normal_(parameter)
        changed = network.encode(image)
        stage.load_state_dict(before)
        assert not torch.equal(changed.features, encoding.features)
        assert all(map(torch.equal, changed.skips, encoding.skips))


def test_above_the_bottleneck_too_the_logits_hang_on_codes_and_shallow_skip_connections_alone():
    network = make_network(code_level=1).eval()
    image = torch.randn(1, 1, 16, 16)
    features, skips = network.encode(image)
    codes = network.quantizer(features).quantized
    assert torch.equal(network.decode_segmentation(codes, skips, [16, 16]), network(image))
    assert network.decode_image(codes, [16, 16]).shape == (1, 1, 16, 16)
    closed = make_network(code_level=1, skip_connections=False).eval()
    codes = closed.quantizer(closed.encode(image).features).quantized
    assert torch.equal(closed.decode_segmentation(codes, [], [16, 16]), closed(image))


def test_a_quantised_bottleneck_lies_below_the_codes():
    network = make_network(code_level=1, quantized_bottleneck=True).eval()
    image = torch.randn(2, 1, 16, 16)
    first, last = network.quantizers()
    assert first is network.quantizer
    assert last is network.bottleneck_stage.quantizer
    maps = network.encode_maps(image)
    codes = lookup(last(network.bottleneck_stage.projection(maps[-1])).indices, last.project_codebook())
    features = network.fuse([*maps[:-1], network.bottleneck_stage.expansion(codes)]).features
    assert torch.equal(network.encode(image).features, features)
    rebuilt = VQSegNet(**network.arguments)
    rebuilt.load_state_dict(network.state_dict())
    assert torch.equal(rebuilt.eval()(image), network(image))
    assert_same_tensors(state_of(make_network(quantized_bottleneck=True)), state_of(make_network()))


def test_with_every_skip_connection_quantised_the_logits_are_a_function_of_the_codes():
    network = make_network(skip_connections="quantized").eval()
    image = torch.randn(1, 1, 16, 16)
    encoding = network.encode(image)
    first, *others = network.quantizers()
    assert first is network.quantizer
    assert len({id(quantizer) for quantizer in network.quantizers()}) == 3
    skips = [
        stage.expansion(lookup(quantizer(stage.projection(skip)).indices, quantizer.project_codebook()))
        for stage, quantizer, skip in zip(network.skip_stages, others, encoding.skips, strict=True)
    ]
    logits = network.decode_segmentation(first(encoding.features).quantized, skips, [16, 16])
    torch.testing.assert_close(logits, network(image), rtol=0, atol=0)


def test_the_image_decoder_sees_the_post_vq_features_alone():
    network = make_network()
    image = torch.randn(2, 1, 15, 18, requires_grad=True)
    encoding = network.encode(image)
    codes = network.quantizer(encoding.features).quantized
    reconstruction = network.decode_image(codes, [15, 18])
    assert reconstruction.shape == image.shape
    # cut at the codes, nothing leads back to the image
    assert network.decode_image(codes.detach(), [15, 18]).requires_grad
    (gradient,) = torch.autograd.grad(network.decode_image(codes.detach(), [15, 18]).sum(), image, allow_unused=True)
    assert gradient is None
    (through_codes,) = torch.autograd.grad((reconstruction * torch.randn_like(image)).sum(), image)
    assert (through_codes.abs() > 0).any()


def test_image_decoder_widths_and_gradients_are_its_own():
    network = make_network(reconstruction_channels=(2, 3))
    assert network.reconstruction_decoder.head.conv.conv.weight.shape == (1, 2, 1, 1)
    codes = torch.randn(1, 5, 4, 4)
    network.decode_image(codes, [16, 16]).square().sum().backward()
    assert all(parameter.grad is None for parameter in network.segmentation_decoder.parameters())
    assert all(parameter.grad is not None for parameter in network.reconstruction_decoder.parameters())


def test_decode_image_without_image_decoder_is_refused():
    with pytest.raises(ValueError, match="built with reconstruction=False and has no image decoder"):
        make_network(reconstruction=False).decode_image(torch.randn(1, 5, 4, 4), [16, 16])


def test_dropout_acts_in_training_alone():
    image = torch.randn(1, 1, 16, 16)
    with_dropout = make_network(dropout=0.5)
    assert not torch.equal(with_dropout(image), with_dropout(image))
    assert torch.equal(with_dropout.eval()(image), make_network().eval()(image))
    assert with_dropout.arguments["dropout"] == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strides": (2, 2, 2)}, r"3 channels want 2 strides, got 3"),
        ({"channels": (4,), "strides": ()}, r"strides must hold one entry between each two levels"),
        ({"strides": ((2, 2, 2), 2)}, r"each of strides must be one int or 2 ints, got \(2, 2, 2\)"),
        ({"skip_connections": (True,)}, r'skip_connections must be one of True, False and "quantized", or 2 .* got 1'),
        ({"skip_connections": (True, "vq")}, r"""connections must be True, False or "quantized", got 'vq'"""),
        ({"skip_connections": "quantized", "num_embeddings": None}, r'must not be "quantized" .* without quantiser'),
        ({"reconstruction_channels": (4, 4, 4)}, r"reconstruction_channels must hold 2 widths, .* got 3"),
        ({"code_level": 1, "reconstruction_channels": (4, 4)}, r"reconstruction_channels must hold 1 widths, .* got 2"),
        ({"code_level": 1, "skip_connections": (True, True)}, r"or 1 of them, got 2"),
        ({"code_level": 0}, r"code_level must be None \(the deepest level\) or lie between 1 and 2 .* got 0"),
        ({"code_level": 3}, r"between 1 and 2 .* got 3"),
        ({"num_embeddings": 1}, r"num_embeddings .* must be at least 2, got 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_network(**changes)


def test_without_codes_the_features_have_the_deepest_level_s_channels():
    """An adapter (PFA) that is built for ``embedding_dim`` fits them."""
    network = VQSegNet(2, 1, 3, (4, 6), (2,), num_embeddings=None, embedding_dim=64)
    assert network.encode(torch.zeros(1, 1, 8, 8)).features.shape[1] == network.embedding_dim == 6


def test_patches_that_end_within_a_token_are_refused_for_an_adapter():
    network = make_network()
    step = network.stride[0]
    network.check_whole_tokens([4 * step, 5 * step])
    message = rf"patch_size \[{4 * step + 1}, {5 * step - 1}\]: .* multiples of \[{step}, {step}\], .* the nearest are "
    with pytest.raises(ValueError, match=message + rf"\[{4 * step}, {5 * step}\]"):
        network.check_whole_tokens([4 * step + 1, 5 * step - 1])
