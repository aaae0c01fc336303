"""Decision rules: they raise mIoU where argmax gives rare classes away, and the searches are exact."""

import numpy as np
import pytest

from ensemble.calibration import calibration_error, fit_platt, fit_temperature, fit_vector
from ensemble.decision import fit_bias_rule, fit_miou_rule, joining_miou
from ensemble.labels import top_class
from tests.posteriors import posteriors, weighted_miou

SHARES = np.array([0.75, 0.17, 0.05, 0.02, 0.01])
RULES = {"bias": fit_bias_rule, "miou": fit_miou_rule}


def draw(seed: int, pixels: int = 60_000, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth_P = rng.choice(5, pixels, p=SHARES).astype(np.uint8)
    probs_CP = posteriors(rng, truth_P, SHARES, 1.5, temperature).T.astype(np.float32)
    return np.ascontiguousarray(probs_CP), truth_P, np.ones(pixels)


def labels(probs_CP, rule) -> np.ndarray:
    return top_class(probs_CP * rule[0][:, None].astype(np.float32) + rule[1][:, None].astype(np.float32), range(5))


@pytest.mark.parametrize("kind", RULES)
def test_rule_raises_miou_of_calibrated_probs_on_other_pixels(kind):
    probs_CP, truth_P, weight_P = draw(1)
    rule = RULES[kind](probs_CP, truth_P, weight_P, range(5))
    probs_CP, truth_P, weight_P = draw(2)
    before = weighted_miou(top_class(probs_CP, range(5)), truth_P, weight_P, 5)
    assert weighted_miou(labels(probs_CP, rule), truth_P, weight_P, 5) > before + 0.03


@pytest.mark.parametrize("kind", RULES)
def test_rule_is_never_worse_than_argmax_where_it_was_fitted(kind):
    rng = np.random.default_rng(3)
    probs_CP = rng.dirichlet(np.ones(4) * 0.3, 2_000).T.astype(np.float32)
    truth_P = rng.integers(0, 4, 2_000).astype(np.uint8)
    weight_P = rng.exponential(size=2_000)
    gain_C, offset_C = RULES[kind](probs_CP, truth_P, weight_P, range(4))
    after = top_class(probs_CP * gain_C[:, None].astype(np.float32) + offset_C[:, None].astype(np.float32), range(4))
    before = weighted_miou(top_class(probs_CP, range(4)), truth_P, weight_P, 4)
    assert weighted_miou(after, truth_P, weight_P, 4) >= before - 1e-9


@pytest.mark.parametrize("kind", RULES)
def test_certain_probs_are_left_alone(kind):
    rng = np.random.default_rng(4)
    truth_P = rng.choice(5, 5_000, p=SHARES).astype(np.uint8)
    probs_CP = np.eye(5, dtype=np.float32)[:, truth_P]
    rule = RULES[kind](probs_CP, truth_P, np.ones(5_000), range(5))
    assert (labels(probs_CP, rule) == truth_P).all()


def test_a_class_that_the_truth_lacks_is_not_given():
    rng = np.random.default_rng(5)
    truth_P = rng.integers(0, 3, 3_000).astype(np.uint8)
    probs_CP = rng.dirichlet(np.ones(4), 3_000).T.astype(np.float32)
    gain_C, offset_C = fit_miou_rule(probs_CP, truth_P, np.ones(3_000), range(4))
    assert np.isfinite(gain_C).all()
    assert np.isfinite(offset_C).all()
    scores = probs_CP * gain_C[:, None].astype(np.float32) + offset_C[:, None].astype(np.float32)
    if (gain_C != 1).any():
        assert not (top_class(scores, range(4)) == 3).any()


def test_joining_is_the_score_at_every_threshold():
    rng = np.random.default_rng(6)
    label_P, truth_P = (rng.integers(0, 4, 500).astype(np.uint8) for _ in range(2))
    weight_P, joins_from_P = rng.exponential(size=500), rng.integers(0, 8, 500)
    found_B = joining_miou(joins_from_P, 7, label_P, truth_P, weight_P, c=2, num_classes=4)
    expected = [
        weighted_miou(np.where(joins_from_P <= b, np.uint8(2), label_P), truth_P, weight_P, 4) for b in range(7)
    ]
    np.testing.assert_allclose(found_B, expected)


@pytest.mark.parametrize("temperature", [0.8, 1.0, 2.0])
def test_temperature_is_found(temperature):
    probs_CP, truth_P, weight_P = draw(7, temperature=temperature)
    assert fit_temperature(probs_CP, truth_P, weight_P) == pytest.approx(1 / temperature, rel=0.05)


def test_vector_scaling_undoes_slopes_and_biases():
    probs_CP, truth_P, weight_P = draw(8)
    slopes_C, biases_C = np.array([0.8, 1.2, 1, 1, 0.9]), np.array([0.5, 0, 1, 0, -1])
    bent = np.log(np.maximum(probs_CP, 1e-4)) * slopes_C[:, None] + biases_C[:, None]
    bent = np.exp(bent - bent.max(0))
    bent = (bent / bent.sum(0)).astype(np.float32)
    slope_C, bias_C = fit_vector(bent, truth_P, weight_P, 1.0)
    mended = np.log(np.maximum(bent, 2**-12)) * slope_C[:, None] + bias_C[:, None]
    mended = np.exp(mended - mended.max(0))
    mended /= mended.sum(0)
    before, after = (
        calibration_error(p, top_class(p, range(5)), truth_P, weight_P) for p in (bent, mended.astype(np.float32))
    )
    assert before > 0.02
    assert after < 0.008


def test_platt_takes_back_what_sampling_did():
    rng = np.random.default_rng(9)
    is_class_P = rng.random(40_000) < 0.02
    logit_P = rng.normal(np.where(is_class_P, 1.5, -1.5), 1.2)
    sampled_P = 1 / (1 + np.exp(-(2 * logit_P)))  # as if classes were even: the true posterior has log odds of .02
    slope, bias = fit_platt(sampled_P, is_class_P, np.ones(40_000))
    mended_P = 1 / (1 + np.exp(-(slope * 2 * logit_P + bias)))
    assert mended_P.mean() == pytest.approx(is_class_P.mean(), rel=0.02)
    assert np.log(0.02 / 0.98) - 1 < bias < np.log(0.02 / 0.98) + 1
