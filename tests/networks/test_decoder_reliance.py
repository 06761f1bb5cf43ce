"""What decoders are given: reliance on codes and skip connections, and dropout of features in place of QPM."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.training_parts import make_images, make_module
from torch import Tensor, nn

from vqseg_bundle.layers import Codes, FeatureDropout, QuantizedPerturbation, VectorQuantizer, lookup
from vqseg_bundle.networks import CodeExchange, Encoding, SkipsCut, VQNetwork, VQSegNet, code_reliance, soft_overlap


class TwoWays(VQNetwork):
    """Three classes that are written into the image as 0, 1, 2; a weight says how far the decoder reads its codes."""

    def __init__(self, by_codes: float) -> None:
        super().__init__({}, [1, 1], 3, 1)
        self.by_codes = by_codes
        self.quantizer = VectorQuantizer(2, 3, 3, "ema")
        self.quantizer.codebook.codewords.copy_(torch.eye(3))

    def encode(self, image: Tensor) -> Encoding:
        classes = nn.functional.one_hot(image[:, 0].long(), 3).movedim(-1, 1).float()
        return Encoding(classes, [classes])

    def decode_segmentation(self, quantized: Tensor, skips: list[Tensor], size: list[int]) -> Tensor:
        return 100.0 * (self.by_codes * quantized + (1.0 - self.by_codes) * skips[0])

    def decode_image(self, quantized: Tensor, size: list[int]) -> Tensor:
        raise NotImplementedError

    def check_patch_size(self, patch_size: Any) -> None:
        pass


def _images() -> Tensor:
    """Class 1 in the upper half, class 2 in the lower one, and the other way round: nothing in common."""
    first = torch.ones(1, 1, 4, 4)
    first[:, :, 2:] = 2.0
    return torch.cat((first, first.flip(2)))


def test_a_decoder_that_reads_codes_alone_loses_everything_with_another_images():
    found = code_reliance(TwoWays(by_codes=1.0).eval(), _images())
    assert found.codes.item() == 1.0
    assert found.skips.item() == 0.0


def test_a_decoder_that_reads_no_codes_loses_nothing():
    found = code_reliance(TwoWays(by_codes=0.0).eval(), _images())
    assert found.codes.item() == 0.0
    # without maps all three classes are as likely: 1 - 2 (1 / 3) / (1 + 2 / 9) for p half one, half zero
    assert found.skips.item() == pytest.approx(1.0 - (2 * 0.5 / 3) / (0.5 + 1 / 9))


def test_half_of_an_image_of_other_codes_loses_half():
    first = torch.ones(1, 1, 4, 4)
    second = first.clone()
    first[:, :, 2:], second[:, :, 2:] = 2.0, 1.0
    # class 1: 8 of (8 + 16), class 2: 0 of (8 + 0), in both images
    found = code_reliance(TwoWays(by_codes=1.0).eval(), torch.cat((first, second)))
    assert found.codes.item() == pytest.approx(1.0 - (2 * 16 / (24 + 24) + 0.0) / 2, abs=1e-6)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("code_level", [None, 1])
def test_real_networks_with_one_way_shut(spatial_dims, code_level):
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"channels": (4, 6, 8), "strides": (2, 2), "num_embeddings": 16, "embedding_dim": 5}
    images = torch.randn(3, 1, *[8] * spatial_dims)
    without_skips = VQSegNet(spatial_dims, 1, 3, **sizes, code_level=code_level, skip_connections=False).eval()
    found = code_reliance(without_skips, images)
    assert found.codes > 0
    assert found.skips == 0
    without_codes = VQSegNet(spatial_dims, 1, 3, **sizes, code_level=code_level).eval()
    nn.init.zeros_(without_codes.code_expansion.weight)
    found = code_reliance(without_codes, images)
    assert found.codes == 0
    assert found.skips > 0


def test_it_leaves_the_network_and_the_random_state_alone():
    torch.manual_seed(0)
    network = VQSegNet(2, 1, 3, (4, 6), (2,), num_embeddings=16, embedding_dim=5).eval()
    before = [value.clone() for value in network.state_dict().values()]
    state = torch.get_rng_state()
    found = code_reliance(network, torch.ones(2, 1, 8, 8, requires_grad=True))
    assert not found.codes.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, before, network.state_dict().values()))


def test_overlap_in_numbers():
    first = torch.tensor([[[0.2, 0.5], [0.8, 0.0], [0.0, 0.5]]])
    assert soft_overlap(first, first).item() == 1.0
    second = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]])
    # class 1: 2 * 0.8 / (0.64 + 1), class 2: 0
    assert soft_overlap(first, second).item() == pytest.approx(1.6 / 1.64 / 2)
    absent = torch.tensor([[[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]])
    assert soft_overlap(absent, absent).item() == 1.0


def test_what_cannot_be_measured_is_refused():
    plain = VQSegNet(2, 1, 3, (4, 6), (2,), num_embeddings=None)
    with pytest.raises(ValueError, match="needs a network with quantiser"):
        code_reliance(plain, torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match="at least 2 images to exchange codes between, got 1"):
        code_reliance(TwoWays(1.0), torch.zeros(1, 1, 4, 4))


@pytest.mark.parametrize("code_level", [None, 1])
def test_a_pair_is_decoded_from_the_codes_of_the_second_and_the_skip_connections_of_the_first(code_level):
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"channels": (4, 6, 8), "strides": (2, 2), "num_embeddings": 16, "embedding_dim": 5}
    first, second = torch.randn(2, 2, 2, 9, 12)
    network = VQSegNet(2, 2, 3, **sizes, code_level=code_level).eval()
    exchange, cut = CodeExchange(network), SkipsCut(network)
    assert torch.equal(exchange.project_codebook(), network.project_codebook())
    assert torch.equal(exchange(torch.cat((first, first), dim=1)), network(first))
    exchanged = exchange(torch.cat((first, second), dim=1), network.project_codebook())
    assert not torch.equal(exchanged, network(first))
    assert not torch.equal(exchanged, network(second))
    assert torch.equal(cut.project_codebook(), network.project_codebook())
    assert not torch.equal(cut(first), network(first))
    closed = VQSegNet(2, 2, 3, **sizes, code_level=code_level, skip_connections=False).eval()
    assert torch.equal(CodeExchange(closed)(torch.cat((first, second), dim=1)), closed(second))
    assert torch.equal(SkipsCut(closed)(first), closed(first))


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
