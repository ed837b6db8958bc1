"""The decoder against its sum written out, and what it reads of each kind of backbone."""

import pytest
import torch
import torch.nn.functional as F

from baoseg import nets
from baoseg.core.errors import RecipeError
from baoseg.nets import Heads
from baoseg.nets.decoder import Decoder

WITH_DECODER = Heads(backgrounds=1, decoder=True)
NETWORKS = ("timm:mobilenetv2_035", "timm:resnet10t", "timm:tf_efficientnet_lite0", "timm:convnext_atto", "resnet38")


def build(backbone: str, **settings: object) -> nets.Network:
    options = (("width", 16),) if backbone == "resnet38" else ()
    config = nets.Config(backbone=backbone, options=options, activation_start=nets.ActivationStart.UNGATED)
    return nets.build(config, 3, heads=WITH_DECODER).eval()


@pytest.mark.parametrize("backbone", NETWORKS)
@torch.no_grad()
def test_the_pyramid_holds_the_stages_from_stride_4_on_and_the_feature_map(backbone):
    network = build(backbone)
    images = torch.randn(2, 3, 64, 80)
    features = network(images)
    assert torch.equal(features.map, network.backbone(images).map)
    assert torch.equal(features.pyramid[-1], features.map)
    assert tuple(stage.shape[1] for stage in features.pyramid) == network.backbone.pyramid_channels
    assert features.pyramid[0].shape[-2:] == (16, 20)
    of_stages = [stage for stage in network.backbone.stages(images) if stage.shape[-1] <= 20]
    for noted, stage in zip(features.pyramid, of_stages, strict=False):
        torch.testing.assert_close(noted, stage)


@torch.no_grad()
def test_activation_maps_come_at_stride_4_for_any_size():
    network = build("timm:mobilenetv2_035")
    features = network(torch.randn(1, 3, 50, 70))  # padded to 64 x 80
    assert network.activation_maps(features, torch.ones(1, 3)).shape == (1, 4, 16, 20)
    assert network.class_maps(features).shape == (1, 3, 4, 5)


def test_the_decoder_adds_the_stages_from_coarse_to_fine(generator):
    decoder = Decoder((5, 7, 9)).double()
    shapes = ((5, 8, 12), (7, 4, 6), (9, 4, 6))
    fine, middle, coarse = (torch.randn(1, *shape, generator=generator, dtype=torch.float64) for shape in shapes)

    def lateral(index: int, stage: torch.Tensor) -> torch.Tensor:
        convolution, norm = decoder.laterals[index]
        mixed = torch.einsum("o i, b i h w -> b o h w", convolution.weight[:, :, 0, 0], stage)
        mixed = mixed + convolution.bias[:, None, None]
        groups = mixed.view(1, 8, 12, *stage.shape[-2:])
        mean = groups.mean(dim=(2, 3, 4), keepdim=True)
        scale = (groups.var(dim=(2, 3, 4), keepdim=True, unbiased=False) + norm.eps).sqrt()
        return ((groups - mean) / scale).view(mixed.shape)

    lower = lateral(1, middle) + lateral(2, coarse)
    larger = F.interpolate(lower, scale_factor=2, mode="bilinear")
    expected = decoder.smooth(lateral(0, fine) + larger)
    torch.testing.assert_close(decoder((fine, middle, coarse)), expected)


def test_gradients_reach_the_decoder_and_the_first_stages():
    network = build("timm:mobilenetv2_035")
    torch.nn.init.normal_(network.activation_head.weight)
    features = network(torch.randn(1, 3, 64, 64))
    network.activation_maps(features, torch.ones(1, 3)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.decoder.parameters())
    assert network.backbone.model.conv_stem.weight.grad.abs().sum() > 0
    heads = set(network.head_parameters())
    assert set(network.decoder.parameters()) <= heads


def test_a_backbone_without_stages_is_refused():
    with pytest.raises(RecipeError, match="no stages for a decoder"):
        nets.build(nets.Config(backbone="conformer_nano"), 3, heads=WITH_DECODER)
    with pytest.raises(RecipeError, match="no stages for a decoder"):
        nets.build(nets.Config(backbone="timm:vit_tiny_patch16_224"), 3, heads=WITH_DECODER)
