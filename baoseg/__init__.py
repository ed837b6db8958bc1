"""Weakly supervised semantic segmentation: pixel masks from image-level labels, without a background threshold."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from baoseg._moved import keep_old_names

if TYPE_CHECKING:
    from baoseg.predict.labeler import Labeler as Labeler
    from baoseg.predict.loading import load as load
    from baoseg.predict.segment import Segmenter as Segmenter

__version__ = version("baoseg")
keep_old_names()
__all__ = ["Labeler", "Segmenter", "__version__", "load"]
_HOMES = {"Labeler": "predict.labeler", "Segmenter": "predict.segment", "load": "predict.loading"}


def __getattr__(name: str) -> Any:  # the names of the API import torch: only when they are used
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"baoseg.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'baoseg' has no attribute {name!r}")
