"""The metric: IoU per class from ONE summed confusion matrix. Used by every stage that scores anything."""

import numpy as np

from config.data import IGNORE_INDEX


def confusion(pred: np.ndarray, truth: np.ndarray, num_classes: int, weight: np.ndarray | None = None) -> np.ndarray:
    """(C, C) int64 pixel counts, rows truth, columns prediction. Any equal shapes; ignored truth is left out.

    With `weight`, the pixels that each pixel of a sample stands for, the sums are float64.
    """
    keep = truth != IGNORE_INDEX
    if not keep.all():
        pred, truth, weight = pred[keep], truth[keep], None if weight is None else weight[keep]
    pair = num_classes * truth.astype(np.int64) + pred
    flat_weight = None if weight is None else weight.ravel()
    return np.bincount(pair.ravel(), flat_weight, minlength=num_classes**2).reshape(num_classes, num_classes)


def iou_per_class(conf_CC: np.ndarray) -> np.ndarray:
    """(..., C) IoU of (..., C, C) confusions; NaN for a class that is in neither truth nor prediction."""
    conf = np.asarray(conf_CC, np.float64)
    hit = np.diagonal(conf, axis1=-2, axis2=-1)
    return iou_of_counts(hit, conf.sum(-1) + conf.sum(-2) - hit)


def iou_of_counts(hit_C: np.ndarray, union_C: np.ndarray) -> np.ndarray:
    """(..., C) IoU where only hits and unions were counted; NaN where the union is empty."""
    union_C = np.asarray(union_C, np.float64)
    return np.divide(hit_C, union_C, out=np.full(union_C.shape, np.nan), where=union_C > 0)


def mean_iou(conf_CC: np.ndarray) -> float | np.ndarray:
    """Mean of `iou_per_class` over the classes that are there; NaN where there is none. (...,) for (..., C, C)."""
    return mean_over_classes(iou_per_class(conf_CC))


def mean_over_classes(iou_C: np.ndarray) -> float | np.ndarray:
    """Mean of (..., C) IoU, leaving out the classes that are NaN; NaN where all are."""
    there = ~np.isnan(iou_C)
    count = there.sum(-1)
    total = np.where(there, iou_C, 0.0).sum(-1)
    mean = np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
    return float(mean) if np.ndim(mean) == 0 else mean
