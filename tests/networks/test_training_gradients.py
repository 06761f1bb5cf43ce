"""Gradients of one step: through perturbed tokens, to every parameter, and with recomputed activations."""

from __future__ import annotations

import pytest
import torch
from support.training_parts import Shift, make_images, make_module
from torch import Tensor, nn

from vqseg_bundle.layers import QuantizedPerturbation
from vqseg_bundle.losses import VQSegLoss, VQSegTargets
from vqseg_bundle.networks import VQSegNet, VQSegTrainingModule


@pytest.mark.parametrize("eps", [0.5, 1.0])
def test_the_unlabelled_loss_reaches_the_encoder_through_perturbed_tokens(eps):
    module = make_module(QuantizedPerturbation(perturb_prob=eps), skip_connections=False, reconstruction=False)
    labeled, unlabeled = make_images()
    unlabeled.requires_grad_()
    output = module(labeled, unlabeled, generator=torch.Generator().manual_seed(0))
    target = torch.randint(3, (3, 16, 16), generator=torch.Generator().manual_seed(0))
    nn.functional.cross_entropy(output.unlabeled_logits, target).backward()
    assert all((image.abs() > 0).any() for image in unlabeled.grad)
    assert all((parameter.grad.abs() > 0).any() for parameter in module.network.encoder.stages[-1].parameters())
    assert (module.network.code_projection.weight.grad.abs() > 0).all()


def test_the_gradient_at_a_perturbed_token_is_the_replacing_codewords():
    module = make_module(Shift(), skip_connections=False, reconstruction=False)
    gradients: list[torch.Tensor] = []

    def keep_gradient_of_output(layer, inputs, output):
        output.register_hook(gradients.append)

    def keep_gradient_of_input(layer, inputs):
        inputs[0].register_hook(gradients.append)

    module.network.code_projection.register_forward_hook(keep_gradient_of_output)
    module.network.code_expansion.register_forward_pre_hook(keep_gradient_of_input)
    module(*make_images()).unlabeled_logits.square().sum().backward()
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
    module = make_module(
        QuantizedPerturbation() if with_codes else None,
        adapter=with_codes,
        num_embeddings=num_embeddings,
        skip_connections=(True, "quantized") if with_codes else True,
        quantizer={"codebook_type": codebook_type, "entropy_temperature": 0.1} if with_codes else None,
    )
    labeled, unlabeled = make_images()
    count = 5 if semi_supervised else 2
    output = module(labeled, unlabeled if semi_supervised else None, (3, 3) if with_codes else None)
    targets = VQSegTargets(
        images=torch.cat((labeled, unlabeled))[:count],
        labels=torch.randint(3, (2, 16, 16)),
        pseudo_probabilities=torch.rand(3, 3, 16, 16) if semi_supervised else torch.empty(0),
        entropy=torch.empty(0),
        stream_weights=(1.0,),
        foundation_features=torch.randn(count, 7, 3, 3),
    )
    loss = VQSegLoss(lambda_reconstruction=0.0, lambda_a=0.0, lambda_commitment=0.0)
    loss(output, targets, ramp=0.0).total.backward()
    without = [name for name, parameter in module.named_parameters() if parameter.grad is None]
    assert without == []


def _network(spatial_dims: int, activation_checkpointing: bool) -> VQSegNet:
    torch.manual_seed(0)
    return VQSegNet(
        spatial_dims,
        1,
        3,
        channels=(4, 8, 16),
        strides=(2, 2),
        num_embeddings=16,
        embedding_dim=8,
        dropout=0.3,
        activation_checkpointing=activation_checkpointing,
    ).train()


def _saved_and_gradients(network: VQSegNet, image: Tensor) -> tuple[int, list[Tensor]]:
    """Elements that the forward pass keeps for the backward pass, and the gradients of all parameters."""
    saved = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved += tensor.numel()
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        output = VQSegTrainingModule(network)(image)
        loss = output.labeled_logits.square().mean() + output.reconstruction.abs().mean() + output.commitment_loss
    loss.backward()
    return saved, [parameter.grad for parameter in network.parameters()]


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_same_gradients_from_less_memory(spatial_dims):
    image = torch.randn(2, 1, *[16] * spatial_dims, generator=torch.Generator().manual_seed(2))
    plain, expected = _saved_and_gradients(_network(spatial_dims, False), image)
    less, found = _saved_and_gradients(_network(spatial_dims, True), image)
    assert less < 0.4 * plain
    for gradient, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, reference)


def test_scripts_and_infers_the_same():
    image = torch.randn(1, 1, 16, 16)
    network = _network(2, True).eval()
    with torch.inference_mode():
        torch.testing.assert_close(torch.jit.script(network)(image), network(image))


def test_is_no_part_of_what_the_weights_depend_on():
    assert _network(2, True).arguments == _network(2, False).arguments


def test_refuses_batch_norm():
    with pytest.raises(ValueError, match="activation_checkpointing must be off with norm 'batch'"):
        VQSegNet(2, 1, 3, channels=(4, 8), strides=(2,), norm="batch", activation_checkpointing=True)
