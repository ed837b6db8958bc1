from pathlib import Path

import pytest

from baoseg import nets, recipes
from baoseg.core.errors import RecipeError
from baoseg.data.boxed import Layout
from baoseg.methods import bas, heads_of
from baoseg.recipes import boxes


@pytest.mark.parametrize("name", boxes.RECIPES)
def test_recipes_are_called_by_their_names_and_train_cam_and_bas(name: str) -> None:
    config = recipes.named(name)
    assert config.name == name
    assert [stage.name for stage in config.stages] == ["cam", "bas"]
    assert config.augment.crop % config.net.stride == 0
    assert config.data.eval_split == ("val" if config.data.layout is Layout.ILSVRC else "test")


def test_what_the_paper_says_of_resnet50() -> None:
    """Table 7: the best alpha and beta of each data set; figure 10: the best k; sec. 3.3: lambda is 1."""
    best = {Layout.CUB: (0.5, 1.5, 200), Layout.ILSVRC: (1.0, 2.0, 1), Layout.OPENIMAGES: (0.5, 1.5, 1)}
    for layout, (alpha, beta, top_k) in best.items():
        stage = boxes.published(layout, "resnet50").stages[-1]
        assert isinstance(stage.method, bas.Config)
        assert (stage.method.alpha, stage.method.beta, stage.box.top_k) == (alpha, beta, top_k)
        assert (stage.method.weight, stage.method.generator_after) == (1.0, 3)


@pytest.mark.parametrize("name", boxes.RECIPES)
def test_published_recipes_have_the_released_generator(name: str) -> None:
    """All four released models of localization have a bias in it; `cub20` was measured without."""
    heads = heads_of(recipes.named(name).stages[-1].method)
    assert heads.generator_bias == (name != "cub20")


@pytest.mark.parametrize("backbone", ["vgg16", "mobilenetv1", "resnet50", "inceptionv3"])
def test_the_generator_of_published_networks_has_28_cells(backbone: str) -> None:
    """Of a crop of 224, by the stride of the stage behind which it sits."""
    config = boxes.published(Layout.CUB, backbone)
    method = config.stages[-1].method
    network = nets.build(config.net, 2, heads=heads_of(method), initialise=False).eval()
    picture = network.generator.weight.new_zeros(1, 3, config.view.crop, config.view.crop)
    assert tuple(network.split().lower(picture).shape[-2:]) == (28, 28)


def test_overrides_reach_every_stage() -> None:
    config = recipes.override(
        recipes.named("bas-cub-resnet50"),
        data="here",
        layout="folder",
        train_split="a",
        eval_split="b",
        weights=Path("w.safetensors"),
        epochs=3,
        batch_size=5,
        lr=0.01,
        seed=9,
    )
    assert (config.data.path, config.data.layout) == ("here", Layout.FOLDER)
    assert (config.data.train_split, config.data.eval_split) == ("a", "b")
    assert (config.net.weights, config.net.pretrained, config.seed) == ("w.safetensors", False, 9)
    for stage in config.stages:
        schedule = stage.schedule
        assert (schedule.epochs, schedule.batch_size, schedule.lr) == (3, 5, 0.01)
        assert schedule.head_lr == pytest.approx(0.1)  # ten times as high, as before
    assert recipes.override(boxes.cub20()) == boxes.cub20()


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"'bas-cub-resnet18'; there are .* and for boxes bas-cub-vgg16, .*cub20"):
        recipes.named("bas-cub-resnet18")
