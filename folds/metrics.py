"""The metric: IoU per class from ONE summed confusion matrix. Used by every stage that scores anything."""

import numpy as np

from config.data import IGNORE_INDEX


def confusion(pred: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """(C, C) int64 pixel counts, rows truth, columns prediction. Any equal shapes; ignored truth is left out."""
    keep = truth != IGNORE_INDEX
    pair = num_classes * truth[keep].astype(np.int64) + pred[keep]
    return np.bincount(pair, minlength=num_classes**2).reshape(num_classes, num_classes)


def iou_per_class(conf_CC: np.ndarray) -> np.ndarray:
    """(..., C) IoU of (..., C, C) confusions; NaN for a class that is in neither truth nor prediction."""
    conf = np.asarray(conf_CC, np.float64)
    hit = np.diagonal(conf, axis1=-2, axis2=-1)
    union = conf.sum(-1) + conf.sum(-2) - hit
    return np.divide(hit, union, out=np.full(hit.shape, np.nan), where=union > 0)


def mean_iou(conf_CC: np.ndarray) -> float | np.ndarray:
    """Mean of `iou_per_class` over the classes that are there; NaN where there is none. (...,) for (..., C, C)."""
    iou = iou_per_class(conf_CC)
    there = ~np.isnan(iou)
    count = there.sum(-1)
    total = np.where(there, iou, 0.0).sum(-1)
    mean = np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
    return float(mean) if np.ndim(mean) == 0 else mean
