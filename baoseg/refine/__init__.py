"""Refinement of masks towards image edges: by a dense CRF, a vote of regions, or learned affinities (PSA, IRN)."""

from jaxtyping import UInt8
from torch import Tensor

from baoseg.core import settings
from baoseg.nets.base import Backbone
from baoseg.refine import affinity_labels, crf, irn, psa, vote
from baoseg.seeds import SeedMaps

Settings = crf.Config | vote.Config | psa.Config | irn.Config
LearnedSettings = psa.Config | irn.Config
AffinityNetwork = psa.AffinityNet | irn.IRNet
CONFIGS: dict[str, type[Settings]] = {
    "crf": crf.Config,
    "regions": vote.Config,
    "psa": psa.Config,
    "irn": irn.Config,
}
NAMES = {config: name for name, config in CONFIGS.items()}
settings.register(Settings, lambda: NAMES, tag="refiner")


def name_of(config: Settings) -> str:
    """The name of a refiner: crf, regions, psa or irn."""
    return NAMES[type(config)]


def by_crf(
    image: UInt8[Tensor, "3 h w"], mask: UInt8[Tensor, "h w"], config: crf.Config = crf.LABELS
) -> UInt8[Tensor, "h w"]:
    """The mask after a dense CRF: the label with the largest marginal. Pixels with 255 have no label."""
    return affinity_labels.after_crf(image, mask, config)


def labels(image: UInt8[Tensor, "3 h w"], seed: SeedMaps, config: LearnedSettings) -> UInt8[Tensor, "h w"]:
    """Labels [h w] from which the network of PSA or IRN learns; 255 where the seed is uncertain."""
    match config:
        case psa.Config():
            return psa.labels(image, seed, config)
        case irn.Config():
            return irn.labels(image, seed, config)


def network(config: LearnedSettings, backbone: Backbone) -> AffinityNetwork:
    """The network of PSA or IRN on a backbone. Raises RecipeError for a backbone without stages."""
    match config:
        case psa.Config():
            return psa.AffinityNet(backbone, config)
        case irn.Config():
            return irn.IRNet(backbone, config)
