"""The papers' data sets, from their official archives to folders that the data sets of `baoseg.data` open.

Each function continues where an earlier call stopped, checks the counts that the papers state, and returns the folder.
"""

from baoseg.data.prepare.check import folder
from baoseg.data.prepare.coco import coco14
from baoseg.data.prepare.voc import voc12
from baoseg.data.prepare.wsol import boxed_folder, cub200, ilsvrc, openimages

__all__ = ["boxed_folder", "coco14", "cub200", "folder", "ilsvrc", "openimages", "voc12"]
