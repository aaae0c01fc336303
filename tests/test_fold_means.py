"""What the mean over folds adds on test tiles is estimated without their labels."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from ensemble.evidence import Estimate
from ensemble.fitted import uniform_blend
from ensemble.fold_means import Opinions, draw_opinions, expected_miou, fold_mean_gain, over_largest
from ensemble.formulas import tempered
from folds.metrics import confusion, mean_iou
from tests.posteriors import MemorySource, random_source

SHARES = (0.6, 0.25, 0.1, 0.05)
ALL = np.ones(len(SHARES), bool)


def world(seed: int, pixels: int, folds: int, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Truth (P,), and (F, C, P) opinions of as many members: all see the same haze, and each its own noise."""
    rng = np.random.default_rng(seed)
    truth_P = rng.choice(len(SHARES), pixels, p=SHARES)
    seen_CP = np.eye(len(SHARES))[:, truth_P] * 2 + rng.normal(size=(len(SHARES), pixels))
    logits_FCP = seen_CP + rng.normal(size=(folds, len(SHARES), pixels)) + np.log(SHARES)[:, None]
    probs_FCP = np.exp(confidence * logits_FCP)
    return truth_P, (probs_FCP / probs_FCP.sum(1, keepdims=True)).astype(np.float32)


def near(miou: float) -> Estimate:
    return Estimate(miou, miou - 0.02, miou + 0.02)


def miou_of(label_P: np.ndarray, truth_P: np.ndarray) -> float:
    return mean_iou(confusion(label_P, truth_P, len(SHARES)))


@pytest.mark.parametrize("folds", [3, 5])
@pytest.mark.parametrize("confidence", [0.5, 1.0, 2.0])
def test_the_estimate_is_within_half_of_the_gain_that_labels_tell(confidence, folds):
    """However sure of themselves the members are: their honest score on other tiles says how far to believe them."""
    truth_P, train_FCP = world(1, 60_000, folds, confidence)
    honest = float(np.mean([miou_of(probs_CP.argmax(0), truth_P) for probs_CP in train_FCP]))
    truth_P, test_FCP = world(2, 60_000, folds, confidence)
    mean_CP = test_FCP.mean(0)
    fold_LP = [probs_CP.argmax(0) for probs_CP in test_FCP]
    true = miou_of(mean_CP.argmax(0), truth_P) - np.mean([miou_of(label_P, truth_P) for label_P in fold_LP])
    estimate = fold_mean_gain(Opinions(mean_CP, mean_CP.argmax(0), fold_LP), near(honest), ALL)
    assert true > 0.05
    assert 0.5 * true < estimate.value < 1.5 * true
    assert estimate.low < estimate.value < estimate.high


def test_folds_that_say_the_same_as_the_mean_gain_nothing():
    _, probs_FCP = world(3, 5_000, 1, 1.0)
    label_P = probs_FCP[0].argmax(0)
    estimate = fold_mean_gain(Opinions(probs_FCP[0], label_P, [label_P, label_P]), near(0.6), ALL)
    assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0)


@pytest.fixture(scope="module")
def two_folds() -> Opinions:
    _, probs_FCP = world(4, 5_000, 2, 1.0)
    return Opinions(probs_FCP.mean(0), probs_FCP.mean(0).argmax(0), [probs_CP.argmax(0) for probs_CP in probs_FCP])


@pytest.mark.parametrize(
    "honest",
    [
        Estimate(0.001, 0.0005, 0.0015),
        Estimate(0.9999, 0.9998, 1.0),
        Estimate(0.6, 0.001, 1.0),
        Estimate(0.6, 0.5, 0.9999),
        Estimate(0.6, np.nan, np.nan),
    ],
)
def test_an_honest_score_with_an_end_out_of_reach_gives_no_estimate(two_folds, honest):
    """As that of an underfitted model on few tiles: a score that could be anything says nothing of the gain."""
    assert fold_mean_gain(two_folds, near(0.6), ALL) is not None
    assert fold_mean_gain(two_folds, honest, ALL) is None


def test_the_interval_is_what_the_ends_of_the_honest_one_give(two_folds):
    wide = fold_mean_gain(two_folds, Estimate(0.5, 0.35, 0.6), ALL)
    at = [fold_mean_gain(two_folds, Estimate(miou, miou, miou), ALL).value for miou in (0.35, 0.5, 0.6)]
    assert (wide.low, wide.value, wide.high) == (min(at), at[1], max(at))
    assert len(set(at)) == 3


def test_expected_counts_of_a_certain_truth_are_its_counts():
    rng = np.random.default_rng(5)
    truth_P = rng.choice(4, 3_000, p=SHARES)
    label_LP = [np.where(rng.random(3_000) < 0.7, truth_P, rng.integers(0, 4, 3_000)) for _ in range(3)]
    pooled_CC = sum(confusion(label_P, truth_P, 4) for label_P in label_LP)
    assert expected_miou(np.eye(4)[:, truth_P], label_LP, ALL) == pytest.approx(mean_iou(pooled_CC), abs=1e-12)
    some_C = np.array([True, False, True, False])
    hits_C, union_C = np.diag(pooled_CC), pooled_CC.sum(0) + pooled_CC.sum(1) - np.diag(pooled_CC)
    expected = np.mean((hits_C / union_C)[some_C])
    assert expected_miou(np.eye(4)[:, truth_P], label_LP, some_C) == pytest.approx(expected)


