"""The sample: unbiased, within its budget, rich in rare classes, a function of seed and tile."""

from dataclasses import replace

import numpy as np
import pytest

from ensemble import sample as sample_module
from ensemble.apply import apply_sample
from ensemble.fitted import uniform_blend
from ensemble.sample import Sample, class_rates, draw_sample
from folds.metrics import confusion
from tests.posteriors import random_source

SHARES = (0.85, 0.12, 0.025, 0.005)


def uniform_confusions(source, sample) -> tuple[np.ndarray, np.ndarray]:
    """The uniform blend's confusion on all pixels, and as the sample estimates it."""
    blend = uniform_blend(source.classes, source.models)
    everything = draw_sample(source, 10**9)
    exact = confusion(apply_sample(blend, everything)[1], everything.truth_P, len(source.classes))
    return exact, confusion(apply_sample(blend, sample)[1], sample.truth_P, len(source.classes), sample.weight_P)


def sample_of(truth_P: np.ndarray, weight_P: np.ndarray) -> Sample:
    """Pixels of three folds, whose models say nothing."""
    fold_P = np.arange(len(truth_P)) * 3 // len(truth_P)
    nothing = np.zeros((0, len(truth_P)))
    return Sample(("a", "b", "c", "d"), (), {}, nothing[:, None], nothing, truth_P, weight_P, fold_P,
                  fold_P.astype(np.int32), fold_P.astype(np.int32))  # fmt: skip


def test_a_large_budget_takes_every_pixel_once():
    source = random_source(1)
    sample = draw_sample(source, 10**9)
    assert (sample.weight_P == 1).all()
    assert len(sample.truth_P) == source.truth_NHW.size
    assert (np.bincount(sample.truth_P) == source.hist_NC.sum(0)).all()
    assert (np.diff(sample.fold_P) >= 0).all()


def test_ignored_pixels_are_never_drawn():
    source = random_source(2)
    truth_NHW = source.truth_NHW.copy()
    truth_NHW[:, 5:9] = 255
    sample = draw_sample(replace(source, truth_NHW=truth_NHW), 10**9)
    assert len(sample.truth_P) == (truth_NHW != 255).sum()
    assert sample.truth_P.max() < 4


def test_confusion_is_estimated_without_bias():
    source = random_source(3, tiles=24, px=40, shares=SHARES)
    estimates = []
    for seed in range(30):
        sample = draw_sample(source, 4_000, seed)
        assert len(sample.truth_P) <= 4_000
        exact, estimate = uniform_confusions(source, sample)
        estimates.append(estimate)
    mean, error = np.mean(estimates, axis=0), np.std(estimates, axis=0) / np.sqrt(30)
    assert (np.abs(mean - exact) <= 4 * error + 1e-9).all()


def test_rare_classes_keep_their_pixels():
    source = random_source(4, tiles=24, px=40, shares=SHARES)
    sample = draw_sample(source, 4_000)
    kept_C = np.bincount(sample.truth_P, minlength=4) / source.hist_NC.sum(0)
    assert kept_C[3] == 1
    assert kept_C[0] < 0.05


def test_false_alarms_of_a_rare_class_are_kept_too():
    source = random_source(5, tiles=24, px=40, shares=SHARES)
    probs_NMCHW = source.probs_NMCHW.copy()
    probs_NMCHW[:, :, [0, 3], 7, :5] = probs_NMCHW[:, :, [3, 0], 7, :5]
    sample = draw_sample(replace(source, probs_NMCHW=probs_NMCHW), 4_000)
    alarms = apply_sample(uniform_blend(source.classes, source.models), sample)[1] == 3
    assert (sample.weight_P[alarms] == 1).all()
    assert (sample.truth_P[alarms] != 3).sum() > 50


def test_models_that_see_a_rare_class_everywhere_do_not_break_the_budget():
    source = random_source(6, tiles=24, px=40, shares=SHARES)
    probs_NMCHW = source.probs_NMCHW.copy()
    probs_NMCHW[:, :, 3] = 255
    crazy = replace(source, probs_NMCHW=probs_NMCHW)
    sample = draw_sample(crazy, 4_000)
    assert 1_000 < len(sample.truth_P) <= 4_000
    assert sample.weight_P.sum() == pytest.approx(source.truth_NHW.size, rel=0.1)


def test_a_tile_draws_the_same_pixels_whatever_tiles_stand_beside_it():
    source = random_source(7, tiles=24, px=40)
    sample = draw_sample(source, 10_000)
    names = list(source.names)
    back = replace(source, names=tuple(names[::-1]), probs_NMCHW=source.probs_NMCHW[::-1],
                   truth_NHW=source.truth_NHW[::-1], fold_N=source.fold_N[::-1], group_N=source.group_N[::-1],
                   evidence_NSHW=source.evidence_NSHW[::-1])  # fmt: skip
    turned = draw_sample(back, 10_000)
    for tile in range(24):
        here, there = sample.tile_P == tile, turned.tile_P == 23 - tile
        assert (sample.probs_MCP[:, :, here] == turned.probs_MCP[:, :, there]).all()
        assert (sample.weight_P[here] == turned.weight_P[there]).all()


