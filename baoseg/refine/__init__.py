"""Refinement: masks drawn to the edges of the images, by the images alone (dense CRF), or with a network that has
learned from the seeds which pixels belong together (PSA, IRN).
"""

from jaxtyping import UInt8
from torch import Tensor

from baoseg.core import settings
from baoseg.nets.base import Backbone
from baoseg.refine import affinity_labels, crf, irn, psa
from baoseg.seeds import SeedMaps

Settings = crf.Config | psa.Config | irn.Config
LearnedSettings = psa.Config | irn.Config
AffinityNetwork = psa.AffinityNet | irn.IRNet
CONFIGS: dict[str, type[Settings]] = {"crf": crf.Config, "psa": psa.Config, "irn": irn.Config}
NAMES = {config: name for name, config in CONFIGS.items()}
settings.register(Settings, lambda: NAMES, tag="refiner")


def name_of(config: Settings) -> str:
    return NAMES[type(config)]


def by_crf(
    image: UInt8[Tensor, "3 h w"], mask: UInt8[Tensor, "h w"], config: crf.Config = crf.LABELS
) -> UInt8[Tensor, "h w"]:
    """The mask that a dense CRF makes of a mask: the label of the largest marginal. 255 is no label."""
    return affinity_labels.after_crf(image, mask, config)


def labels(image: UInt8[Tensor, "3 h w"], seed: SeedMaps, config: LearnedSettings) -> UInt8[Tensor, "h w"]:
    """Labels that PSA's or IRN's network learns from: 255 where the seed is in doubt."""
    match config:
        case psa.Config():
            return psa.labels(image, seed, config)
        case irn.Config():
            return irn.labels(image, seed, config)


def network(config: LearnedSettings, backbone: Backbone) -> AffinityNetwork:
    """PSA's or IRN's network on a backbone with stages. Raises RecipeError for one without."""
    match config:
        case psa.Config():
            return psa.AffinityNet(backbone, config)
        case irn.Config():
            return irn.IRNet(backbone, config)
