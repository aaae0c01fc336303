import re
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from base.errors import UserError
from config.data import IGNORE_INDEX
from folds.classes import ClassTable


@st.composite
def tables(draw) -> ClassTable:
    labels = draw(st.lists(st.integers(0, 255), min_size=3, max_size=20, unique=True))
    *labels, ignored = labels
    colors = tuple((i, 2 * i, 255 - i) for i in range(len(labels)))
    ignore = ignored if draw(st.booleans()) else None
    return ClassTable(tuple(labels), tuple(f"class{label}" for label in labels), colors, ignore)


@given(tables(), st.integers(0, 2**32 - 1))
def test_labels_and_indices_are_a_round_trip(table, seed):
    index_HW = np.random.default_rng(seed).integers(0, len(table), (5, 7)).astype(np.uint8)
    label_HW = table.to_label(index_HW)
    assert label_HW.dtype == np.uint8
    assert [table.labels[index] for index in index_HW.ravel()] == label_HW.ravel().tolist()
    np.testing.assert_array_equal(table.to_index(label_HW), index_HW)


@given(tables())
def test_every_other_value_is_refused_and_named(table):
    known = {*table.labels} | ({table.ignore_label} - {None})
    for value in set(range(256)) - known:
        with pytest.raises(UserError, match=rf"^m.png: holds labels {value}; known are "):
            table.to_index(np.array([[table.labels[0], value]], np.uint8), where="m.png")


@given(tables())
def test_the_ignored_label_becomes_the_ignored_index_and_never_a_label(table):
    if table.ignore_label is not None:
        assert table.to_index(np.array([table.ignore_label], np.uint8)).tolist() == [IGNORE_INDEX]
    with pytest.raises(IndexError):
        table.to_label(np.array([IGNORE_INDEX], np.uint8))


@given(tables(), st.booleans(), st.integers(0, 2**32 - 1))
def test_a_mask_of_colours_is_its_indices_and_every_other_colour_is_refused(table, ignores, seed):
    ignored = (7, 0, 0) if ignores else None
    table = replace(table, ignore_label=None, in_colors=True, ignore_color=ignored)
    rng = np.random.default_rng(seed)
    index_HW = rng.choice([*range(len(table)), *([IGNORE_INDEX] if ignores else [])], (5, 7)).astype(np.uint8)
    color_of = {**dict(enumerate(table.colors)), IGNORE_INDEX: ignored}
    color_HW3 = np.array([[color_of[index] for index in row] for row in index_HW.tolist()], np.uint8)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mask.png"
        Image.fromarray(color_HW3).save(path)
        np.testing.assert_array_equal(table.read_index(path), index_HW)
        other = tuple(int(value) for value in rng.integers(0, 256, 3))
        color_HW3[4, 2] = other
        Image.fromarray(color_HW3).save(path)
        if other not in (*table.colors, ignored):
            with pytest.raises(UserError, match=re.escape(f"{path}: holds colours {list(other)}; known are ")) as error:
                table.read_index(path)
            assert (f"set data.ignore_color={list(other)}" in str(error.value)) == (not ignores)


@given(tables())
def test_every_class_is_drawn_in_its_colour_and_ignored_pixels_black(table):
    index_HW = np.array([[*range(len(table)), IGNORE_INDEX]], np.uint8)
    assert table.to_rgb(index_HW)[0].tolist() == [*map(list, table.colors), [0, 0, 0]]


def test_a_submission_has_a_class_everywhere():
    table = ClassTable((1, 5), ("a", "b"), ((0, 0, 0), (1, 1, 1)), ignore_label=0)
    handed_in = table.of_submission([7, 3])
    assert handed_in.to_index(np.array([[7, 3]], np.uint8)).tolist() == [[0, 1]]
    assert table.of_submission(None).labels == (1, 5)
    with pytest.raises(UserError, match=r"z: holds labels 0; known are 7, 3, and a submission has one .* everywhere"):
        handed_in.to_index(np.array([[7, 0]], np.uint8), where="z")
