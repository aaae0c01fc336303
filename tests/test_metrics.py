import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, jaccard_score

from config.data import IGNORE_INDEX
from folds.metrics import confusion, iou_of_counts, iou_per_class, mean_iou, mean_over_classes

SEEDS = st.integers(0, 2**32 - 1)


def pictures(seed: int, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and truth (uint8), the truth with ignored pixels; the last class is in neither."""
    rng = np.random.default_rng(seed)
    pred_NHW, truth_NHW = (rng.integers(0, classes - 1, (3, 8, 9)).astype(np.uint8) for _ in range(2))
    truth_NHW[rng.random(truth_NHW.shape) < 0.2] = IGNORE_INDEX
    return pred_NHW, truth_NHW


@given(SEEDS)
def test_confusion_and_iou_are_those_of_scikit_learn(seed):
    pred, truth = pictures(seed)
    kept = truth != IGNORE_INDEX
    conf_CC = confusion(pred, truth, 5)
    assert conf_CC.dtype == np.int64
    np.testing.assert_array_equal(conf_CC, confusion_matrix(truth[kept], pred[kept], labels=range(5)))
    expected = jaccard_score(truth[kept], pred[kept], labels=range(4), average=None)
    np.testing.assert_allclose(iou_per_class(conf_CC)[:4], expected)


@given(SEEDS)
def test_confusions_add_up(seed):
    pred, truth = pictures(seed)
    parts = sum(confusion(p, t, 5) for p, t in zip(pred, truth, strict=True))
    np.testing.assert_array_equal(parts, confusion(pred, truth, 5))
    assert parts.sum() == (truth != IGNORE_INDEX).sum()


@given(SEEDS)
def test_whole_weights_count_like_repeated_pixels(seed):
    pred, truth = pictures(seed)
    weight = np.random.default_rng(seed).integers(0, 4, truth.shape)
    repeated = confusion(np.repeat(pred, weight.ravel()), np.repeat(truth, weight.ravel()), 5)
    np.testing.assert_array_equal(confusion(pred, truth, 5, weight.astype(float)), repeated)


def test_a_class_in_neither_truth_nor_prediction_is_nan_and_left_out_of_the_mean():
    conf_CC = np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
    np.testing.assert_allclose(iou_per_class(conf_CC), [6 / 9, 3 / 6, np.nan])
    assert mean_iou(conf_CC) == pytest.approx((6 / 9 + 3 / 6) / 2)
    only_predicted = np.array([[6, 2, 1], [1, 3, 0], [0, 0, 0]])
    assert iou_per_class(only_predicted)[2] == 0  # predicted and never there: a fault, not an absence
    assert np.isnan(mean_iou(np.zeros((3, 3), int)))


def test_the_metric_is_iou_not_dice():
    conf_CC = np.array([[50, 50], [0, 100]])
    np.testing.assert_allclose(iou_per_class(conf_CC), [0.5, 2 / 3])  # dice would be .667 and .8


def test_many_confusions_at_once():
    rng = np.random.default_rng(0)
    conf_KCC = rng.integers(0, 9, (4, 3, 3))
    conf_KCC[2, 1], conf_KCC[2, :, 1] = 0, 0
    np.testing.assert_allclose(iou_per_class(conf_KCC), [iou_per_class(conf_CC) for conf_CC in conf_KCC])
    np.testing.assert_allclose(mean_iou(conf_KCC), [mean_iou(conf_CC) for conf_CC in conf_KCC])
    assert isinstance(mean_iou(conf_KCC[0]), float)
    hit_KC = np.diagonal(conf_KCC, axis1=1, axis2=2)
    union_KC = conf_KCC.sum(1) + conf_KCC.sum(2) - hit_KC
    np.testing.assert_allclose(iou_of_counts(hit_KC, union_KC), iou_per_class(conf_KCC))
    np.testing.assert_allclose(mean_over_classes(iou_of_counts(hit_KC, union_KC)), mean_iou(conf_KCC))
