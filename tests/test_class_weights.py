import numpy as np
import pytest
from pydantic import TypeAdapter

from config.losses import ClassWeights
from models.class_weights import class_weights, training_weights

# The round-1 pixel counts of the ecological-assets competition, and the weights that the reference made of them.
COUNT_C = [173067508, 783364798, 6086055, 17751239, 5458338, 19350932, 4600435, 3419876, 35714475, 876456]
REFERENCE_C = [0.2543, 0.0413, 0.7266, 0.5756, 0.7420, 0.5634, 0.7661, 0.8079, 0.4770, 1.0]
NAMES = [f"class{i}" for i in range(10)]
SETTINGS = {
    "none": {"name": "none"},
    "log_inverse": {"name": "log_inverse"},
    "median_frequency": {"name": "median_frequency"},
    "effective_number": {"name": "effective_number", "beta": 0.9999999},
    "fixed": {"name": "fixed", "weights": {name: 1.0 + i for i, name in enumerate(NAMES)}},
}
EVERY_KIND = pytest.mark.parametrize("kind", SETTINGS)
COUNTED = pytest.mark.parametrize("kind", ["log_inverse", "median_frequency", "effective_number"])


def setting(kind, **changes):
    return TypeAdapter(ClassWeights).validate_python(SETTINGS[kind] | changes)


def test_log_inverse_reproduces_the_published_numbers():
    assert class_weights(setting("log_inverse"), COUNT_C, NAMES) == pytest.approx(REFERENCE_C, abs=6e-5)


def test_median_frequency_by_hand():
    weight_C = class_weights(setting("median_frequency"), [10, 20, 40], ["a", "b", "c"])
    assert weight_C == pytest.approx([2.0, 1.0, 0.5])


def test_effective_number_by_hand_and_at_its_ends():
    weight_C = class_weights(setting("effective_number", beta=0.9), [1, 2, 5], ["a", "b", "c"])
    raw = np.array([0.1 / (1 - 0.9**n) for n in (1, 2, 5)])
    assert weight_C == pytest.approx(raw * 3 / raw.sum())
    equal = class_weights(setting("effective_number", beta=1e-9), COUNT_C, NAMES)
    assert equal == pytest.approx(np.ones(10))
    inverse = class_weights(setting("effective_number", beta=1 - 1e-15), COUNT_C, NAMES)
    assert inverse * COUNT_C == pytest.approx(np.full(10, inverse[0] * COUNT_C[0]), rel=1e-5)


@COUNTED
def test_rarer_weighs_more_and_names_do_not_matter(kind):
    weight_C = class_weights(setting(kind), COUNT_C, NAMES)
    assert (np.argsort(weight_C) == np.argsort(COUNT_C)[::-1]).all()
    order = [3, 1, 9, 0, 2, 8, 7, 5, 4, 6]
    assert class_weights(setting(kind), np.array(COUNT_C)[order], NAMES) == pytest.approx(weight_C[order])


@COUNTED
def test_an_absent_class_changes_no_other_weight(kind):
    without = class_weights(setting(kind), [30, 5, 9], ["a", "b", "c"])
    with_absent = class_weights(setting(kind), [30, 0, 5, 9], ["a", "x", "b", "c"])
    assert with_absent[[0, 2, 3]] == pytest.approx(without)
    assert with_absent[1] == without.max()
    assert np.isfinite(class_weights(setting(kind), [7, 0], ["a", "b"])).all()


def test_fixed_goes_by_name():
    weights = {"c": 3.0, "a": 1.0, "b": 0.5}
    assert class_weights(setting("fixed", weights=weights), [1, 1, 1], ["a", "b", "c"]).tolist() == [1.0, 0.5, 3.0]


@EVERY_KIND
def test_a_training_pixel_weighs_1_on_average(kind):
    weight_C = training_weights(setting(kind), COUNT_C, NAMES)
    if kind == "none":
        assert weight_C is None
        return
    assert (weight_C * COUNT_C).sum() / np.sum(COUNT_C) == pytest.approx(1)
    raw = class_weights(setting(kind), COUNT_C, NAMES)
    assert weight_C / weight_C[0] == pytest.approx(raw / raw[0])
