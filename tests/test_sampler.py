import numpy as np
import pytest
from pydantic import TypeAdapter

from config.losses import Sampler
from pipeline.sampler import epoch_order

NAMES = ["field", "forest", "bare"]
# 40 tiles: field everywhere, forest in half of them, bare in the two tiles 6 and 7; tile 9 is all ignored.
HIST_NC = np.zeros((40, 3), np.int64)
HIST_NC[:, 0] = 900
HIST_NC[::2, 1] = 100
HIST_NC[[6, 7], 2] = 1
HIST_NC[9] = 0
SAMPLERS = [
    {"name": "uniform"},
    {"name": "repeat_factor", "threshold": 0.6},
    {"name": "class_times", "times": {"bare": 5, "forest": 2}},
]
EVERY_SAMPLER = pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler["name"])


def counts(sampler, epoch=0, seed=0, hist_NC=HIST_NC):
    order = epoch_order(TypeAdapter(Sampler).validate_python(sampler), hist_NC, NAMES, seed, epoch)
    return np.bincount(order, minlength=len(hist_NC))


@EVERY_SAMPLER
def test_an_epoch_depends_on_seed_and_epoch_alone_and_no_tile_is_left_out(sampler):
    sampler = TypeAdapter(Sampler).validate_python(sampler)
    order = epoch_order(sampler, HIST_NC, NAMES, 3, 5)
    epoch_order(sampler, HIST_NC, NAMES, 0, 0)
    np.random.default_rng().random(10)
    assert (epoch_order(sampler, HIST_NC, NAMES, 3, 5) == order).all()
    assert set(order) == set(range(40))
    for seed, epoch in ((3, 6), (4, 5)):
        other = epoch_order(sampler, HIST_NC, NAMES, seed, epoch)
        assert len(other) != len(order) or (other != order).any()
    assert (order[: len(order) - 1] > order[1:]).any()  # shuffled, repeats too


def test_uniform_is_once():
    assert (counts(SAMPLERS[0]) == 1).all()


def test_class_times_takes_the_largest():
    expected = np.ones(40)
    expected[::2] = 2  # forest
    expected[[6, 7]] = 5  # 6 has forest too
    assert (counts(SAMPLERS[2]) == expected).all()


def test_repeat_factors_are_those_of_lvis_on_average():
    average = np.mean([counts(SAMPLERS[1], epoch) for epoch in range(2000)], axis=0)
    share_C = (HIST_NC > 0).mean(0)
    factor_C = np.maximum(1, np.sqrt(0.6 / share_C))
    assert factor_C == pytest.approx([1.0, np.sqrt(0.6 / 0.5), np.sqrt(0.6 / 0.05)])
    expected = np.ones(40)
    expected[::2] = factor_C[1]
    expected[[6, 7]] = factor_C[2]
    assert average == pytest.approx(expected, abs=0.06)
    assert (average[expected == 1] == 1).all()


def test_repeats_are_whole_numbers_next_to_the_factor():
    many = np.stack([counts(SAMPLERS[1], epoch) for epoch in range(50)])
    assert set(many[:, 6]) == {3, 4}  # sqrt(12) = 3.46
    assert set(many[:, 0]) == {1, 2}


def test_a_class_without_tiles_repeats_nothing():
    hist_NC = HIST_NC.copy()
    hist_NC[:, 2] = 0
    assert counts({"name": "repeat_factor", "threshold": 0.4}, hist_NC=hist_NC).tolist() == [1] * 40
