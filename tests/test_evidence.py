"""Tallies and intervals: sums over groups are the metric's, intervals are over groups, differences are paired."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from ensemble.evidence import SHIPS, Counter, Tally, agreement, class_intervals, gain, joined, score, tally
from folds.metrics import confusion, mean_iou


def random_labels(seed: int, pixels: int = 4_000, groups: int = 20, right: float = 0.8) -> tuple:
    rng = np.random.default_rng(seed)
    truth_P = rng.integers(0, 4, pixels).astype(np.uint8)
    index_P = np.where(rng.random(pixels) < right, truth_P, rng.integers(0, 4, pixels)).astype(np.uint8)
    return index_P, truth_P, rng.integers(0, groups, pixels), groups


def test_tally_is_the_metric():
    index_P, truth_P, group_P, groups = random_labels(1)
    counted = tally(index_P, truth_P, group_P, groups, 4)
    assert counted.miou == pytest.approx(mean_iou(confusion(index_P, truth_P, 4)))
    assert (counted.conf_CC == confusion(index_P, truth_P, 4)).all()


def test_weights_are_repetitions():
    index_P, truth_P, group_P, groups = random_labels(2, pixels=300)
    times_P = np.random.default_rng(2).integers(0, 4, 300)
    weighted = tally(index_P, truth_P, group_P, groups, 4, weight_P=times_P, loss_P=np.arange(300.0))
    again = tally(*(np.repeat(a, times_P) for a in (index_P, truth_P, group_P)), groups, 4,
                  loss_P=np.repeat(np.arange(300.0), times_P))  # fmt: skip
    for name in ("hit_GC", "union_GC", "truth_GC", "loss_G", "conf_CC"):
        np.testing.assert_allclose(getattr(weighted, name), getattr(again, name))


def test_counter_and_tally_agree_and_joined_adds_up():
    index_P, truth_P, group_P, groups = random_labels(3)
    counter = Counter(groups, 4)
    for group in range(groups):
        here = group_P == group
        counter.add(group, confusion(index_P[here], truth_P[here], 4))
    whole = tally(index_P, truth_P, group_P, groups, 4)
    assert (counter.tally().hit_GC == whole.hit_GC).all()
    assert (counter.tally().union_GC == whole.union_GC).all()
    low = group_P < 7
    halves = [tally(index_P[low], truth_P[low], group_P[low], 7, 4),
              tally(index_P[~low], truth_P[~low], group_P[~low] - 7, groups - 7, 4)]  # fmt: skip
    assert joined(halves).miou == pytest.approx(whole.miou)
    assert score(joined(halves)) == score(whole)


def test_a_class_without_a_pixel_is_left_out():
    nothing = tally(np.array([0, 1, 1]), np.array([0, 1, 0]), np.array([0, 1, 1]), 2, 3)
    assert np.isnan(nothing.iou_C[2])
    assert nothing.miou == pytest.approx((0.5 + 0.5) / 2)


@pytest.mark.parametrize("groups", [3, 6, 40])
def test_interval_covers_the_truth_as_often_as_it_says(groups):
    """Groups differ in how hard they are: an interval over pixels would be far too narrow, and one of few groups that
    asks how far they lie apart, but not how few they are."""
    rng = np.random.default_rng(4)
    runs, hits = 300, []
    for _ in range(runs):
        hard_G = rng.beta(4, 2, groups)
        group_P = np.repeat(np.arange(groups), 100)
        truth_P = rng.integers(0, 2, len(group_P)).astype(np.uint8)
        index_P = np.where(rng.random(len(group_P)) < hard_G[group_P], truth_P, 1 - truth_P).astype(np.uint8)
        hits.append(score(tally(index_P, truth_P, group_P, groups, 2)))
    truth = 0.5  # mean accuracy 2/3 on two even classes: IoU = a / (2 - a)
    covered = sum(h.low <= truth <= h.high for h in hits)
    assert 0.91 * runs <= covered <= 0.99 * runs


def labelled_at_random(rng: np.random.Generator, truth_GC: np.ndarray) -> Tally:
    """Counts of a labelling that is as good as any other from here, but here or there better by chance."""
    hit_GC = np.round(truth_GC * np.clip(0.7 + rng.normal(0, 0.03, truth_GC.shape), 0, 1))
    wrong_GC = np.round(truth_GC * rng.normal(0.2, 0.02, truth_GC.shape).clip(0))
    return Tally(hit_GC, truth_GC + wrong_GC, truth_GC, np.zeros(len(truth_GC)))


@pytest.mark.parametrize("groups", [2, 3, 5, 8, 20])
def test_the_best_of_candidates_that_gain_by_chance_is_seldom_certain(groups):
    rng = np.random.default_rng(11)
    runs, certain = 400, 0
    for _ in range(runs):
        truth_GC = rng.multinomial(4_000, [0.7, 0.2, 0.07, 0.03], size=groups)
        before, *tried = (labelled_at_random(rng, truth_GC) for _ in range(4))
        best = max((gain(each, before, tried=3) for each in tried), key=lambda estimate: estimate.value)
        certain += best.above_zero
    assert certain <= 0.045 * runs  # .025 is meant: at most 18 of 400 but once in a hundred times


def test_less_confidence_is_a_narrower_interval_around_the_same_gain():
    index_P, truth_P, group_P, groups = random_labels(6)
    other_P, *_ = random_labels(7)
    before, after = (tally(p, truth_P, group_P, groups, 4) for p in (other_P, index_P))
    sure, less = gain(after, before), gain(after, before, confidence=SHIPS)
    assert less.value == sure.value
    assert sure.low < less.low < less.high < sure.high
    # Student's t of 19 degrees of freedom: 2.093 and 1.328
    assert (less.high - less.low) / (sure.high - sure.low) == pytest.approx(1.328 / 2.093, abs=1e-3)


def test_a_single_group_tells_no_interval():
    one = Tally(np.array([[8.0, 3.0]]), np.array([[10.0, 6.0]]), np.array([[9.0, 5.0]]), np.array([2.0]))
    assert score(one).value == pytest.approx(0.65)
    for estimate in (score(one), gain(one, one), gain(one, one, "nll"), agreement(one)):
        assert np.isnan([estimate.low, estimate.high]).all()
        assert not estimate.above_zero
    beside_an_empty_one = Tally(*(np.concatenate([each, 0 * each]) for each in
                                  (one.hit_GC, one.union_GC, one.truth_GC, one.loss_G)))  # fmt: skip
    assert np.isnan(score(beside_an_empty_one).low)


def test_groups_without_a_pixel_change_nothing():
    index_P, truth_P, group_P, groups = random_labels(8)
    found = score(tally(index_P, truth_P, group_P, groups, 4))
    assert score(tally(index_P, truth_P, 3 * group_P, 3 * groups, 4)) == found


def test_an_interval_of_a_share_is_one_and_a_class_of_one_group_has_none():
    found = one_group_knows(True)
    intervals_C2 = class_intervals(found)
    assert np.isnan(intervals_C2[2]).all()
    np.testing.assert_allclose(intervals_C2[:2], [[80 / 120] * 2, [60 / 120] * 2])
    ten_GC = np.full((2, 2), 10.0)
    apart = Tally(np.array([[9.0, 1.0], [1.0, 9.0]]), ten_GC, ten_GC, np.zeros(2))
    assert (class_intervals(apart) == [[0, 1], [0, 1]]).all()


def test_gain_is_paired():
    """A small improvement of every group is certain although the groups differ far more."""
    rng = np.random.default_rng(5)
    group_P = np.repeat(np.arange(30), 200)
    truth_P = rng.integers(0, 3, 6_000).astype(np.uint8)
    right_P = rng.random(6_000) < np.linspace(0.3, 0.95, 30)[group_P]
    index_P = np.where(right_P, truth_P, (truth_P + 1) % 3).astype(np.uint8)
    better_P = np.where(np.arange(6_000) % 50 == 0, truth_P, index_P).astype(np.uint8)
    before, after = (tally(p, truth_P, group_P, 30, 3) for p in (index_P, better_P))
    estimate = gain(after, before)
    assert estimate.above_zero
    assert estimate.high - estimate.low < 0.2 * (score(before).high - score(before).low)
    assert gain(before, before).value == gain(before, before).low == gain(before, before).high == 0
    reverse = gain(before, after)
    assert (reverse.value, reverse.low) == pytest.approx((-estimate.value, -estimate.high))


def test_a_stray_pixel_of_a_class_that_the_truth_lacks_is_no_loss():
    """Its IoU of 0 would hide a gain, or make one of nothing, as no interval does."""
    rng = np.random.default_rng(4)
    truth_P, group_P = rng.integers(0, 2, 20_000).astype(np.uint8), np.repeat(np.arange(20), 1000)
    labels = {"before": np.where(rng.random(20_000) < 0.8, truth_P, 1 - truth_P).astype(np.uint8)}
    labels["better"] = np.where(rng.random(20_000) < 0.1, truth_P, labels["before"])
    plain = {name: tally(label_P, truth_P, group_P, 20, 2) for name, label_P in labels.items()}
    stray = {}
    for name, label_P in labels.items():
        label_P[:3] = 2
        stray[name] = tally(label_P, truth_P, group_P, 20, 3)
    without = tally(np.where(labels["before"] == 2, 1, labels["before"]), truth_P, group_P, 20, 3)
    expected = gain(plain["better"], plain["before"])
    found = gain(stray["better"], stray["before"])
    assert (found.value, found.low, found.high) == pytest.approx(
        (expected.value, expected.low, expected.high), abs=1e-3
    )
    nothing = gain(without, stray["before"])
    assert abs(nothing.value) < 1e-3
    assert nothing.low - 1e-3 < nothing.value < nothing.high + 1e-3


def test_more_candidates_widen_the_interval():
    index_P, truth_P, group_P, groups = random_labels(6)
    other_P, *_ = random_labels(7)
    before, after = (tally(p, truth_P, group_P, groups, 4) for p in (other_P, index_P))
    one, ten = gain(after, before), gain(after, before, tried=10)
    assert ten.low < one.low
    assert ten.high > one.high


def one_group_knows(better: bool) -> Tally:
    """Ten groups of two classes; class 2 is in the first group only, and found there, or not."""
    hit_GC = np.tile([80.0, 60.0, 0.0], (10, 1))
    truth_GC = np.tile([100.0, 100.0, 0.0], (10, 1))
    union_GC = truth_GC + 20 * (truth_GC > 0)
    hit_GC[0, 2], truth_GC[0, 2], union_GC[0, 2] = 50.0 * better, 50.0, 50.0
    return Tally(hit_GC, union_GC, truth_GC, np.zeros(10))


def test_what_one_group_says_of_a_class_is_not_certain():
    estimate = gain(one_group_knows(True), one_group_knows(False))
    assert estimate.value == pytest.approx(1 / 3)
    assert not estimate.above_zero


def test_a_missing_class_does_not_move_the_score_without_its_group():
    found = one_group_knows(False)
    estimate = score(found)
    assert estimate.low == pytest.approx(found.miou)
    assert estimate.high == pytest.approx(found.miou)


def test_a_class_of_one_group_makes_a_score_as_uncertain_as_the_other_classes_are_per_group():
    """The variance of the mIoU is that of classes in several groups, and for each other one the mean of se^2 times
    groups, over C^2. Class 1 is in two groups only, class 3 nowhere."""
    rng = np.random.default_rng(3)
    truth_GC = rng.integers(200, 900, (5, 5)).astype(float)
    truth_GC[:, 3], truth_GC[2:, 1], truth_GC[[0, 1, 2, 4], 4] = 0, 0, 0
    hit_GC, wrong_GC = np.round(truth_GC * rng.uniform(0.4, 0.9, (2, 5, 5)) * [[[1]], [[0.3]]])
    found = Tally(hit_GC, truth_GC + wrong_GC, truth_GC, np.zeros(5))
    iou_GC = np.stack([hit_GC[kept].sum(0) / np.maximum((truth_GC + wrong_GC)[kept].sum(0), 1e-12)
                       for kept in ~np.eye(5, dtype=bool)])  # fmt: skip
    away_GC = iou_GC - iou_GC.mean(0)
    of_a_group = np.mean([0.8 * (away_GC[:, c] ** 2).sum() * groups for c, groups in ((0, 5), (1, 2), (2, 5))])
    variance = (0.8 * (away_GC[:, :3].sum(1) ** 2).sum() + of_a_group) / 4**2
    assert score(found).high - found.miou == pytest.approx(2.776 * np.sqrt(variance), rel=1e-3)  # t of 4
    everywhere = Tally(*(each[:, [0, 2]] for each in (hit_GC, truth_GC + wrong_GC, truth_GC)), np.zeros(5))
    alone = away_GC[:, [0, 2]].sum(1) / 2
    reach = score(everywhere).high - everywhere.miou
    assert reach == pytest.approx(2.776 * np.sqrt(0.8 * (alone**2).sum()), rel=1e-3)  # nothing is added


def test_where_no_class_is_in_two_groups_there_is_nothing_to_borrow():
    ten_GC = np.diag([10.0, 20.0, 30.0])
    found = Tally(0.7 * ten_GC, ten_GC, ten_GC, np.zeros(3))
    assert (score(found).low, score(found).high) == pytest.approx((0.7, 0.7))


def test_agreement_is_kappa_and_chance_has_none():
    index_P, truth_P, group_P, groups = random_labels(12)
    weight_P = np.random.default_rng(12).integers(1, 5, len(truth_P))
    found = agreement(tally(index_P, truth_P, group_P, groups, 4, weight_P))
    assert found.value == pytest.approx(cohen_kappa_score(index_P, truth_P, sample_weight=weight_P))
    assert found.low < found.value < found.high
    shuffled_P = np.random.default_rng(13).permutation(index_P)
    chance = agreement(tally(shuffled_P, truth_P, group_P, groups, 4, weight_P))
    assert chance.low < 0 < chance.high
    constant = agreement(tally(np.zeros_like(truth_P), truth_P, group_P, groups, 4, weight_P))
    assert (constant.low, constant.high) == pytest.approx((0, 0))


def test_a_good_model_does_not_look_like_chance_for_want_of_groups():
    """Three groups, very unlike: kappa .8, .4 and .2. Student's t would not tell their mean from 0."""
    hit_GC = np.array([[90.0, 90.0], [70.0, 70.0], [60.0, 60.0]])
    truth_GC = np.full((3, 2), 100.0)
    found = agreement(Tally(hit_GC, 2 * truth_GC - hit_GC, truth_GC, np.zeros(3)))
    assert found.value == pytest.approx(0.4667, abs=1e-4)
    assert found.above_zero
    assert found.value - 4.3 / 1.96 * (found.value - found.low) < 0
