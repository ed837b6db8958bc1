"""Weakly supervised semantic segmentation: pixel masks from image-level labels, without a background threshold."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from baoseg.labeler import Labeler as Labeler
    from baoseg.labeler import load as load

__version__ = version("baoseg")
__all__ = ["Labeler", "__version__", "load"]


def __getattr__(name: str) -> Any:  # the names of the API import torch: only when they are used
    if name in ("Labeler", "load"):
        from baoseg import labeler

        return getattr(labeler, name)
    raise AttributeError(f"module 'baoseg' has no attribute {name!r}")
