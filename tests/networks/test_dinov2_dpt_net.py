"""The published architecture: DINOv2, quantised last level, DPT decoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.foundation_parts import randomize
from torch.nn.attention import SDPBackend, sdpa_kernel

from vqseg_bundle.engines import EMATeacher
from vqseg_bundle.layers import PostVQFeatureAdapter, QuantizedPerturbation
from vqseg_bundle.networks import (
    DINOv2DPTNet,
    DINOv2Encoder,
    DPTDecoder,
    VQSegNet,
    VQSegTrainingModule,
    build_network,
    describe_network,
)
from vqseg_bundle.networks.foundation import FOUNDATION_SPECS, DINOv2FoundationModel

SIZES = {"embed_dim": 32, "depth": 4, "num_heads": 2}


def network(**changes: Any) -> DINOv2DPTNet:
    arguments: dict[str, Any] = {
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 3,
        "encoder": "dinov2_vits14",
        "encoder_levels": (0, 1, 2, 3),
        "reassemble_channels": (4, 6, 8, 10),
        "fusion_channels": 8,
        "num_embeddings": 16,
        "encoder_sizes": SIZES,
        "reconstruction_channels": (4, 4, 8, 8),
    }
    torch.manual_seed(0)
    return DINOv2DPTNet(**(arguments | changes))


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(14, 14), (28, 42), (70, 56)])
@pytest.mark.parametrize("in_channels", [1, 3, 4])
def test_logits_and_reconstruction_have_the_images_size(size, in_channels):
    model = network(in_channels=in_channels)
    logits = model(images(2, in_channels, *size))
    assert type(logits) is torch.Tensor
    assert logits.shape == (2, 3, *size)
    output = VQSegTrainingModule(model)(images(2, in_channels, *size))
    assert output.reconstruction.shape == (2, in_channels, *size)
    assert output.indices.shape == (2, size[0] // 14, size[1] // 14)


def test_the_last_level_alone_is_quantised():
    model = network().eval()
    encoding = model.encode(images(1, 1, 28, 28))
    assert [tuple(level.shape) for level in (encoding.features, *encoding.skips)] == [(1, 32, 2, 2)] * 4
    quantized = model.quantizer(encoding.features)
    codebook = model.project_codebook()
    distances = torch.cdist(encoding.features.flatten(2)[0].T, codebook)
    assert torch.equal(quantized.indices.flatten(), distances.argmin(1))
    expected = model.decode_segmentation(quantized.quantized, encoding.skips, [28, 28])
    torch.testing.assert_close(model(images(1, 1, 28, 28)), expected, rtol=0, atol=0)
    moved = model.decode_segmentation(quantized.quantized.roll(1, 2), encoding.skips, [28, 28])
    assert not torch.allclose(moved, expected)
    for level in range(3):
        skips = [skip.roll(1, 2) if level == index else skip for index, skip in enumerate(encoding.skips)]
        assert not torch.allclose(model.decode_segmentation(quantized.quantized, skips, [28, 28]), expected)


def test_intensities_do_not_matter_up_to_scale_and_offset():
    model = network().eval()
    grey = images(1, 1, 28, 28)
    torch.testing.assert_close(model(300 * grey - 7), model(grey), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(network(in_channels=3).eval()(grey.expand(-1, 3, -1, -1)), model(grey))


def test_a_codebook_projected_once_gives_the_same():
    model = network().eval()
    torch.testing.assert_close(model(images(1, 1, 28, 28), model.project_codebook()), model(images(1, 1, 28, 28)))


def test_the_encoder_gives_what_the_frozen_foundation_model_gives(tmp_path):
    spec = FOUNDATION_SPECS["dinov2_vits14"]
    encoder = randomize(DINOv2Encoder("dinov2_vits14", [2, 5, 8, 11]))
    names = {name.replace("patch_embed.", "patch_embed.proj."): value for name, value in encoder.state_dict().items()}
    path = tmp_path / "weights.pth"
    torch.save(names, path)
    pixels = torch.rand(1, 1, 56, 56, generator=torch.Generator().manual_seed(0))
    loaded = DINOv2Encoder("dinov2_vits14", [2, 5, 8, 11], pretrained=True, weights=path).eval()
    frozen = DINOv2FoundationModel(spec, path, image_size=56)
    path.unlink()
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixels)[-1], frozen(pixels), rtol=1e-4, atol=1e-4)


def test_gradients_reach_every_weight():
    model = network(quantizer={"entropy_temperature": 0.1})
    module = VQSegTrainingModule(model, QuantizedPerturbation(0.5), PostVQFeatureAdapter(2, 32, 6))
    output = module(images(1, 1, 28, 28), images(2, 1, 28, 28), (3, 3), torch.Generator().manual_seed(0))
    assert output.adapted.shape == (3, 6, 3, 3)
    terms = (output.labeled_logits, output.unlabeled_logits, output.reconstruction, output.adapted)
    loss = sum(term.square().mean() for term in terms) + output.commitment_loss + output.entropy_loss
    loss.backward()
    without = [name for name, value in module.named_parameters() if value.grad is None or not value.grad.any()]
    assert without == []


def test_segmentation_alone_reaches_the_encoder_through_the_quantiser():
    model = network()
    encoding = model.encode(images(1, 1, 28, 28))
    quantized = model.quantizer(encoding.features).quantized
    (gradient,) = torch.autograd.grad(
        model.decode_segmentation(quantized, [skip.detach() for skip in encoding.skips], [28, 28]).square().mean(),
        model.encoder.pos_embed,
    )
    assert gradient.abs().max() > 0


def test_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        model = network(activation_checkpointing=checkpointing).train()
        # the flash kernel of the CPU sums in an order of its own
        with sdpa_kernel(SDPBackend.MATH):
            model(images(1, 1, 28, 28)).square().mean().backward()
        gradients.append(model.encoder.pos_embed.grad)
    torch.testing.assert_close(gradients[1], gradients[0])


def test_dropout_acts_in_training_alone():
    model = network(dropout=0.5)
    assert not torch.equal(model(images(1, 1, 28, 28)), model(images(1, 1, 28, 28)))
    model.eval()
    assert torch.equal(model(images(1, 1, 28, 28)), model(images(1, 1, 28, 28)))


@pytest.mark.parametrize("quantizer", [{}, {"normalize": True}, {"codebook_type": "ema"}])
def test_the_deployed_network_can_be_scripted(quantizer):
    trained = network(quantizer=quantizer)
    deployed = build_network({**describe_network(trained), "reconstruction": False, "dropout": 0.0}).eval()
    deployed.load_state_dict(trained.state_dict())
    scripted = torch.jit.script(deployed)
    for size in ((28, 42), (518, 518)):
        image = images(1, 1, *size)
        with torch.no_grad():
            expected = trained.eval()(image)
            torch.testing.assert_close(scripted(image), expected, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(scripted(image, scripted.project_codebook()), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(torch.jit.Error, match="multiples of 14 pixels, got 30 x 28"):
        scripted(images(1, 1, 30, 28))


def test_a_teacher_follows_and_deploys():
    student = network()
    teacher = EMATeacher(student, decay=0.5)
    with torch.no_grad():
        student.encoder.norm.weight.add_(1.0)
    for _ in range(3):
        teacher.update_parameters(student)
    before, after = network().encoder.norm.weight, student.encoder.norm.weight
    assert (teacher.module.encoder.norm.weight > before).all()
    assert (teacher.module.encoder.norm.weight <= after).all()
    torch.testing.assert_close(teacher.module.encoder.std, student.encoder.std, rtol=0, atol=0)
    assert not [key for key in teacher.module.deployed_state_dict() if "reconstruction_decoder" in key]


def test_without_quantiser_it_is_the_same_network():
    model = network(num_embeddings=None, reconstruction=False).eval()
    assert model.quantizer is None
    assert model.project_codebook() is None
    assert model(images(1, 1, 28, 28)).shape == (1, 3, 28, 28)


def test_a_description_builds_the_same_network():
    model = network(dropout=0.25, quantizer={"normalize": True})
    description = describe_network(model)
    assert description["architecture"] == "DINOv2DPTNet"
    again = build_network(description)
    again.load_state_dict(model.state_dict())
    assert describe_network(again) == description
    unet = VQSegNet(2, 1, 3, channels=(4, 8), strides=(2,), num_embeddings=16, embedding_dim=4)
    assert "architecture" not in describe_network(unet)
    assert type(build_network(describe_network(unet))) is VQSegNet
    with pytest.raises(ValueError, match="architecture must be one of VQSegNet, DINOv2DPTNet, got 'UNet'"):
        build_network({"architecture": "UNet"})


def test_patch_sizes_are_multiples_of_14():
    network().check_patch_size([224, 14])
    with pytest.raises(ValueError, match=r"multiples of 14, .*, got \[224, 128\]: the nearest are \[224, 126\]"):
        network().check_patch_size([224, 128])
    with pytest.raises(ValueError, match="multiples of 14 pixels, got 28 x 33: choose such a patch_size"):
        network()(images(1, 1, 28, 33))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"spatial_dims": 3}, "spatial_dims must be 2: DINOv2 takes images, not volumes, got 3"),
        ({"encoder": "dinov2_vitx14"}, "encoder must be one of dinov2_vits14, .*, got 'dinov2_vitx14'"),
        ({"encoder_levels": (0, 1, 3)}, "encoder_levels must hold as many blocks as reassemble_channels widths, 4"),
        ({"encoder_levels": (0, 2, 1, 3)}, r"increasing block numbers from 0 to 3, .* got \[0, 2, 1, 3\]"),
        ({"encoder_levels": (0, 1, 2, 4)}, r"increasing block numbers from 0 to 3, .* got \[0, 1, 2, 4\]"),
        ({"encoder_levels": (1, 3), "reassemble_channels": (4, 4)}, "reassemble_channels must hold 4 widths, got 2"),
    ],
)
def test_it_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        network(**changes)


def test_wrong_weights_name_their_key(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"encoder_weights: .*is not a checkpoint of dinov2_vits14.*pretrained false"):
        DINOv2Encoder("dinov2_vits14", [11], pretrained=True, weights=path)
    with pytest.raises(FileNotFoundError, match=r"encoder_weights: there is no file .*none\.pth"):
        DINOv2Encoder("dinov2_vits14", [11], pretrained=True, weights=tmp_path / "none.pth")


def test_the_decoder_doubles_the_finest_of_its_maps():
    decoder = DPTDecoder(6, 3, (4, 4, 4, 4), 5)
    maps = [images(1, 6, 3, 5) for _ in range(4)]
    assert [tuple(part(map_).shape[2:]) for part, map_ in zip(decoder.reassemble, maps, strict=True)] == [
        (12, 20),
        (6, 10),
        (3, 5),
        (2, 3),
    ]
    assert decoder(maps).shape == (1, 3, 24, 40)
