"""Weights: the objective is mIoU itself, noise gets none, and no single model, pair or uniform mean is better."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from config.ensemble import Blend
from ensemble.apply import apply_sample
from ensemble.fit import fit_blend
from ensemble.fitted import uniform_blend
from ensemble.labels import top_class
from ensemble.sample import draw_sample
from ensemble.weights import (
    UNITS,
    _one_class_miou,
    ballots,
    direct_weights,
    greedy_weights,
    per_class_weights,
    telling_models,
)
from tests.posteriors import random_source, soft, weighted_miou

ONES = (1.0,) * 3


def blend_miou(sample, weights, combination="mean", temperature_M=None) -> float:
    """mIoU of a weighted blend by the way that labels the test set."""
    num_models, num_classes = len(sample.models), len(sample.classes)
    weight_MC = np.broadcast_to(np.asarray(weights, float).reshape(num_models, -1), (num_models, num_classes))
    blend = replace(uniform_blend(sample.classes, sample.models), combination=combination)
    if temperature_M:
        blend = replace(blend, temperature_M=temperature_M)
    _, index_P = apply_sample(blend.weighted(sample.models, weight_MC, "direct"), sample)
    return weighted_miou(index_P, sample.truth_P, sample.weight_P, num_classes)


@pytest.mark.parametrize("combination", ["mean", "gmean"])
def test_fitted_weights_beat_every_single_pair_and_uniform(combination):
    source = random_source(1, noises=(0.9, 1.0, 1.2, 1.3, 1.6, 3.0))
    sample = draw_sample(source, 10**6)
    ballot, *bags = ballots(sample, combination, (1.0,) * 6, bags=3)
    greedy_M = greedy_weights(bags)
    fitted = blend_miou(sample, direct_weights(ballot, greedy_M), combination)
    rivals = [np.ones(6) / 6, *np.eye(6), *(np.eye(6)[[a, b]].mean(0) for a, b in combinations(range(6), 2))]
    assert fitted >= max(blend_miou(sample, weights, combination) for weights in rivals) - 2e-4


@pytest.mark.parametrize("combination", ["mean", "gmean"])
@pytest.mark.parametrize("temperature_M", [ONES, (0.7, 1.4, 1.1)])
def test_the_ballot_scores_what_the_blend_scores(combination, temperature_M):
    sample = draw_sample(random_source(2), 10**6)
    (ballot,) = ballots(sample, combination, temperature_M)
    units_M = np.array([100, 56, 100])
    total_CP = (ballot.evidence_MCP * units_M[:, None, None].astype(np.int32)).sum(0)
    expected = blend_miou(sample, units_M / UNITS, combination, temperature_M)
    assert ballot.miou_of_sum(total_CP) == pytest.approx(expected, abs=2e-3)


def test_noise_gets_no_weight():
    source = random_source(3)
    rng = np.random.default_rng(3)
    noise = soft(rng, (len(source.names), 2, 4, 20, 20))
    mixed = replace(source, models=(*source.models, "noise0", "noise1"),
                    probs_NMCHW=np.concatenate([source.probs_NMCHW, noise], axis=1))  # fmt: skip
    sample = draw_sample(mixed, 10**6)
    greedy_M = greedy_weights(ballots(sample, "mean", (1.0,) * 5, bags=5)[1:])
    assert sample.models[3:] == ("noise0", "noise1")
    assert greedy_M[3:].sum() < 0.05


def test_direct_is_no_worse_than_its_start():
    sample = draw_sample(random_source(4), 10**6)
    (ballot,) = ballots(sample, "mean", ONES)
    start_M = np.array([0.2, 0.1, 0.7])
    assert blend_miou(sample, direct_weights(ballot, start_M)) >= blend_miou(sample, start_M) - 1e-4


def test_per_class_weights_use_the_model_that_knows_the_class():
    """One model blind to class 3, one blind to class 1: each class's column prefers the other."""
    source = random_source(5, tiles=90, px=12, noises=(1.6, 1.6))
    probs_NMCHW = source.probs_NMCHW.copy()
    probs_NMCHW[:, 0, 3] //= 12
    probs_NMCHW[:, 1, 1] //= 12
    sample = draw_sample(replace(source, probs_NMCHW=probs_NMCHW), 10**6)
    (ballot,) = ballots(sample, "mean", (1.0, 1.0))
    start_M = np.array([0.5, 0.5])
    weight_MC = per_class_weights(ballot, start_M, groups_C=np.full(4, 45))
    assert weight_MC[1, 3] > weight_MC[0, 3]
    assert weight_MC[0, 1] > weight_MC[1, 1]
    assert blend_miou(sample, weight_MC) > blend_miou(sample, start_M)
    few = per_class_weights(ballot, start_M, groups_C=np.array([45, 45, 45, 3]))
    assert (few[:, 3] == start_M).all()  # in too few groups for weights of its own


