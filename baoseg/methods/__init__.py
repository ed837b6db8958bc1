"""The methods by name."""

from baoseg.methods import bao, cam, transcam
from baoseg.methods.base import Method, Progress
from baoseg.nets.network import Network

METHODS: dict[str, type[Method]] = {"cam": cam.CAM, "transcam": transcam.TransCAM, "bao": bao.BAO}
Settings = cam.Config | transcam.Config | bao.Config
CONFIGS: dict[str, type[Settings]] = {"cam": cam.Config, "transcam": transcam.Config, "bao": bao.Config}
NAMES = {config: name for name, config in CONFIGS.items()}


def name_of(settings: Settings) -> str:
    """The name of the method that the settings are of."""
    return NAMES[type(settings)]


def make(settings: Settings, network: Network) -> Method:
    return METHODS[name_of(settings)](network, settings)


__all__ = ["CONFIGS", "METHODS", "NAMES", "Method", "Progress", "Settings", "make", "name_of"]
