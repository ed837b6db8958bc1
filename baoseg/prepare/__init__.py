"""The papers' data sets, from their official archives to folders that `baoseg.data.Folder` opens.

Each function continues where an earlier call stopped, checks the counts that the papers state, and returns the folder.
"""

from baoseg.prepare.check import folder
from baoseg.prepare.coco import coco14
from baoseg.prepare.voc import voc12

__all__ = ["coco14", "folder", "voc12"]
