from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from vqseg_bundle.layers import PostVQFeatureAdapter, QuantizedPerturbation, lookup
from vqseg_bundle.losses import VQSegLoss, VQSegTargets
from vqseg_bundle.networks import VQSegNet, VQSegOutput, VQSegTrainingModule


class Shift(nn.Module):
    """Moves every token to the next code and keeps what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[torch.Tensor, torch.Tensor, torch.Generator | None]] = []

    def forward(self, indices, codebook, generator=None):
        self.calls.append((indices.clone(), codebook, generator))
        return (indices + 1) % len(codebook)


def _module(perturbation: nn.Module | None = None, adapter: bool = False, **changes: Any) -> VQSegTrainingModule:
    arguments: dict[str, Any] = {
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 3,
        "channels": (4, 6, 8),
        "strides": (2, 2),
        "num_embeddings": 16,
        "embedding_dim": 5,
    }
    torch.manual_seed(0)
    network = VQSegNet(**(arguments | changes))
    spatial_dims = network.arguments["spatial_dims"]
    return VQSegTrainingModule(network, perturbation, PostVQFeatureAdapter(spatial_dims, 5, 7) if adapter else None)


def _images(labeled: int = 2, unlabeled: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(labeled, 1, 16, 16, generator=generator), torch.randn(unlabeled, 1, 16, 16, generator=generator)


def _assert_equal_outputs(left: VQSegOutput, right: VQSegOutput) -> None:
    for name, value in left._asdict().items():
        assert torch.equal(value, getattr(right, name)), name


def test_every_field_has_the_documented_shape():
    output = _module(Shift(), adapter=True)(*_images(), grid=(3, 4))
    shapes = {name: tuple(value.shape) for name, value in output._asdict().items()}
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
    module = _module(QuantizedPerturbation(), adapter=True, spatial_dims=3, strides=(2, (2, 2, 1)))
    output = module(torch.randn(1, 1, 9, 12, 6), torch.randn(2, 1, 9, 12, 6), grid=(2, 2, 3))
    assert output.labeled_logits.shape == (1, 3, 9, 12, 6)
    assert output.unlabeled_logits.shape == (2, 3, 9, 12, 6)
    assert output.reconstruction.shape == (3, 1, 9, 12, 6)
    assert output.adapted.shape == (3, 7, 2, 2, 3)
    assert output.indices.shape == (3, 3, 3, 3)


def test_without_adapter_image_decoder_and_quantiser_their_fields_are_empty():
    labeled, unlabeled = _images()
    output = _module(Shift(), reconstruction=False, num_embeddings=None)(labeled, unlabeled, grid=(3, 4))
    for name in ("reconstruction", "adapted", "indices", "codebook"):
        assert getattr(output, name).numel() == 0, name
    assert output.commitment_loss.item() == output.entropy_loss.item() == 0.0
    assert output.unlabeled_logits.shape == (3, 3, 16, 16)


def test_the_adapter_runs_only_for_a_grid():
    module = _module(adapter=True)
    module.adapter.register_forward_hook(lambda *_: pytest.fail("the adapter ran without a grid"))
    assert module(*_images()).adapted.numel() == 0


def test_without_unlabeled_batch_nothing_is_perturbed():
    shift = Shift()
    output = _module(shift)(_images()[0])
    assert shift.calls == []
    assert output.unlabeled_logits.shape == (0, 3, 16, 16)
    assert output.reconstruction.shape == (2, 1, 16, 16)


def test_the_perturbation_sees_the_unlabeled_indices_the_codebook_and_the_generator():
    shift, generator = Shift(), torch.Generator()
    output = _module(shift)(*_images(), generator=generator)
    ((indices, codebook, given),) = shift.calls
    assert torch.equal(indices, output.indices[2:])
    assert torch.equal(codebook, output.codebook)
    assert given is generator


def test_labelled_tokens_are_never_perturbed_and_unlabelled_ones_are():
    labeled, unlabeled = _images()
    clean, perturbed = _module()(labeled, unlabeled), _module(Shift())(labeled, unlabeled)
    assert torch.equal(clean.labeled_logits, perturbed.labeled_logits)
    assert torch.equal(clean.reconstruction[:2], perturbed.reconstruction[:2])
    assert torch.equal(clean.indices, perturbed.indices)
    assert all((clean.unlabeled_logits[i] != perturbed.unlabeled_logits[i]).any() for i in range(3))
    assert all((clean.reconstruction[2 + i] != perturbed.reconstruction[2 + i]).any() for i in range(3))


def test_perturbed_features_have_the_value_of_the_new_codeword():
    module = _module(Shift(), skip_connections=False)
    labeled, unlabeled = _images()
    output = module(labeled, unlabeled)
    moved = lookup((output.indices[2:] + 1) % 16, output.codebook)
    expected = module.network.decode_segmentation(moved, [], [16, 16])
    torch.testing.assert_close(output.unlabeled_logits, expected)
    torch.testing.assert_close(output.reconstruction[2:], module.network.decode_image(moved, [16, 16]))


def test_the_adapter_sees_the_clean_features_of_both_batches():
    labeled, unlabeled = _images()
    clean = _module(adapter=True)(labeled, unlabeled, (3, 3))
    perturbed = _module(Shift(), adapter=True)(labeled, unlabeled, (3, 3))
    assert torch.equal(clean.adapted, perturbed.adapted)
    expected = _module(adapter=True).adapter(lookup(clean.indices, clean.codebook), (3, 3))
    torch.testing.assert_close(clean.adapted, expected)


def test_eps_0_equals_no_perturbation():
    labeled, unlabeled = _images()
    _assert_equal_outputs(
        _module()(labeled, unlabeled), _module(QuantizedPerturbation(perturb_prob=0.0))(labeled, unlabeled)
    )


def test_the_same_generator_state_gives_the_same_output():
    labeled, unlabeled = _images()
    module = _module(QuantizedPerturbation(perturb_prob=0.7))
    first = module(labeled, unlabeled, generator=torch.Generator().manual_seed(3))
    _assert_equal_outputs(first, module(labeled, unlabeled, generator=torch.Generator().manual_seed(3)))
    other = module(labeled, unlabeled, generator=torch.Generator().manual_seed(4))
    assert not torch.equal(first.unlabeled_logits, other.unlabeled_logits)


def test_the_training_module_agrees_with_the_deployed_network_on_labelled_images():
    module = _module(Shift(), adapter=True).eval()
    labeled, unlabeled = _images()
    torch.testing.assert_close(module(labeled, unlabeled, (3, 3)).labeled_logits, module.network(labeled))


@pytest.mark.parametrize("eps", [0.5, 1.0])
def test_the_unlabelled_loss_reaches_the_encoder_through_perturbed_tokens(eps):
    module = _module(QuantizedPerturbation(perturb_prob=eps), skip_connections=False, reconstruction=False)
    labeled, unlabeled = _images()
    unlabeled.requires_grad_()
    output = module(labeled, unlabeled, generator=torch.Generator().manual_seed(0))
    target = torch.randint(3, (3, 16, 16), generator=torch.Generator().manual_seed(0))
    nn.functional.cross_entropy(output.unlabeled_logits, target).backward()
    assert all((image.abs() > 0).any() for image in unlabeled.grad)
    assert all((parameter.grad.abs() > 0).any() for parameter in module.network.encoder.stages[-1].parameters())
    assert (module.network.code_projection.weight.grad.abs() > 0).all()


def test_the_gradient_at_a_perturbed_token_is_the_replacing_codewords():
    module = _module(Shift(), skip_connections=False, reconstruction=False)
    gradients: list[torch.Tensor] = []

    def keep_gradient_of_output(layer, inputs, output):
        output.register_hook(gradients.append)

    def keep_gradient_of_input(layer, inputs):
        inputs[0].register_hook(gradients.append)

    module.network.code_projection.register_forward_hook(keep_gradient_of_output)
    module.network.code_expansion.register_forward_pre_hook(keep_gradient_of_input)
    module(*_images()).unlabeled_logits.square().sum().backward()
    at_codes, at_features = gradients
    torch.testing.assert_close(at_features, at_codes, rtol=0, atol=0)
    assert (at_codes[:2] == 0).all()
    assert (at_codes[2:] != 0).any()


@pytest.mark.parametrize("num_embeddings", [16, None])
@pytest.mark.parametrize("codebook_type", ["mapped", "ema"])
@pytest.mark.parametrize("semi_supervised", [True, False])
def test_every_parameter_gets_a_gradient_in_every_step(num_embeddings, codebook_type, semi_supervised):
    """What DistributedDataParallel asks for, even while weights and ramp are 0."""
    with_codes = num_embeddings is not None
    module = _module(
        QuantizedPerturbation() if with_codes else None,
        adapter=with_codes,
        num_embeddings=num_embeddings,
        quantizer={"codebook_type": codebook_type, "entropy_temperature": 0.1} if with_codes else None,
    )
    labeled, unlabeled = _images()
    count = 5 if semi_supervised else 2
    output = module(labeled, unlabeled if semi_supervised else None, (3, 3) if with_codes else None)
    targets = VQSegTargets(
        images=torch.cat((labeled, unlabeled))[:count],
        labels=torch.randint(3, (2, 16, 16)),
        pseudo_labels=torch.randint(3, (3, 16, 16)) if semi_supervised else torch.empty(0),
        confidence=torch.ones(3, 16, 16) if semi_supervised else torch.empty(0),
        foundation_features=torch.randn(count, 7, 3, 3),
    )
    loss = VQSegLoss(lambda_reconstruction=0.0, lambda_a=0.0, lambda_commitment=0.0)
    loss(output, targets, ramp=0.0).total.backward()
    without = [name for name, parameter in module.named_parameters() if parameter.grad is None]
    assert without == []
