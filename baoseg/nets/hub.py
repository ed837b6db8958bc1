"""Weights that timm and segmentation-models-pytorch fetch: from the hub, from its cache, or an answer within seconds.

Without a way to the hub its client asks time and again, a minute long, before it looks into its cache. So the hub is
asked once beforehand. Where it does not answer, the client is told that it is offline: what is in the cache is taken at
once, and what is not is an error at once.
"""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from huggingface_hub import constants
from huggingface_hub.utils import get_session

from baoseg.core.errors import first_line
from baoseg.nets import embedded

PATIENCE = 5.0  # seconds for the hub's first answer, and for one from the host of a plain URL
REMEMBERED = 60.0  # seconds for which a hub that did not answer is not asked again


@dataclass
class _Silence:
    """When the hub did not answer, and why."""

    since: float = -REMEMBERED
    reason: str = ""


_silence = _Silence()


@contextmanager
def quick() -> Iterator[str]:
    """Inside, fetching weights takes no minutes to fail. Gives why the hub cannot be asked, or nothing."""
    log = logging.getLogger("huggingface_hub")
    level, offline, timeout = log.level, constants.HF_HUB_OFFLINE, socket.getdefaulttimeout()
    reason = "HF_HUB_OFFLINE is set" if offline else _no_answer()
    try:
        log.setLevel(logging.ERROR)  # what it tries again is said once, by us
        constants.HF_HUB_OFFLINE = bool(reason)
        socket.setdefaulttimeout(PATIENCE if timeout is None else timeout)  # of weights at plain URLs
        yield reason
    finally:
        log.setLevel(level)
        constants.HF_HUB_OFFLINE = offline
        socket.setdefaulttimeout(timeout)


def problem(name: str, reason: str, error: Exception) -> str:
    """The line for weights of `name` that could not be had, with what to do."""
    said = first_line(error)
    if not reason or "No pretrained weights exist" in said:
        return (
            f"{name}: its pretrained weights cannot be loaded ({said}); check the network, or fetch them elsewhere and "
            "give --weights FILE"
        )
    host, other = urlsplit(constants.ENDPOINT).hostname, f"--backbone {embedded.DEFAULT}"
    if name.startswith("smp:"):
        other = f"--net smp:fpn/tu-tf_efficientnet_lite2 --weights {embedded.DEFAULT}"
    return (
        f"{name}: its pretrained weights are not on this machine, and {host} cannot be reached ({reason}); fetch them "
        f"elsewhere and give --weights FILE, or take {other}, whose weights are here"
    )


def _no_answer() -> str:
    """Why the hub does not answer; nothing where it does."""
    if time.monotonic() - _silence.since >= REMEMBERED:
        _silence.reason = _asked()
        _silence.since = time.monotonic() if _silence.reason else -REMEMBERED
    return _silence.reason


def _asked() -> str:
    """Ask once, by the hub's own client, which knows of proxies and certificates. A name server may not answer either,
    for which there is no time limit, so a thread waits for it.
    """
    found: list[str] = []

    def ask() -> None:
        try:
            status = get_session().head(constants.ENDPOINT, timeout=PATIENCE).status_code
        except Exception as error:  # of whichever client the hub uses
            found.append(first_line(error))
        else:
            found.append(f"it answers {status}" if status >= 500 else "")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE + 1)
    return found[0] if found else f"no answer in {PATIENCE:g} seconds"
