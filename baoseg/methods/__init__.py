"""The methods by name."""

from baoseg.core import settings
from baoseg.methods import amn, bao, bas, bnr, cam, transcam
from baoseg.methods.base import Method
from baoseg.nets.base import Heads
from baoseg.nets.network import Network

METHODS: dict[str, type[Method]] = {
    "cam": cam.CAM,
    "transcam": transcam.TransCAM,
    "bnr": bnr.BNR,
    "amn": amn.AMN,
    "bas": bas.BAS,
    "bao": bao.BAO,
}
Settings = cam.Config | transcam.Config | bnr.Config | amn.Config | bas.Config | bao.Config
CONFIGS: dict[str, type[Settings]] = {
    "cam": cam.Config,
    "transcam": transcam.Config,
    "bnr": bnr.Config,
    "amn": amn.Config,
    "bas": bas.Config,
    "bao": bao.Config,
}
NAMES = {config: name for name, config in CONFIGS.items()}
settings.register(Settings, NAMES, tag="method")


def name_of(config: Settings) -> str:
    """The name of the method that the settings are of."""
    return NAMES[type(config)]


def heads_of(config: Settings) -> Heads:
    """What its network must carry beside the class head."""
    return METHODS[name_of(config)].heads(config)


def make(config: Settings, network: Network) -> Method:
    return METHODS[name_of(config)](network, config)


__all__ = ["CONFIGS", "METHODS", "NAMES", "Method", "Settings", "heads_of", "make", "name_of"]
