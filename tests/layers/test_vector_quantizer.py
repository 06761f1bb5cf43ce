"""The quantiser's forward pass: nearest codes, losses and gradients, eager and scripted."""

from __future__ import annotations

import copy
import io
import itertools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from support.layer_parts import KINDS, SHAPES, make_quantizer, tokens_of
from torch import Tensor

from vqseg_bundle.layers import VectorQuantizer, code_use_entropy, lookup

pytestmark = pytest.mark.usefixtures("seeded")


def _nearest(tokens: Tensor, codebook: Tensor) -> Tensor:
    return (tokens.unsqueeze(1).double() - codebook.double()).square().sum(dim=2).argmin(dim=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_output_is_the_nearest_codeword_to_the_last_bit(spatial_dims, kind):
    quantizer = make_quantizer(spatial_dims, codebook_type=kind)
    features = torch.randn(SHAPES[spatial_dims])
    codebook = quantizer.project_codebook()
    output = quantizer(features, codebook=codebook)
    assert output.indices.dtype == torch.int64
    assert output.indices.shape == (features.shape[0], *features.shape[2:])
    assert torch.equal(output.indices.flatten(), _nearest(tokens_of(features), codebook))
    assert output.quantized.shape == features.shape
    assert torch.equal(tokens_of(output.quantized), codebook[output.indices.flatten()])
    assert output.indices.unique().numel() > 5


def test_lookup_inverts_the_quantization():
    quantizer = make_quantizer()
    output = quantizer(torch.randn(SHAPES[2]))
    assert torch.equal(lookup(output.indices, quantizer.project_codebook()), output.quantized)
    assert torch.equal(quantizer(output.quantized).indices, output.indices)


def test_a_codebook_passed_on_gives_what_the_own_one_gives():
    quantizer, features = make_quantizer(), torch.randn(SHAPES[2])
    own, passed = quantizer(features), quantizer(features, codebook=quantizer.project_codebook())
    for left, right in zip(own, passed, strict=True):
        assert torch.equal(left, right)


def test_a_codebook_passed_on_is_searched_as_it_is():
    quantizer = VectorQuantizer(2, 2, 1)
    output = quantizer(torch.tensor([-1.0, 4.0, 6.0]).view(1, 1, 1, 3), codebook=torch.tensor([[0.0], [10.0]]))
    assert output.indices.flatten().tolist() == [0, 0, 1]
    assert output.quantized.flatten().tolist() == [0.0, 0.0, 10.0]


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_passes_straight_through_to_the_features(kind):
    quantizer = make_quantizer(codebook_type=kind)
    features, weight = torch.randn(SHAPES[2], requires_grad=True), torch.randn(SHAPES[2])
    (quantizer(features).quantized * weight).sum().backward()
    assert torch.equal(features.grad, weight)
    assert all(parameter.grad is None for parameter in quantizer.parameters())


@pytest.mark.parametrize(
    ("kind", "commitment_cost", "expected"),
    [("mapped", 0.25, 1.25 * 0.075), ("mapped", 0.0, 0.075), ("ema", 0.25, 0.25 * 0.075), ("ema", 1.0, 0.075)],
)
def test_commitment_by_hand(kind, commitment_cost, expected):
    quantizer = VectorQuantizer(2, 2, 2, codebook_type=kind, commitment_cost=commitment_cost)
    # (0.2, 0.1) lies 0.05 from (0, 0), and (0.9, 0.7) lies 0.01 + 0.09 from (1, 1): 0.075 in the mean
    features = torch.tensor([[0.2, 0.9], [0.1, 0.7]]).view(1, 2, 1, 2)
    output = quantizer(features, codebook=torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert output.commitment_loss.shape == ()
    assert output.commitment_loss.item() == pytest.approx(expected, rel=1e-6)


def test_commitment_gradients_by_hand():
    quantizer = make_quantizer(commitment_cost=0.25)
    features = torch.randn(SHAPES[2], requires_grad=True)
    codebook = quantizer.project_codebook()
    output = quantizer(features, codebook=codebook)
    to_features, to_codebook = torch.autograd.grad(output.commitment_loss, (features, codebook), retain_graph=True)
    tokens = output.indices.numel()
    residual = features.detach() - output.quantized.detach()
    torch.testing.assert_close(to_features, 0.25 * 2 * residual / tokens)
    expected = torch.zeros_like(codebook).index_add_(0, output.indices.flatten(), tokens_of(residual) * -2 / tokens)
    torch.testing.assert_close(to_codebook, expected)
    output.commitment_loss.backward()
    torch.testing.assert_close(quantizer.codebook.mapping.weight.grad, expected.t() @ quantizer.codebook.basis)


def test_commitment_gives_an_ema_codebook_no_gradient():
    quantizer = make_quantizer(codebook_type="ema")
    features = torch.randn(SHAPES[2], requires_grad=True)
    output = quantizer(features)
    output.commitment_loss.backward()
    assert list(quantizer.parameters()) == []
    assert not any(buffer.requires_grad for buffer in quantizer.buffers())
    torch.testing.assert_close(
        features.grad, 0.25 * 2 * (features - output.quantized).detach() / output.indices.numel()
    )


@pytest.mark.parametrize(
    ("kind", "training", "normalize"), list(itertools.product(KINDS, [True, False], [True, False]))
)
def test_forward_changes_no_state(kind, training, normalize):
    quantizer = make_quantizer(codebook_type=kind, normalize=normalize, entropy_temperature=1.0).train(training)
    before = copy.deepcopy(quantizer.state_dict())
    assert len(before) == (2 if kind == "mapped" else 3)
    features = torch.randn(SHAPES[2])
    first, second = quantizer(features), quantizer(features)
    torch.testing.assert_close(quantizer.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(first.indices, second.indices)
    assert quantizer.training is training


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_changes_no_index_at_16384_codes(kind):
    quantizer, features = make_quantizer(num_embeddings=16_384, codebook_type=kind), torch.randn(2, 6, 12, 12) / 6**0.5
    plain = quantizer(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = quantizer(features)
    assert torch.equal(cast.indices, plain.indices)
    assert torch.equal(cast.quantized, plain.quantized)


def test_reduced_features_keep_their_type_and_give_a_float32_loss():
    quantizer = make_quantizer(entropy_temperature=1.0)
    output = quantizer(torch.randn(SHAPES[2]).bfloat16().requires_grad_())
    assert output.quantized.dtype == torch.bfloat16
    assert output.commitment_loss.dtype == output.entropy_loss.dtype == torch.float32
    (output.commitment_loss + output.entropy_loss).backward()
    assert quantizer.codebook.mapping.weight.grad.abs().max() > 0


def test_reduced_features_meet_the_codebook_in_full_precision():
    quantizer, features = make_quantizer(num_embeddings=4096), (torch.randn(2, 6, 16, 16) / 6**0.5).bfloat16()
    expected = _nearest(tokens_of(features), quantizer.project_codebook())
    assert torch.equal(quantizer(features).indices.flatten(), expected)


def test_float64_runs_in_float64():
    output = make_quantizer(entropy_temperature=1.0).double()(torch.randn(SHAPES[2]).double())
    assert {value.dtype for value in output} == {torch.float64, torch.int64}


@pytest.mark.parametrize(("kind", "normalize", "spatial_dims"), list(itertools.product(KINDS, [True, False], [2, 3])))
def test_scripted_equals_eager_also_under_autocast(kind, normalize, spatial_dims):
    quantizer = make_quantizer(spatial_dims, 4096, codebook_type=kind, normalize=normalize).eval()
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(quantizer), stream)
    stream.seek(0)
    scripted = torch.jit.load(stream)
    features = torch.randn(SHAPES[spatial_dims])
    eager = quantizer(features)
    # more than once: the second call may run another, optimized graph
    for autocast in (False, True, False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            output = scripted(features)
        assert torch.equal(output.indices, eager.indices)
        torch.testing.assert_close(output.quantized, eager.quantized, rtol=0, atol=1e-6)
        torch.testing.assert_close(output.commitment_loss, eager.commitment_loss)
    torch.testing.assert_close(scripted.project_codebook(), quantizer.project_codebook())


def test_scripted_gradient_reaches_encoder_and_mapping():
    scripted = torch.jit.script(make_quantizer())
    features = torch.randn(SHAPES[2], requires_grad=True)
    output = scripted(features)
    (output.quantized.sum() + output.commitment_loss).backward()
    assert (features.grad != 0).all()
    assert scripted.codebook.mapping.weight.grad.abs().max() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_normalize_makes_a_cosine_search_on_the_unit_sphere(kind):
    quantizer, features = make_quantizer(codebook_type=kind, normalize=True), torch.randn(SHAPES[2])
    codebook = quantizer.project_codebook()
    torch.testing.assert_close(codebook.norm(dim=1), torch.ones(40))
    output = quantizer(features)
    cosines = F.cosine_similarity(tokens_of(features).unsqueeze(1), codebook, dim=2)
    assert torch.equal(output.indices.flatten(), cosines.argmax(dim=1))
    assert torch.equal(quantizer(7.0 * features).indices, output.indices)
    torch.testing.assert_close(output.quantized.norm(dim=1), torch.ones(output.indices.shape))
    # on the sphere ||z - c||^2 = 2 - 2 cos
    scale = 1.25 if kind == "mapped" else 0.25
    torch.testing.assert_close(output.commitment_loss, scale * (2 - 2 * cosines.amax(dim=1)).mean())


@pytest.mark.parametrize("size", [2, 65_536])
@pytest.mark.parametrize("kind", KINDS)
def test_smallest_and_largest_codebook(size, kind):
    quantizer = VectorQuantizer(2, size, 4, codebook_type=kind, entropy_temperature=1.0)
    codes = torch.randint(size, (1, 3, 3))
    features = lookup(codes, quantizer.project_codebook()).detach().requires_grad_()
    output = quantizer(features)
    assert torch.equal(output.indices, codes)
    (output.quantized.sum() + output.entropy_loss).backward()
    assert features.grad.isfinite().all()


def test_all_tokens_may_share_one_code():
    quantizer = make_quantizer()
    target = quantizer.project_codebook()[17].detach()
    output = quantizer((target + 1e-3 * torch.randn(30, 6)).t().reshape(1, 6, 5, 6))
    assert output.indices.unique().tolist() == [17]
    assert output.commitment_loss.item() < 1e-4


def test_entropy_is_asked_for_and_belongs_to_training():
    features = torch.randn(SHAPES[2])
    assert make_quantizer()(features).entropy_loss.item() == 0.0
    quantizer = make_quantizer(entropy_temperature=0.5)
    expected = code_use_entropy(tokens_of(features), quantizer.project_codebook(), 0.5)
    assert quantizer(features).entropy_loss.item() == pytest.approx(expected.item(), abs=1e-6)
    assert expected.item() < -0.1
    assert quantizer.eval()(features).entropy_loss.item() == 0.0


def test_entropy_of_some_tokens_is_that_of_as_many_drawn_ones():
    """Of 30 tokens 7, others in each step, with weights of mean 1."""
    quantizer = make_quantizer(entropy_temperature=0.5, entropy_tokens=7)
    features, weights = torch.randn(1, 6, 5, 6, requires_grad=True), torch.rand(30)
    draws = []
    for _ in range(2):
        features.grad = None
        loss = quantizer(features, weights=weights).entropy_loss
        loss.backward()
        chosen = features.grad.abs().sum(dim=1).flatten().nonzero().flatten()
        assert len(chosen) == 7
        tokens, share = tokens_of(features.detach())[chosen], weights[chosen] / weights[chosen].mean()
        expected = code_use_entropy(tokens, quantizer.project_codebook(), 0.5, weights=share)
        assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
        draws.append(chosen.tolist())
    assert draws[0] != draws[1]
    with pytest.raises(ValueError, match="entropy_tokens must be at least 1, or None for all tokens, got 0"):
        make_quantizer(entropy_tokens=0)


def test_entropy_gradient_reaches_encoder_and_mapping():
    quantizer, features = make_quantizer(entropy_temperature=0.5), torch.randn(SHAPES[2], requires_grad=True)
    quantizer(features).entropy_loss.backward()
    assert (features.grad.abs().amax(dim=1) > 0).all()
    assert quantizer.codebook.mapping.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 8, 4), "spatial_dims must be 2 or 3, got 1"),
        ((2, 1, 4), r"num_embeddings \(K, the number of codewords\) must be at least 2, got 1"),
        ((2, 8, 0), "embedding_dim must be at least 1, got 0"),
        ((2, 8, 4, "frozen"), 'codebook_type must be "mapped" or "ema", got \'frozen\''),
        ((2, 8, 4, "mapped", False, -0.5), "must not be negative, got -0.5 and 0.0"),
        ((2, 8, 4, "mapped", False, 0.25, -2.0), "must not be negative, got 0.25 and -2.0"),
        ((2, 8, 4, "mapped", False, 0.25, float("nan")), "must not be negative, got 0.25 and nan"),
        ((2, 8, 4, "ema", False, 0.25, 0.0, 1.0), r"decay must lie in \[0, 1\), got 1.0"),
    ],
)
def test_constructor_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        VectorQuantizer(*arguments)


@pytest.mark.parametrize("shape", [(2, 5, 4, 4), (2, 6, 4, 4, 4), (2, 6, 4)])
def test_forward_refuses_a_wrong_shape(shape):
    with pytest.raises(ValueError, match=r"features must be \(B, 6, \*S\) with 2 spatial dimensions, got shape"):
        make_quantizer()(torch.randn(shape))
