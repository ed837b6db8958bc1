"""Weakly supervised semantic segmentation: pixel masks from image-level labels, without a background threshold."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from baoseg.predict.labeler import Labeler as Labeler
    from baoseg.predict.loading import load as load
    from baoseg.predict.segment import Segmenter as Segmenter

__version__ = version("baoseg")
__all__ = ["Labeler", "Segmenter", "__version__", "load"]
_HOMES = {"Labeler": "labeler", "Segmenter": "segment", "load": "loading"}


def __getattr__(name: str) -> Any:  # the names of the API import torch: only when they are used
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"baoseg.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'baoseg' has no attribute {name!r}")
