"""A method as somebody else would add one: a file like this, and a line in `baoseg.methods.METHODS`."""

from dataclasses import dataclass

from baoseg.core.types import Batch, Maps
from baoseg.methods.base import Method, Settings
from baoseg.training import losses


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    sharpness: float = 2.0


class Toy(Method):
    """Classifies by the log-mean-exp of its class maps in the place of their mean."""

    config_class = Config
    localizes = True

    def __init__(self, network, config):
        super().__init__()
        self.network, self.config = network, config

    def loss(self, batch: Batch):
        maps = self.network.class_maps(self.network(batch.images)) * self.config.sharpness
        return {"toy": losses.multilabel_soft_margin(maps.flatten(2).logsumexp(dim=2), batch.labels)}

    def maps(self, images, labels, *, classes=None):
        return Maps(self.network.class_maps(self.network(images), classes=classes))
