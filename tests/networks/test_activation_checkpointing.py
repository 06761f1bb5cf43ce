from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vqseg_bundle.networks import VQSegNet, VQSegTrainingModule


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
