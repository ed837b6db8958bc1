"""A new method: a class, and a line in the table of methods. Then it trains beside CAM on generated scenes.

    python examples/new_method.py runs/top-cells              # minutes on two CPU cores
    python examples/new_method.py runs/top-cells --smoke      # only shows that all steps run, in seconds

CAM classifies an image by the mean of each class map, so that a large object counts more than a small one. The method
here classifies by the mean of the highest cells of each map, as many of them as `share` says.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from baoseg import pipeline, recipes
from baoseg.core.types import Batch, Maps
from baoseg.methods import METHODS, Method, Settings
from baoseg.nets.network import Network
from baoseg.training import losses
from baoseg.training.train import Hardware


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """What can be set in a recipe, and is noted in run.json."""

    share: float = 0.25  # of the cells of a map


class TopCells(Method):
    """Class activation maps, classified by their highest cells."""

    config_class = Config

    def __init__(self, network: Network, config: Config) -> None:
        super().__init__()
        self.network, self.config = network, config

    def classify(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b K"]:
        cells = self.network.class_maps(self.network(images)).flatten(2)
        return cells.topk(max(1, round(self.config.share * cells.shape[2])), dim=2).values.mean(dim=2)

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        return {"classification": losses.multilabel_soft_margin(self.classify(batch.images), batch.labels)}

    def maps(self, images, labels, *, classes=None) -> Maps:
        return Maps(self.network.class_maps(self.network(images), classes=classes))


METHODS["topcells"] = TopCells  # in the package this line stands in baoseg/methods/__init__.py


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="run folder to write")
    parser.add_argument("--smoke", action="store_true", help="few small images, one epoch; the numbers mean nothing")
    chosen = parser.parse_args()
    recipe = recipes.comparison(recipes.named("demo"), ["cam", "topcells"])
    if chosen.smoke:
        recipe = recipes.smoke(recipe)
    pipeline.run(recipe, chosen.out, hardware=Hardware())


if __name__ == "__main__":
    main()
