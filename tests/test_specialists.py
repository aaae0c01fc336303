from dataclasses import replace

import numpy as np
import pytest

from config.ensemble import Blend
from ensemble.apply import apply_sample
from ensemble.fit import fit_blend, tally_sample
from ensemble.fitted import FittedBlend, uniform_blend
from ensemble.sample import Sample, draw_sample
from ensemble.specialists import THRESHOLDS, fit_evidence, fit_override
from tests.posteriors import posteriors, random_source


@pytest.mark.parametrize(("low", "high"), [(0, 255), (0, 30), (90, 110)])
def test_a_specialist_that_tells_the_class_is_used_whatever_its_range(low, high):
    """Its answers may lie in a narrow band: the calibration is then so steep that its probabilities end at 0 and 1."""
    source = random_source(3, tiles=12, px=64)
    rng = np.random.default_rng(0)
    is_rare_NSHW = source.truth_NHW[:, None] == 3
    evidence_NSHW = np.where(is_rare_NSHW, high, low) + rng.integers(0, 5, is_rare_NSHW.shape) * np.where(
        is_rare_NSHW, -1, 1
    )
    evidence_NSHW[:, :, 0, :8] = np.where(is_rare_NSHW[:, :, 0, :8], 255, 0)
    sample = draw_sample(replace(source, evidence_NSHW=evidence_NSHW.astype(np.uint8)), 10**6)
    blend = uniform_blend(source.classes, source.models)
    for fit in (fit_evidence, fit_override):
        (specialist,) = fit(blend, sample, ["rare0"]).specialists
        _, index_P = apply_sample(fit(blend, sample, ["rare0"]), sample)
        rare_P = sample.truth_P == 3
        assert (index_P[rare_P] == 3).mean() > 0.95
        assert (index_P[~rare_P] != 3).mean() > 0.95
    assert specialist.threshold is not None


def class_nll(blend: FittedBlend, sample: Sample, target: int) -> float:
    """Mean log loss of "is it this class" by the blend's probabilities."""
    probs_CP, _ = apply_sample(blend, sample)
    p = probs_CP[target].astype(np.float64)
    return -np.log(np.where(sample.truth_P == target, p, 1 - p)).mean()


@pytest.mark.parametrize("temperature", [1.0, 0.25])
@pytest.mark.parametrize("specialists", [1, 2])
def test_no_other_share_is_better_than_the_fitted_one(temperature, specialists):
    """Of probabilities as they are applied: those of a sure network (a low temperature) are stored as 0 and 1."""
    source = random_source(4, tiles=12, px=32, noises=(1.4,), temperature=temperature, specialists=specialists)
    sample = draw_sample(source, 10**6)
    blend = fit_evidence(uniform_blend(source.classes, source.models), sample, list(sample.specialists))
    *before, last = blend.specialists
    fitted = class_nll(blend, sample, last.target)
    for share in np.linspace(0.01, 1, 20):
        other = replace(blend, specialists=(*before, replace(last, share=float(share))))
        assert class_nll(other, sample, last.target) > fitted - 1e-5


@pytest.mark.parametrize("noise", [0.5, 1.4])
def test_of_two_that_know_the_same_not_both_leave(noise):
    source = random_source(2, tiles=18, px=24, shares=(0.8, 0.14, 0.04, 0.02), noises=(1.6,), specialists=0)
    knows = posteriors(np.random.default_rng(5), source.truth_NHW, np.array([0.8, 0.14, 0.04, 0.02]), noise)[..., 3]
    evidence_NSHW = np.round(255 * np.stack([knows, knows], axis=1)).astype(np.uint8)
    twins = replace(source, specialists={"rare0": 3, "rare1": 3}, evidence_NSHW=evidence_NSHW)
    both = draw_sample(twins, 10**6)
    nll = []
    for sample in (both, both.without_models(["rare1"])):
        blend = fit_blend(sample, Blend(specialists="auto", decision="miou", calibration="none")).blend
        assert blend.specialists
        nll.append(class_nll(blend, sample, 3))
    assert nll[0] <= nll[1] + 1e-5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_good_specialists_of_a_class_are_no_worse_than_one(seed):
    source = random_source(seed, tiles=30, px=32, shares=(0.8, 0.14, 0.04, 0.02), noises=(1.6,), specialists=2)
    sample = draw_sample(source, 10**6)
    blend = uniform_blend(source.classes, source.models)
    nll = {names: class_nll(fit_evidence(blend, sample, names), sample, 3)
           for names in (("rare0",), ("rare1",), ("rare0", "rare1"))}  # fmt: skip
    assert nll["rare0", "rare1"] < min(nll["rare0",], nll["rare1",])
    fit = fit_blend(sample, Blend(specialists="auto", decision="miou", calibration="none"))
    assert [specialist.name for specialist in fit.blend.specialists] == ["rare0", "rare1"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_of_overrides_no_other_threshold_of_the_last_is_better_than_the_fitted_one(seed):
    """As they are applied: of two specialists above their thresholds, the one furthest above wins."""
    shares = (0.6, 0.3, 0.07, 0.03)
    source = random_source(seed, tiles=18, px=32, shares=shares, noises=(2.0,), specialists=0)
    rng = np.random.default_rng(seed)
    knows = [posteriors(rng, source.truth_NHW, np.array(shares), noise)[..., c] for c, noise in ((3, 1.2), (2, 1.0))]
    evidence_NSHW = np.round(255 * np.stack(knows, axis=1)).astype(np.uint8)
    source = replace(source, specialists={"rare": 3, "scarce": 2}, evidence_NSHW=evidence_NSHW)
    sample = draw_sample(source, 10**6)
    blend = fit_override(uniform_blend(source.classes, source.models), sample, ["rare", "scarce"])
    first, last = blend.specialists
    fitted = tally_sample(blend, sample).miou
    for threshold in THRESHOLDS:
        other = replace(blend, specialists=(first, replace(last, threshold=float(threshold))))
        assert tally_sample(other, sample).miou < fitted + 1e-6
