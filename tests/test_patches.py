"""Patches and holes: what is small goes, what is not stays, and the fitted sizes are what the counts say."""

from dataclasses import replace

import numpy as np

from config.ensemble import Blend
from ensemble.apply import apply_blend
from ensemble.fit import Fit
from ensemble.fitted import uniform_blend
from ensemble.honest import HonestFit, score_tiles
from ensemble.patches import clean_labels, patches
from ensemble.postprocess import SIZES, _changed, _count, _fit_sizes, fit_postprocess
from folds.metrics import confusion
from tests.posteriors import random_source

MAP = np.array(
    [
        [0, 0, 0, 0, 0, 0, 1],
        [0, 2, 2, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 1, 0, 0, 1],
        [2, 0, 0, 0, 0, 0, 0],
    ],
    np.uint8,
)


def blend_of(min_px_C=(0, 0, 0), hole_px_C=(0, 0, 0)):
    return replace(uniform_blend(("a", "b", "c"), ["m"]), min_px_C=min_px_C, hole_px_C=hole_px_C)


def test_patches_are_connected_by_sides_and_holes_are_enclosed():
    patch_HW, size_R, class_R, hole_in_R = patches(MAP)
    assert (class_R[patch_HW] == MAP).all()
    assert sorted(size_R) == [1, 1, 2, 4, 27]
    assert hole_in_R[patch_HW[1, 1]] == 0
    assert hole_in_R[patch_HW[3, 3]] == 0
    assert hole_in_R[patch_HW[0, 6]] == -1  # at the border
    assert hole_in_R[patch_HW[4, 0]] == -1
    diagonal = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.uint8)
    assert len(patches(diagonal)[1]) == 5


def test_holes_are_filled_up_to_their_size():
    scores = np.zeros((3, *MAP.shape), np.float32)
    filled = clean_labels(blend_of(hole_px_C=(2, 0, 0)), MAP, scores)
    assert filled[3, 3] == 0
    assert (filled[1, 1:3] == 2).all()
    assert (clean_labels(blend_of(hole_px_C=(3, 0, 0)), MAP, scores)[1, 1:3] == 0).all()
    assert (clean_labels(blend_of(hole_px_C=(0, 9, 9)), MAP, scores) == MAP).all()


def test_small_patches_take_the_next_best_class_of_each_pixel():
    scores = np.zeros((3, *MAP.shape), np.float32)
    scores[2] = 1
    scores[1, 1, 1], scores[0, 1, 2], scores[0, 4, 0] = 0.5, 0.5, 0.5
    cleaned = clean_labels(blend_of(min_px_C=(0, 0, 3)), MAP, scores)
    assert cleaned[1, 1] == 1
    assert cleaned[1, 2] == cleaned[4, 0] == 0
    assert (np.delete(cleaned.ravel(), [8, 9, 28]) == np.delete(MAP.ravel(), [8, 9, 28])).all()


def test_counts_say_what_cleaning_does():
    """Hits and labels under any sizes, from the patch table, are those of the cleaned maps."""
    rng = np.random.default_rng(1)
    source = random_source(1, px=24)
    truth_NHW = source.truth_NHW.copy()
    truth_NHW[:, :3] = 255
    source = replace(source, truth_NHW=truth_NHW)
    blend = uniform_blend(source.classes, source.models)
    tiles = [0, 5, 7]
    base, table = _count(blend, source, tiles)
    for _ in range(5):
        sizes_2C = rng.integers(0, len(SIZES), (2, 4))
        changed = _changed(base, table, *sizes_2C)
        min_px_C, hole_px_C = (tuple(SIZES[sizes_C].tolist()) for sizes_C in sizes_2C)
        sized = replace(blend, min_px_C=min_px_C, hole_px_C=hole_px_C)
        for t, tile in enumerate(tiles):
            index_HW = apply_blend(sized, source.probs_NMCHW[tile], [])[1]
            conf_CC = confusion(index_HW, truth_NHW[tile], 4)
            assert (changed[t] == [np.diagonal(conf_CC), conf_CC.sum(0), conf_CC.sum(1)]).all()


def salted(seed: int):
    """Tiles of large fields whose members err in single pixels."""
    source = random_source(seed, tiles=18, px=24, noises=(1.0,))
    truth_NHW = np.repeat(np.repeat(source.truth_NHW[:, ::8, ::8], 8, axis=1), 8, axis=2)[:, :24, :24]
    rng = np.random.default_rng(seed)
    said = np.where(rng.random(truth_NHW.shape) < 0.06, rng.integers(0, 4, truth_NHW.shape), truth_NHW)
    probs = np.moveaxis(np.eye(4)[said] * 0.6 + np.eye(4)[truth_NHW] * 0.3 + 0.025, -1, 1)[:, None]
    return replace(source, truth_NHW=truth_NHW, probs_NMCHW=np.round(probs * 255).astype(np.uint8))


def one_stage(source) -> HonestFit:
    fit = Fit({"uniform": uniform_blend(source.classes, source.models)})
    return HonestFit(fit, dict.fromkeys(np.unique(source.fold_N).tolist(), fit))


def test_auto_cleans_salt_and_scores_it():
    source = salted(2)
    fits = fit_postprocess(one_stage(source), source, Blend())
    assert fits.whole.blend.kinds["postprocess"] == "clean"
    scored = score_tiles(fits, source)
    assert scored["postprocess"].honest.miou > scored["uniform"].honest.miou + 0.05
    assert scored["postprocess"].gain_over(scored["uniform"]).above_zero


def test_auto_leaves_alone_what_cleaning_cannot_help():
    source = random_source(3, px=24)  # every pixel's class is drawn by itself: patches mean nothing
    fits = fit_postprocess(one_stage(source), source, Blend())
    scored = score_tiles(fits, source)
    assert scored["postprocess"].honest.miou >= scored["uniform"].honest.miou - 0.005
    assert fit_postprocess(one_stage(source), source, Blend(postprocess="none")).stages == ["uniform"]


def test_no_size_is_fitted_on_the_fold_that_it_is_scored_on():
    """In fold 1 single pixels are right, in the others they are wrong: only who has seen fold 1 knows."""
    source = salted(4)
    in_fold = source.fold_N == 1
    truth_NHW = source.truth_NHW.copy()
    truth_NHW[in_fold] = source.probs_NMCHW[in_fold, 0].argmax(1)
    changed = replace(source, truth_NHW=truth_NHW)
    before, after = (fit_postprocess(one_stage(s), s, Blend()) for s in (source, changed))
    assert before.without[1].blend == after.without[1].blend
    assert before.whole.blend != after.whole.blend


def test_sizes_are_zero_where_nothing_helps():
    source = random_source(5, px=24)
    perfect = np.moveaxis(np.eye(4, dtype=np.uint8)[source.truth_NHW] * 255, -1, 1)[:, None]
    source = replace(source, probs_NMCHW=perfect, models=("m",))
    base, table = _count(uniform_blend(source.classes, source.models), source, range(12))
    assert not np.any(_fit_sizes(base, table, np.arange(12), [0, 1, 2, 3]))
