"""The name of a way to predict is enough to find its settings again, so stores on disk say what they are."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.ensemble import VIEW_SETS, Predict

KINDS, VIEWS = ["last", "best", "ema", "swa"], VIEW_SETS["d4"]


def some(values) -> st.SearchStrategy[list]:
    return st.lists(values, unique=True, max_size=3)


predicts = st.builds(
    Predict,
    tta=st.sampled_from(list(VIEW_SETS)) | st.lists(st.sampled_from(VIEWS), unique=True, min_size=1),
    scales=some(st.sampled_from([0.25, 0.5, 0.75, 1.125, 2, 4])),
    stretch=some(st.sampled_from([1e-05, 0.5, 0.8, 1, 2, 20])),
    merge=st.sampled_from(["mean", "gmean"]),
    weights=st.sampled_from(KINDS) | st.lists(st.sampled_from(KINDS), unique=True, min_size=1),
    adapt=st.booleans(),
    dtype=st.sampled_from(["uint8", "float16"]),
)


@settings(max_examples=200)
@given(predicts)
def test_a_variant_is_found_by_its_name(predict):
    found = Predict.of_variant(predict.variant)
    assert found.variant == predict.variant
    assert (found.views, found.weight_kinds) == (predict.views, predict.weight_kinds)
    assert (found.scales, found.stretch) == (predict.scales, predict.stretch)
    assert (found.merge, found.adapt, found.dtype) == (predict.merge, predict.adapt, predict.dtype)


@pytest.mark.parametrize("name", ["", "last", "last-flips.aside", "first-flips", "last-flips-scale9", "last-updown"])
def test_other_names_are_no_variants(name):
    assert Predict.of_variant(name) is None