@pytest.mark.parametrize("combination", ["mean", "gmean"])
def test_models_that_agree_cannot_be_outvoted(combination):
    """The shortcut of `Ballot`: no weights change the label where all models have the same."""
    rng = np.random.default_rng(6)
    sample = draw_sample(random_source(6), 10**6)
    labels = [top_class(probs_CP, range(4)) for probs_CP in sample.probs_MCP]
    agreed = (labels[0] == labels[1]) & (labels[0] == labels[2])
    assert 0.1 < agreed.mean() < 0.99
    for _ in range(5):
        blend = replace(uniform_blend(sample.classes, sample.models), combination=combination)
        blend = blend.weighted(sample.models, np.repeat(rng.dirichlet(np.ones(3))[:, None], 4, 1), "direct")
        assert (apply_sample(blend, sample)[1] == labels[0])[agreed].all()


@pytest.mark.parametrize("c", range(4))
def test_one_class_is_judged_by_the_same_labels_ties_included(c):
    sample = draw_sample(random_source(7), 10**6)
    (ballot,) = ballots(sample, "mean", ONES)
    total_CP = ballot.evidence_MCP.astype(np.int32).sum(0) // 128  # coarse: many ties
    assert _one_class_miou(ballot, total_CP, c)(total_CP[c]) == ballot.miou_of_sum(total_CP)


def with_models(source, probs_NMCHW, prefix):
    """The source with further models, by name behind its own."""
    names = tuple(f"{prefix}{m}" for m in range(probs_NMCHW.shape[1]))
    both_NMCHW = np.concatenate([source.probs_NMCHW, probs_NMCHW], axis=1)
    return replace(source, models=(*source.models, *names), probs_NMCHW=both_NMCHW)


def test_models_that_tell_nothing_are_found():
    """Noise, no opinion, and one opinion for everything; a poor model that has seen something is none of them."""
    source = random_source(8, noises=(1.0, 3.0))
    shape = (len(source.names), 1, 4, 20, 20)
    flat, constant = np.full(shape, 64, np.uint8), np.zeros(shape, np.uint8)
    constant[:, :, 0] = 255  # the commonest class: right for 60 % of the pixels
    source = with_models(source, np.concatenate([soft(np.random.default_rng(8), shape), flat, constant], axis=1), "z")
    assert telling_models(draw_sample(source, 10**6)) == ("model000", "model001")


@pytest.mark.parametrize("seed", range(3))
def test_noise_beside_good_models_changes_nothing_at_all(seed):
    """All that is fitted is what a fit that never saw the noise comes to, to the bit."""
    source = random_source(seed, tiles=18)
    mixed = with_models(source, soft(np.random.default_rng(seed), (18, 2, 4, 20, 20)), "noise")
    with_noise, without = (fit_blend(draw_sample(s, 10**6), Blend()).stages for s in (mixed, source))
    assert with_noise.pop("uniform").models != without.pop("uniform").models
    assert with_noise == without
    assert with_noise["members"].kinds["members"] == "3 of 5"
    assert without["members"].kinds["members"] == "all"


def test_a_uniform_mean_that_is_asked_for_is_of_all_models():
    source = random_source(9)
    mixed = with_models(source, soft(np.random.default_rng(9), (12, 2, 4, 20, 20)), "noise")
    assert len(fit_blend(draw_sample(mixed, 10**6), Blend(weights="uniform")).blend.models) == 5


def test_where_all_models_are_noise_none_is_left_out():
    source = random_source(9)
    noise = replace(source, probs_NMCHW=soft(np.random.default_rng(9), source.probs_NMCHW.shape))
    assert fit_blend(draw_sample(noise, 10**6), Blend()).stages["members"].models == source.models
