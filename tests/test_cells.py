import numpy as np
import pytest

from folds.cells import cell_means
from folds.duplicates import SYMMETRIES

SIDES = range(8, 71)


def draw(height: int, width: int, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(height).integers(1, 255, (height, width, 3)).astype(dtype)


@pytest.mark.parametrize("cells", [8, 32])
@pytest.mark.parametrize("symmetry", SYMMETRIES)
def test_a_turned_tile_has_the_turned_cells(symmetry, cells):
    for px in SIDES:
        tile, turn = draw(px, px), SYMMETRIES[symmetry]
        here = min(cells, px)
        means_1EEB, means_of_turned = (cell_means(x, here, (1, 2)) for x in (tile[None], turn(tile[None])))
        np.testing.assert_allclose(means_of_turned, turn(means_1EEB), rtol=1e-5, err_msg=f"{px} px")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize(
    ("height", "width", "cells"), [(8, 8, 8), (33, 70, 32), (20, 12, 8), (17, 31, 16), (64, 32, 32)]
)
def test_cells_are_means_of_equal_areas(height, width, cells, dtype):
    tile = draw(height, width, dtype)
    fine = tile.repeat(cells, 0).repeat(cells, 1).astype(float)  # no border runs through a pixel here
    expected = fine.reshape(cells, height, cells, width, 3).mean((1, 3))
    means = cell_means(tile, cells)
    assert means.dtype == np.float32
    np.testing.assert_allclose(means, expected, rtol=1e-5)
