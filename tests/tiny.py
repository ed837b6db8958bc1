"""A run so small that tests can afford it: generated scenes of 64 pixels, a Conformer of three blocks."""

from dataclasses import replace

from baoseg import nets
from baoseg.data import Config as DataConfig
from baoseg.data import transforms
from baoseg.data.synthetic import Config as SyntheticConfig
from baoseg.methods import bao, transcam
from baoseg.predict.maps import Config as MapsConfig
from baoseg.recipes import Recipe, Stage
from baoseg.training import train
from baoseg.training.train import Hardware

HARDWARE = Hardware(accelerator="cpu", workers=0)
NET = nets.Config(
    backbone="conformer_nano",
    options=(("channel_ratio", 0.25), ("embed_dim", 32), ("depth", 3), ("heads", 2), ("drop_path", 0.2)),
)
RECIPE = Recipe(
    name="tiny",
    data=DataConfig(path="synthetic", synthetic=SyntheticConfig(size=64, train_images=12, eval_images=5)),
    net=NET,
    augment=transforms.Config(resize_long=(48, 80), crop=64),
    stages=(
        Stage(method=transcam.Config(), schedule=train.Config(epochs=2, batch_size=4, lr=1e-3)),
        Stage(method=bao.Config(), start="transcam", schedule=train.Config(epochs=3, batch_size=4, lr=1e-3)),
    ),
    maps=MapsConfig(sizes=(64, 96)),
)


def with_data(recipe: Recipe, path: object) -> Recipe:
    return replace(recipe, data=DataConfig(path=str(path)))
