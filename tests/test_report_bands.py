"""What a report says of bands and colours is what the pixels with data say, and what the audit says of them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from config import Run, load_experiment, open_run
from folds.check import main as check
from folds.images import read_pixels
from folds.shift import band_shift
from folds.tiles import make_tiles
from reports import data
from reports.bands import SampledPixels
from reports.material import Material
from reports.page import Figure, Note, TableView
from tests.tiny import draw_image, draw_mask, tiny_values, write_config, write_mask, write_tif

PX, TRAIN, TEST = 32, 9, 4
BANDS = ["red", "green", "blue", "nir"]


def shifted_run(folder: Path, empty_rows: int) -> Run:
    """Bright test tiles, with rows that have no data; one train tile with half of that, and one with none at all."""
    rng = np.random.default_rng(5)
    for split, count in (("train", TRAIN), ("test", TEST)):
        for n in range(count):
            mask_HW = draw_mask(rng, PX, [1, 2, 4])
            gain_B = np.array([1.0, 1.2, 1.3, 1.5]) if split == "test" else 1.0
            image_HWB = np.clip(draw_image(rng, mask_HW, 4) // 2 * gain_B + 1, 1, 255).astype(np.uint8)
            image_HWB[: empty_rows if split == "test" else empty_rows // 2 if n == 3 else PX if n == 7 else 0] = 0
            write_tif(folder / "data" / split / f"{n:06d}.tif", image_HWB)
            if split == "train":
                write_mask(folder / "data" / split / f"{n:06d}.png", mask_HW)
    values = tiny_values(folder / "data", folder)
    values["data"]["nodata"] = 0
    values["folds"] = {"k": 3, "groups": "none"}
    run = open_run(load_experiment(write_config(folder / "config.yaml", values)))
    make_tiles(run)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return shifted_run(tmp_path_factory.mktemp("shifted"), empty_rows=22)


def pixels_with_data(run: Run, split: str) -> np.ndarray:
    """(P, B) of all tiles."""
    root = Path(run.experiment.data.root)
    read = [read_pixels(path, 0) for path in sorted((root / split).glob("*.tif"))]
    return np.concatenate([image_HWB[~empty_HW] for image_HWB, empty_HW in read])


def test_shifts_and_means_are_those_of_the_pixels_with_data(run):
    parts = data.section(Material(run)).parts
    (table,) = [part.frame for part in parts if isinstance(part, TableView) and part.name == "bands"]
    train_PB, test_PB = (pixels_with_data(run, split) / 255 for split in ("train", "test"))
    shift_B = (test_PB.mean(0) - train_PB.mean(0)) / train_PB.std(0)
    assert (shift_B[2:] > 0.5).all()
    assert table.band.tolist() == BANDS
    for column, expected_B in (
        ("train mean", train_PB.mean(0)),
        ("train std", train_PB.std(0)),
        ("test mean", test_PB.mean(0)),
        ("test std", test_PB.std(0)),
        ("shift", shift_B),
    ):
        np.testing.assert_allclose(table[column], expected_B, rtol=1e-6)
    (figure,) = [part for part in parts if isinstance(part, Figure) and part.name == "data-bands"]
    assert f"nir train {train_PB[:, 3].mean():.3f}, test {test_PB[:, 3].mean():.3f}" in figure.alt
    (warning,) = [part.text for part in parts if isinstance(part, Note) and part.kind == "warning"]
    assert f"nir {shift_B[3]:+.2f}" in warning


def test_the_report_and_the_audit_call_the_same_bands_shifted(run, capsys):
    check(["--config", str(Path(run.experiment.data.root).parent / "config.yaml")])
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "shifted_test" in line]
    parts = data.section(Material(run)).parts
    (warning,) = [part.text for part in parts if isinstance(part, Note) and part.kind == "warning"]
    shift = band_shift(Material(run).bands)
    for band, value in shift.items():
        assert (f"{band} {value:+.2f}" in said) == (f"{band} {value:+.2f}" in warning) == (abs(value) > 0.5)


def test_a_histogram_weighs_tiles_by_their_pixels_with_data(run):
    scan = Material(run).scan
    train_N = (Material(run).tiles.split == "train").to_numpy() & (scan.data_N > 0)
    pixels = SampledPixels.of(scan, train_N)
    assert pixels.weight_P.sum() == 64 * len(pixels_with_data(run, "train"))
    mean_B = np.average(pixels.values_PB, axis=0, weights=pixels.weight_P)
    np.testing.assert_allclose(mean_B, pixels_with_data(run, "train").mean(0) / 255, atol=0.01)


def test_colours_are_stretched_between_what_train_pixels_with_data_have(tmp_path):
    """Train tiles that have no data in two thirds of their pixels, where the pack holds a mean."""
    material = Material(shifted_run(tmp_path, empty_rows=0))
    plain = material.stretch
    for path in sorted((tmp_path / "data" / "train").glob("*.tif")):
        image_HWB = read_pixels(path, None)[0]
        write_tif(path, np.concatenate([np.zeros_like(image_HWB), np.zeros_like(image_HWB), image_HWB]))
        mask = path.with_suffix(".png")
        mask_HW = read_pixels(mask, None)[0][:, :, 0]
        write_mask(mask, np.concatenate([mask_HW] * 3))
    for path in sorted((tmp_path / "data" / "test").glob("*.tif")):
        write_tif(path, np.concatenate([read_pixels(path, None)[0]] * 3))
    run = material.run
    make_tiles(run)
    padded = Material(run).stretch
    np.testing.assert_allclose([padded.low_B, padded.high_B], [plain.low_B, plain.high_B], atol=2)


def test_a_band_of_one_value_has_no_shift():
    rows = [("train", "red", 80.0, 4.0), ("train", "alpha", 255.0, 0.0), ("test", "red", 77.0, 9.0),
            ("test", "alpha", 0.0, 0.0)]  # fmt: skip
    shift = band_shift(pd.DataFrame(rows, columns=["split", "band", "mean", "std"]))
    assert shift["red"] == -0.75
    assert np.isnan(shift["alpha"])
