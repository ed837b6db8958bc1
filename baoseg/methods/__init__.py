"""The methods by name. A new one is a file with a `Method`, and a line in METHODS."""

from typing import Any

from baoseg.core import settings
from baoseg.methods import amn, bao, bas, bnr, cam, transcam
from baoseg.methods.base import Learns, Method, Settings
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


def names() -> dict[type[Settings], str]:
    """The name of each method by the class of its settings."""
    return {method.config_class: name for name, method in METHODS.items()}


settings.register(Settings, names, tag="method")


def name_of(config: Settings) -> str:
    """The name of the method that the settings are of."""
    return names()[type(config)]


def method_of(config: Settings) -> type[Method]:
    """The class of the method that the settings are of."""
    return METHODS[name_of(config)]


def heads_of(config: Settings) -> Heads:
    """What its network must carry beside the class head."""
    return method_of(config).heads(config)


def make(config: Settings, network: Network, *, single_label: bool = False) -> Method:
    """The method on a network. `single_label`: it is trained on images of exactly one label each."""
    build: Any = method_of(config)
    method: Method = build(network, config)
    method.single_label = single_label
    return method


__all__ = ["METHODS", "Learns", "Method", "Settings", "heads_of", "make", "method_of", "name_of", "names"]