@pytest.mark.parametrize("pixels", [2_000, 10**9])
def test_how_many_tiles_are_put_together_at_once_changes_nothing(monkeypatch, pixels):
    """Also not where rates have to be halved on the way, which meets tiles put together and others."""
    source = random_source(6, tiles=40, shares=SHARES)
    probs_NMCHW = source.probs_NMCHW.copy()
    probs_NMCHW[10:, :, 3] = 255  # the rare class everywhere
    source = replace(source, probs_NMCHW=probs_NMCHW)
    samples = []
    for merged in (1, 7, 10**6):
        monkeypatch.setattr(sample_module, "MERGED", merged)
        samples.append(draw_sample(source, pixels))
    for other in samples[1:]:
        for name in ("probs_MCP", "evidence_SP", "truth_P", "weight_P", "fold_P", "group_P", "tile_P"):
            np.testing.assert_array_equal(getattr(other, name), getattr(samples[0], name))


def test_without_and_only_are_a_partition():
    sample = draw_sample(random_source(8), 2_000)
    for fold in sample.folds:
        inside, outside = sample.without(fold), sample.only(fold)
        assert set(inside.folds) == set(sample.folds) - {fold}
        assert outside.folds == [fold]
        assert inside.weight_P.sum() + outside.weight_P.sum() == pytest.approx(sample.weight_P.sum())
        assert not set(inside.tile_P) & set(outside.tile_P)
        for part in (inside, outside):
            assert (np.bincount(part.group_P) > 0).all()  # groups are numbered anew, without gaps


def test_thinning_keeps_the_weight():
    sample = draw_sample(random_source(9), 2_000)
    thin = sample.thinned(500)
    assert len(thin.truth_P) <= 500
    assert thin.weight_P.sum() == pytest.approx(sample.weight_P.sum(), rel=0.15)


def test_class_rates_fill_the_budget_from_the_rarest():
    rate_C = class_rates(np.array([1_000_000, 50, 10_000]), 3_000)
    assert rate_C[1] == 1
    assert rate_C @ [1_000_000, 50, 10_000] == pytest.approx(3_000)
    assert rate_C[0] * 1_000_000 == pytest.approx(rate_C[2] * 10_000)
    assert (class_rates(np.array([5, 0, 7]), 100) == 1).all()


def test_thinning_loses_no_class_and_changes_no_class_s_weight():
    """A class of six pixels among 45,000, wherever they lie."""
    for seed in range(10):
        truth_P = np.random.default_rng(seed).permutation(np.repeat([0, 2, 3], [30_000, 14_994, 6])).astype(np.uint8)
        sample = sample_of(truth_P, weight_P=np.where(truth_P == 0, 7.0, 2.0) + np.arange(45_000) % 3)
        thin = sample.thinned(10_000)
        assert len(thin.truth_P) <= 10_000
        assert (np.bincount(thin.truth_P)[[2, 3]] >= [4_900, 6]).all()
        weight_C, thin_C = (np.bincount(each.truth_P, each.weight_P) for each in (sample, thin))
        np.testing.assert_allclose(thin_C, weight_C)
        for fold in sample.folds:
            assert (sample.only(fold).truth_P == 3).sum() == (thin.only(fold).truth_P == 3).sum()


def test_a_thinned_sample_estimates_confusions_without_bias():
    """Over all orders of the pixels, of which some are drawn at the rate of what models take them for."""
    rng = np.random.default_rng(0)
    truth_P = np.repeat([0, 1, 2], [4_000, 900, 40]).astype(np.uint8)
    said_P = np.where(rng.random(len(truth_P)) < 0.8, truth_P, rng.integers(0, 3, len(truth_P))).astype(np.uint8)
    weight_P = np.where((truth_P == 0) & (said_P == 0), 20.0, 1.0)
    exact = confusion(said_P, truth_P, 3, weight_P)
    estimates = []
    for _ in range(300):
        order = rng.permutation(len(truth_P))
        sample = replace(sample_of(truth_P[order], weight_P[order]), evidence_SP=said_P[None, order])
        thin = sample.thinned(800)
        estimates.append(confusion(thin.evidence_SP[0], thin.truth_P, 3, thin.weight_P))
    mean, error = np.mean(estimates, axis=0), np.std(estimates, axis=0) / np.sqrt(300)
    assert (np.abs(mean - exact) <= 4 * error + 0.005 * exact + 1e-9).all()
    assert (mean[2] == exact[2]).all()
