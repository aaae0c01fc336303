from dataclasses import replace

import numpy as np
import pytest

from ensemble.apply import apply_sample
from ensemble.fitted import uniform_blend
from ensemble.sample import draw_sample
from ensemble.specialists import fit_evidence, fit_override
from tests.posteriors import random_source


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
