"""Lets timm and segmentation-models-pytorch load weights from the hub or its cache, or fail within seconds.

Without a connection, the client of the hub retries for a minute before it looks into its cache. So the hub is asked
once beforehand. If it does not answer, the client is set to offline mode: weights in the cache are loaded at once, and
other weights are an error at once.
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

PATIENCE = 5.0  # seconds to wait for an answer of the hub, or of the host of a plain URL
REMEMBERED = 60.0  # seconds before a hub that did not answer is asked again


@dataclass
class _Silence:
    """The time at which the hub did not answer, and the reason."""

    since: float = -REMEMBERED
    reason: str = ""


_silence = _Silence()


@contextmanager
def quick() -> Iterator[str]:
    """Let loading of weights fail fast inside the block.

    Yields the reason why the hub is not used, or an empty text.
    """
    log = logging.getLogger("huggingface_hub")
    level, offline, timeout = log.level, constants.HF_HUB_OFFLINE, socket.getdefaulttimeout()
    reason = "HF_HUB_OFFLINE is set" if offline else _no_answer()
    try:
        log.setLevel(logging.ERROR)  # hides the messages about retries
        constants.HF_HUB_OFFLINE = bool(reason)
        socket.setdefaulttimeout(PATIENCE if timeout is None else timeout)  # for weights at plain URLs
        yield reason
    finally:
        log.setLevel(level)
        constants.HF_HUB_OFFLINE = offline
        socket.setdefaulttimeout(timeout)


def problem(name: str, reason: str, error: Exception) -> str:
    """The error message for weights of `name` that could not be loaded, and how to fix it."""
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
