"""Evaluation against ground truth: masks in `masks`, boxes in `localization`."""

from baoseg.evaluate.localization import max_box_accuracy as max_box_accuracy
from baoseg.evaluate.localization import pixel_average_precision as pixel_average_precision
from baoseg.evaluate.masks import DECISIONS as DECISIONS
from baoseg.evaluate.masks import MIXED as MIXED
from baoseg.evaluate.masks import THRESHOLDS as THRESHOLDS
from baoseg.evaluate.masks import WITHOUT_MAPS as WITHOUT_MAPS
from baoseg.evaluate.masks import Confusion as Confusion
from baoseg.evaluate.masks import MaskDecision as MaskDecision
from baoseg.evaluate.masks import Scores as Scores
from baoseg.evaluate.masks import ThresholdSweep as ThresholdSweep
from baoseg.evaluate.masks import class_iou as class_iou
from baoseg.evaluate.masks import decision_of as decision_of
from baoseg.evaluate.masks import evaluate_masks as evaluate_masks
from baoseg.evaluate.masks import evaluate_seeds as evaluate_seeds
from baoseg.evaluate.masks import of_masks as of_masks
