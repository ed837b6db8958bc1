"""Every method on every kind of backbone, through the same checks: a new method or backbone adds one line here."""

import math
from functools import partial

import pytest
import torch

from baoseg import methods, nets
from baoseg.core.errors import DataError, RecipeError
from baoseg.core.types import BACKGROUND, IGNORE, Batch
from baoseg.methods import METHODS, Method, heads_of
from baoseg.predict import maps

BACKBONES = {
    "conformer": nets.Config(
        backbone="conformer_nano",
        options=(
            ("channel_ratio", 0.25),
            ("depth", 3),
            ("drop_path", 0.0),
            ("embed_dim", 24),
            ("heads", 2),
            ("stem_pool", True),
        ),
        activation_start=nets.ActivationStart.RELEASED,
    ),
    # timm starts the residual branches at zero, and we the activation head: parameters behind them get no gradient yet
    "cnn": nets.Config(
        backbone="timm:test_resnet",
        options=(("zero_init_last", False),),
        activation_start=nets.ActivationStart.CLASS_MAPS,
    ),
    "vit": nets.Config(backbone="timm:test_vit", activation_start=nets.ActivationStart.CLASS_MAPS),
}


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request) -> nets.Config:
    return BACKBONES[request.param]


@pytest.fixture(params=METHODS)
def name(request) -> str:
    return request.param


def fits(name: str, backbone: nets.Config) -> bool:
    """All methods work on all backbones, but that only CNNs have stages to put a generator between."""
    return heads_of(METHODS[name].config_class()).generator_after is None or backbone is BACKBONES["cnn"]


def make(name: str, backbone: nets.Config, classes: int) -> Method:
    settings = METHODS[name].config_class()
    if not fits(name, backbone):
        pytest.skip("a generator needs a backbone with stages")
    method = methods.make(settings, nets.build(backbone, classes, heads=heads_of(settings)))
    method.begin_training()
    return method


def random_batch(size: int, classes: int, height: int, width: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(size, 3, height, width, generator=generator)
    labels = torch.ones(size, classes)  # the first image has every class
    labels[1:] = torch.arange(classes) % 2 == 0
    valid = torch.ones(size, 1, height, width, dtype=torch.bool)
    valid[..., width - width // 3 :] = False
    pixels = [random_labels(label, height, width, generator) for label in labels]
    return Batch(images, labels, valid, torch.stack(pixels))


def random_labels(label: torch.Tensor, height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Pixels of the present classes, the background, and some to ignore."""
    values = torch.tensor([BACKGROUND, IGNORE, *(label.nonzero()[:, 0] + 1).tolist()], dtype=torch.uint8)
    return values[torch.randint(len(values), (height, width), generator=generator)]


def total(method: Method, batch: Batch) -> torch.Tensor:
    torch.manual_seed(0)  # what a loss draws is drawn again
    return torch.stack(list(method.loss(batch).values())).sum()


@pytest.mark.parametrize(("classes", "shape"), [(1, (1, 45, 71)), (3, (2, 64, 48)), (3, (1, 33, 97))])
def test_any_classes_and_any_size(name, backbone, classes, shape):
    method = make(name, backbone, classes).train()
    size, height, width = shape
    batch = random_batch(size, classes, height, width)
    terms = method.loss(batch)
    assert all(math.isfinite(value) for value in torch.stack(list(terms.values())).tolist())

    method.eval()
    with torch.inference_mode():
        maps = method.maps(batch.images, batch.labels)
        logits = method.classify(batch.images)
    stride = method.network.backbone.stride
    grid = (math.ceil(height / stride), math.ceil(width / stride))
    assert maps.scores.shape == (size, classes, *grid)
    assert maps.scores.isfinite().all()
    assert maps.scores.std() > 0
    assert logits.shape == (size, classes)
    assert (maps.background is not None) == METHODS[name].learns_background
    if maps.background is not None:
        assert maps.background.shape == (size, 1, *grid)
        assert maps.background.isfinite().all()


@pytest.mark.parametrize("size", [(1, 1), (37, 90)])
def test_a_seed_for_all_classes_and_an_error_for_none(name, backbone, size):
    method = make(name, backbone, 3).eval()
    image = torch.randint(256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    about = method.network.backbone
    infer = partial(
        maps.infer,
        method,
        image,
        config=maps.Config(sizes=(32, 48)),
        normalisation=about.normalisation,
        stride=about.stride,
    )
    seed = infer(torch.ones(3))
    assert seed.classes.tolist() == [1, 2, 3]
    assert seed.scores.shape == (3, math.ceil(size[0] / 4), math.ceil(size[1] / 4))
    assert ((seed.scores >= 0) & (seed.scores <= 1)).all()
    assert (seed.background is not None) == method.learns_background
    with pytest.raises(DataError, match="no seed"):
        infer(torch.zeros(3))


def test_every_trained_parameter_gets_a_gradient(name, backbone):
    method = make(name, backbone, 3).train()
    total(method, random_batch(2, 3, 64, 64)).backward()
    idle = [
        name
        for name, parameter in method.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert idle == []


def test_classes_asked_for_equal_the_channels_of_all(name, backbone):
    method = make(name, backbone, 3).eval()
    batch = random_batch(2, 3, 64, 80)
    with torch.inference_mode():
        everything = method.maps(batch.images, batch.labels)
        some = method.maps(batch.images, batch.labels, classes=torch.tensor([1, 3]))
    torch.testing.assert_close(some.scores, everything.scores[:, [0, 2]])
    torch.testing.assert_close(some.background, everything.background)


def test_images_of_a_batch_do_not_see_one_another(name, backbone):
    method = make(name, backbone, 3).eval()
    batch = random_batch(3, 3, 48, 64)
    with torch.inference_mode():
        together = method.maps(batch.images, batch.labels)
        alone = method.maps(batch.images[1:2], batch.labels[1:2])
    torch.testing.assert_close(alone.scores, together.scores[1:2], rtol=1e-3, atol=1e-4)


def test_a_small_step_lowers_the_loss(name, backbone):
    method = make(name, backbone, 3).train()
    batch = random_batch(3, 3, 64, 64)
    parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
    before = total(method, batch)
    gradients = torch.autograd.grad(before, parameters)
    norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(1e-3 * gradient / norm)
        after = total(method, batch)
    assert after < before
    # along the gradient g a step of length d lowers the loss by |g| d, up to the curvature
    assert (before - after).item() == pytest.approx(1e-3 * norm.item(), rel=0.2)


def test_a_backbone_that_does_not_fit_is_refused(name, backbone):
    if fits(name, backbone):
        pytest.skip("it fits")
    with pytest.raises(RecipeError, match="no stages for a generator; use a convolutional network"):
        nets.build(backbone, 3, heads=heads_of(METHODS[name].config_class()))