def test_expected_counts_are_the_mean_over_truths_that_are_drawn():
    """Of counts, not of mIoU: with many pixels the two come together."""
    rng = np.random.default_rng(6)
    posterior_CP = rng.dirichlet(np.array(SHARES) * 2, 40_000).T
    label_P = posterior_CP.argmax(0)
    drawn = [
        miou_of(label_P, (rng.random(40_000) > posterior_CP.cumsum(0)).sum(0).clip(max=3)) for _ in range(20)
    ]  # fmt: skip
    assert expected_miou(posterior_CP, [label_P], ALL) == pytest.approx(np.mean(drawn), abs=0.003)


@pytest.mark.parametrize("temperature", [1 / 32, 0.5, 1.0, 3.0])
def test_sharpening_keeps_the_order_and_the_sum(temperature):
    probs_CP = np.random.default_rng(7).dirichlet([0.5, 1, 2, 4], 500).T.astype(np.float32)
    sharp_CP = tempered(over_largest(probs_CP), temperature)
    assert np.allclose(sharp_CP.sum(0), 1, atol=1e-5)
    assert (sharp_CP.argmax(0) == probs_CP.argmax(0)).all()
    certain = probs_CP.max(0) > np.sort(probs_CP, axis=0)[-2] * 1.01
    assert (sharp_CP.max(0) >= probs_CP.max(0) - 1e-3)[certain].all() == (temperature <= 1)
    if temperature == 1:
        assert np.allclose(sharp_CP, probs_CP, atol=1e-3)


def test_opinions_are_those_of_the_blends_on_the_same_tiles():
    """Means may hold more tiles in another order; each fold's labels are by its own members and its own blend."""
    source = random_source(8, tiles=6, px=16, folds=2, shares=SHARES, specialists=0)
    few = [4, 1, 2]
    by_fold = {fold: _part(source, few, 1 + fold) for fold in (0, 1)}
    blend = uniform_blend(source.classes, source.models)
    gain_C = (1.0, 5.0, 1.0, 20.0)
    blend_of = {0: blend, 1: replace(blend, gain_C=gain_C)}
    opinions = draw_opinions(blend, blend_of, source, by_fold)
    probs_NCP = source.probs_NMCHW[few].astype(float).mean(1).reshape(3, 4, -1)
    expected_CP = np.concatenate(list(probs_NCP / probs_NCP.sum(1, keepdims=True)), axis=1)
    assert np.allclose(opinions.probs_CP, expected_CP, atol=1e-5)
    assert len(opinions.mean_P) == 3 * 16 * 16
    for fold, label_P in enumerate(opinions.fold_LP):
        mean_NCP = by_fold[fold].probs_NMCHW.astype(float).mean(1).reshape(3, 4, -1)
        scored_CP = np.concatenate(list(mean_NCP / mean_NCP.sum(1, keepdims=True)), axis=1)
        scored_CP = scored_CP * (np.array(gain_C)[:, None] if fold == 1 else 1)
        first, second = np.sort(scored_CP, axis=0)[[-1, -2]]
        clear_P = first > second + 1e-4
        assert clear_P.mean() > 0.9
        assert (label_P == scored_CP.argmax(0))[clear_P].all()


def test_of_a_tile_only_the_pixels_that_are_kept_stay_in_memory():
    """Python's own count of what arrays hold: a view of a tile would hold all of it."""
    peaks = []
    for tiles in (10, 40):
        source = random_source(3, tiles=tiles, px=256, folds=2, shares=SHARES, specialists=0)
        by_fold = {fold: _part(source, list(range(tiles)), 1 + fold) for fold in (0, 1)}
        blend = uniform_blend(source.classes, source.models)
        tracemalloc.start()
        draw_opinions(blend, {0: blend, 1: blend}, source, by_fold)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    a_tile = 256 * 256 * (4 * 4 + 3)  # four classes of float32, and three labels
    assert peaks[1] - peaks[0] < 30 * a_tile / 3


def _part(source: MemorySource, tiles: list[int], turn: int) -> MemorySource:
    """Some tiles of a source, by members of which each says of a class what the others say of another."""
    return replace(
        source,
        names=tuple(source.names[i] for i in tiles),
        probs_NMCHW=np.roll(source.probs_NMCHW[tiles], turn, axis=2),
        truth_NHW=source.truth_NHW[tiles],
        fold_N=source.fold_N[tiles],
        group_N=np.arange(len(tiles)),
        evidence_NSHW=source.evidence_NSHW[tiles],
    )
