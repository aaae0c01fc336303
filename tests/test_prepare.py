import numpy as np
import pytest
import torch

from pipeline.prepare import Preparation

BANDS = ["red", "green", "blue", "nir"]


def preparation(**changes) -> Preparation:
    values = {"bands": BANDS, "derived": [], "normalize": "dataset", "mean": [0.1, 0.2, 0.3, 0.4], "std": [1, 2, 3, 4]}
    return Preparation(**values | changes)


@pytest.fixture
def pixels_NHWB() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 255, (2, 5, 7, 4), dtype=np.uint8)


def test_dataset_normalisation_is_the_formula(pixels_NHWB):
    image = preparation()(torch.from_numpy(pixels_NHWB)).numpy()
    expected = (pixels_NHWB / 255 - [0.1, 0.2, 0.3, 0.4]) / [1, 2, 3, 4]
    np.testing.assert_allclose(image, expected.transpose(0, 3, 1, 2), atol=1e-6)


def test_tile_normalisation_gives_mean_0_and_std_1_and_forgets_gain_and_offset(pixels_NHWB):
    plain = preparation(normalize="tile")(torch.from_numpy(pixels_NHWB).float() / 512)
    gained = preparation(normalize="tile")(torch.from_numpy(pixels_NHWB).float() / 512 * 1.7 + 0.1)
    assert plain.mean((2, 3)).abs().max() < 1e-5
    assert (plain.std((2, 3), correction=0) - 1).abs().max() < 1e-5
    torch.testing.assert_close(plain, gained, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_pixels_without_data_count_in_no_tile_and_are_0(pixels_NHWB, dtype):
    pixels_NHWB = pixels_NHWB.astype(dtype) if dtype != np.float32 else (pixels_NHWB / np.float32(77) - 1)
    empty = pixels_NHWB[0, 3, 2] + dtype(1)
    pixels_NHWB[0, 1:4, 2:5], pixels_NHWB[1] = empty, empty
    prepared = preparation(normalize="tile", empty=empty.tolist())(torch.from_numpy(pixels_NHWB)).numpy()
    empty_HW = np.zeros((5, 7), bool)
    empty_HW[1:4, 2:5] = True
    assert (prepared[0][:, empty_HW] == 0).all()
    assert (prepared[1] == 0).all()
    scale = np.iinfo(dtype).max if dtype != np.float32 else 1
    there_PB = pixels_NHWB[0][~empty_HW].astype(np.float64) / scale
    expected = (there_PB - there_PB.mean(0)) / there_PB.std(0)
    np.testing.assert_allclose(prepared[0][:, ~empty_HW], expected.T, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, 7e-7, 3210.7, -5e5])
@pytest.mark.parametrize("empty", [None, [9.0] * 4])
def test_a_dead_band_is_0_and_not_nan_or_noise(value, empty):
    dead = torch.full((1, 96, 112, 4), value)
    assert preparation(normalize="tile", empty=empty)(dead).abs().max() <= 2e-7 * abs(value)
    dead = torch.full((1, 4, 4, 4), 17, dtype=torch.uint8)
    assert (preparation(normalize="tile")(dead) == 0).all()


@pytest.mark.parametrize("unit", [1e-9, 1e-6, 1.0, 1e6])
@pytest.mark.parametrize("empty", [None, [9.0] * 4])
def test_a_band_of_a_small_unit_is_not_dead(pixels_NHWB, unit, empty):
    """As of reflectance in other units, or concentrations."""
    pixels = torch.from_numpy(pixels_NHWB.astype(np.float32))
    prepared, whole = (preparation(normalize="tile", empty=empty)(each) for each in (pixels * unit, pixels))
    torch.testing.assert_close(prepared, whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_ndvi_is_in_float_and_between_minus_1_and_1(dtype):
    top = np.iinfo(dtype).max
    pixels = np.zeros((1, 1, 3, 4), dtype)
    pixels[0, 0, :, 0] = [top, 0, top // 2]  # red
    pixels[0, 0, :, 3] = [0, 0, top]  # nir; on integers nir - red would wrap around
    prepared = preparation(derived=["ndvi"])
    ndvi = prepared(torch.from_numpy(pixels))[0, 4, 0]
    assert prepared.channels == 5
    np.testing.assert_allclose(ndvi, [-1, 0, 1 / 3], atol=3e-3)


def test_ndvi_of_floats_below_0_stays_between_minus_1_and_1():
    """As atmospheric correction leaves them over water, and as a percent stretch makes them."""
    pixels = torch.zeros(1, 1, 4, 4)
    pixels[0, 0, :, 0] = torch.tensor([-0.03, -0.3, 0.1, 0.4])  # red
    pixels[0, 0, :, 3] = torch.tensor([0.02, -0.1, -0.5, 0.2])  # nir
    ndvi = preparation(derived=["ndvi"])(pixels)[0, 4, 0]
    np.testing.assert_allclose(ndvi, [1, 0, -1, -1 / 3], atol=1e-6)


def test_dtypes_of_one_picture_agree(pixels_NHWB):
    small = preparation()(torch.from_numpy(pixels_NHWB))
    wide = preparation()(torch.from_numpy(pixels_NHWB.astype(np.uint16) * 257))
    real = preparation()(torch.from_numpy((pixels_NHWB / 255).astype(np.float32)))
    torch.testing.assert_close(small, wide)
    torch.testing.assert_close(small, real)


def test_result_is_channels_last_in_memory(pixels_NHWB):
    assert preparation()(torch.from_numpy(pixels_NHWB)).is_contiguous(memory_format=torch.channels_last)
