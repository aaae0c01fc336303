"""Pixels without data: what stands there matters for nothing, whatever the value that says so."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio

from base.errors import UserError
from config import Member, Run, load_experiment, open_run
from config.data import IGNORE_INDEX
from folds.assign import make_folds
from folds.classes import ClassTable
from folds.images import full_scale, read_pixels
from folds.leak import sample_pixels
from folds.links import find_links
from folds.metrics import mean_iou
from folds.reader import TileReader
from folds.scan import open_scan
from folds.tiles import hist_of, make_tiles, read_tiles, sources_hash
from pipeline import predict
from pipeline.pack import open_pack
from pipeline.predict import predict_test
from pipeline.stopping import StopRequest
from pipeline.store import open_store
from pipeline.train import train_member
from submissions.score import score_submission
from submissions.write import write_submission
from tests.tiny import draw_image, draw_mask, tiny_values, write_config, write_mask, write_tif

PX, TRAIN, TEST = 32, 9, 4
GO_ON = StopRequest()
VALUES = [("uint8", 0), ("uint8", 255), ("uint16", 65535), ("float32", -9999.0), ("float32", "nan")]


def empty_pixels(n: int) -> np.ndarray:
    """(PX, PX) bool: a corner, a stripe, everything, or nothing; another in every tile."""
    empty_HW = np.zeros((PX, PX), bool)
    if n % 3 == 0:
        empty_HW[: 5 + n, : 20 - n] = True
    elif n % 3 == 1:
        empty_HW[:, 3 + n : 6 + n] = True
    if n == 7:
        empty_HW[:] = True
    return empty_HW


def write_data(root: Path, dtype: str, value: float | str) -> Path:
    rng = np.random.default_rng(3)
    for split, count in (("train", TRAIN), ("test", TEST)):
        for n in range(count):
            mask_HW = draw_mask(rng, PX, [1, 2, 4])
            image_HWB = draw_image(rng, mask_HW, 4, "uint8" if dtype == "float32" else dtype)
            image_HWB = np.clip(image_HWB, 1, np.iinfo(image_HWB.dtype).max - 1)
            image_HWB = image_HWB.astype(np.float32) / 250 if dtype == "float32" else image_HWB
            image_HWB[empty_pixels(n)] = np.nan if value == "nan" else value
            write_tif(root / split / f"{n:06d}.tif", image_HWB)
            write_mask(root / ("train" if split == "train" else "truth") / f"{n:06d}.png", mask_HW)
    rows = [f"{n:06d},scene{n // 3}" for n in range(TRAIN)]
    (root / "scenes.csv").write_text("\n".join(["name,scene", *rows]) + "\n")
    return root


def config_of(root: Path, value: float | str | None, **folds) -> Path:
    values = tiny_values(root, root.parent)
    values["data"] |= {"nodata": value, "test_masks": "truth/{name}.png"}
    values["folds"] |= folds
    values["train"] |= {"epochs": 1, "precision": "fp32"}
    return write_config(root.parent / "config.yaml", values)


def run_of(root: Path, value: float | str | None, **folds) -> Run:
    return open_run(load_experiment(config_of(root, value, **folds)))


@pytest.mark.parametrize(("dtype", "value"), VALUES)
def test_statistics_and_counts_are_those_of_the_pixels_with_data(tmp_path, dtype, value):
    root = write_data(tmp_path / "data", dtype, value)
    run = run_of(root, value)
    tiles = make_tiles(run)
    pack = open_pack(run, tiles)
    classes = ClassTable.of(run.experiment.data)
    with_data, counts = [], []
    for n in range(TRAIN):
        empty_HW = empty_pixels(n)
        with rasterio.open(root / "train" / f"{n:06d}.tif") as file:
            image_HWB = np.moveaxis(file.read(), 0, -1)
        index_HW = classes.read_index(root / "train" / f"{n:06d}.png")
        with_data.append(image_HWB[~empty_HW].astype(np.float64) / full_scale(image_HWB.dtype))
        counts.append(np.bincount(index_HW[~empty_HW], minlength=3))
        np.testing.assert_array_equal(pack.train_image_NHWB[n][~empty_HW], image_HWB[~empty_HW])
        assert (pack.train_mask_NHW[n] == IGNORE_INDEX).tolist() == empty_HW.tolist()
    pixels_PB = np.concatenate(with_data)
    np.testing.assert_allclose(pack.mean_B, pixels_PB.mean(0), rtol=1e-6)
    np.testing.assert_allclose(pack.std_B, pixels_PB.std(0), rtol=1e-6)
    np.testing.assert_array_equal(hist_of(tiles, classes), counts)
    # A network sees 0 there: the mean, as near as the dtype has it.
    for images, count in ((pack.train_image_NHWB, TRAIN), (pack.test_image_NHWB, TEST)):
        for n in range(count):
            filled = images[n][empty_pixels(n)] / full_scale(images.dtype)
            assert np.abs(filled - pack.mean_B).max(initial=0) <= 0.51 / full_scale(images.dtype)


def test_what_stands_for_no_data_changes_no_result(tmp_path):
    """Two values, and everything that is made of them: tables, packs, members, probabilities, samples."""
    made = []
    for value in (-9999.0, "nan"):
        root = write_data(tmp_path / str(value) / "data", "float32", value)
        run = run_of(root, value)
        make_folds(run)
        member = Member(run.experiment.models[0], 0, 0)
        train_member(run, member, predict.pick_device(run.experiment.jobs), GO_ON)
        store = predict_test(run, member, predict.pick_device(run.experiment.jobs), GO_ON)
        tiles = read_tiles(run.tiles_csv)
        pack = open_pack(run, tiles)
        weights = (run.member_dir(member) / "weights" / "last.safetensors").read_bytes()
        sampled = sample_pixels(tiles[tiles.split == "train"], TileReader.of(run.experiment.data), 0)
        made.append([tiles, pack, weights, (store / "probs.bin").read_bytes(), sampled])
    (tiles, pack, *bytes_of, sampled), (other_tiles, other_pack, *other_bytes, other_sampled) = made
    pd.testing.assert_frame_equal(tiles, other_tiles)
    for array in ("train_image_NHWB", "train_mask_NHW", "test_image_NHWB", "mean_B", "std_B"):
        np.testing.assert_array_equal(getattr(pack, array), getattr(other_pack, array))
    assert bytes_of == other_bytes
    for values, other in zip(sampled, other_sampled, strict=True):
        np.testing.assert_array_equal(values, other)


def test_one_band_of_an_integer_may_have_the_value_by_chance_and_one_of_a_float_may_not(tmp_path):
    for dtype, expected in (("uint8", [[False, True]]), ("float32", [[True, True]])):
        write_tif(tmp_path / "a.tif", np.array([[[7, 3], [7, 7]]], dtype))
        image_HWB, empty_HW = read_pixels(tmp_path / "a.tif", 7)
        assert empty_HW.tolist() == expected
        assert (image_HWB[empty_HW] == 0).all()
    write_tif(tmp_path / "a.tif", np.array([[[7, np.nan], [1, 7], [2, 3]]], np.float32))
    assert read_pixels(tmp_path / "a.tif", "nan")[1].tolist() == [[True, False, False]]
    with pytest.raises(UserError, match=r"holds 1 values that are NaN or inf; data\.nodata=nan says that"):
        read_pixels(tmp_path / "a.tif")


def test_of_floats_a_number_and_nan_are_no_data_together_and_infinity_is_an_error(tmp_path):
    image_HWB = np.array([[[7, 1], [1, np.nan], [np.nan, 7], [2, 3]]], np.float32)
    write_tif(tmp_path / "a.tif", image_HWB)
    read_HWB, empty_HW = read_pixels(tmp_path / "a.tif", 7)
    assert empty_HW.tolist() == [[True, True, True, False]]
    assert read_HWB.tolist() == [[[0, 0], [0, 0], [0, 0], [2, 3]]]
    image_HWB[0, 3, 1] = -np.inf
    write_tif(tmp_path / "a.tif", image_HWB)
    with pytest.raises(UserError, match=r"holds 1 values that are inf; data\.nodata=7 takes in NaN"):
        read_pixels(tmp_path / "a.tif", 7)
    assert read_pixels(tmp_path / "a.tif", "nan")[1].tolist() == [[False, True, True, True]]


def test_empty_borders_link_no_tiles(tmp_path):
    """Else every tile at the edge of a scene would continue, and copy, every other."""
    rng = np.random.default_rng(0)
    root = tmp_path / "data"
    for n in range(TRAIN):
        mask_HW = draw_mask(rng, PX, [1, 2, 4])
        image_HWB = draw_image(rng, mask_HW, 4)
        image_HWB[:, :12] = image_HWB[:, -12:] = 0
        write_tif(root / "train" / f"{n:06d}.tif", image_HWB)
        write_mask(root / "train" / f"{n:06d}.png", mask_HW)
    experiment = load_experiment(config_of(root, 0, groups="none"), ["data.test_images=null"])
    run = open_run(experiment)
    links = find_links(open_scan(run, make_tiles(run), sources_hash(make_tiles(run), root)))
    assert links.neighbours.query("relation == 'right'").empty
    assert links.copies.empty


def test_test_pixels_without_data_are_not_scored(tmp_path):
    root = write_data(tmp_path / "data", "float32", "nan")
    run = run_of(root, "nan")
    tiles, classes = make_tiles(run), ClassTable.of(run.experiment.data)
    labels = {}
    for n in range(TEST):
        index_HW = classes.read_index(root / "truth" / f"{n:06d}.png")
        index_HW[empty_pixels(n)] = (index_HW[empty_pixels(n)] + 1) % 3  # wrong there, and right elsewhere
        labels[f"{n:06d}"] = index_HW
    path = write_submission(run, tiles, labels.items(), {})
    conf_CC = score_submission(path, run.experiment, tiles)
    assert mean_iou(conf_CC) == 1
    assert conf_CC.sum() == sum((~empty_pixels(n)).sum() for n in range(TEST))


@pytest.mark.parametrize(("ignore", "blank"), [("null", 0), ("9", 9)])
def test_scenes_have_no_labels_where_they_have_no_data(tmp_path, ignore, blank):
    root = write_data(tmp_path / "data", "float32", -9999.0)
    config = config_of(root, -9999.0)
    run = open_run(load_experiment(config, [f"data.ignore_label={ignore}"]))
    make_folds(run)
    for member in run.members():
        train_member(run, member, predict.pick_device(run.experiment.jobs), GO_ON)
    ask = ["--config", str(config), f"data.ignore_label={ignore}", "--model", "unet", "--probs", "--format", "geotiff"]
    predict.main([*ask, "--images", str(root / "test" / "*.tif"), "--out", str(tmp_path / "out")])
    for n in range(TEST):
        with rasterio.open(tmp_path / "out" / f"{n:06d}.tif") as file:
            assert file.nodata == blank
            label_HW = file.read(1)
        assert (label_HW == blank).tolist() == empty_pixels(n).tolist()
        with rasterio.open(tmp_path / "out" / f"{n:06d}.probs.tif") as file:
            assert np.isnan(file.nodata)
            probs_CHW = file.read()
        assert np.isnan(probs_CHW).all(0).tolist() == empty_pixels(n).tolist()
        assert (probs_CHW[:, ~empty_pixels(n)] > 0).all()


def test_images_are_filled_like_the_tiles_of_the_pack(tmp_path):
    root = write_data(tmp_path / "data", "float32", -9999.0)
    run = run_of(root, -9999.0)
    make_folds(run)
    member, device = Member(run.experiment.models[0], 0, 0), predict.pick_device(run.experiment.jobs)
    train_member(run, member, device, GO_ON)
    store = open_store(predict_test(run, member, device, GO_ON))
    ask = ["--config", str(tmp_path / "config.yaml"), "--model", "unet", "--fold", "0", "--probs"]
    predict.main([*ask, "--images", str(root / "test" / "*.tif"), "--out", str(tmp_path / "out")])
    for n in range(TEST):
        with rasterio.open(tmp_path / "out" / f"{n:06d}.probs.tif") as file:
            probs_CHW = file.read()
        with_data_HW = ~empty_pixels(n)
        np.testing.assert_allclose(probs_CHW[:, with_data_HW], store.read(n)[:, with_data_HW], atol=1.6 / 255)


def test_nan_is_one_key_however_it_is_written_and_infinity_none(tmp_path):
    root = write_data(tmp_path / "data", "float32", "nan")
    by_name, by_value = (load_experiment(config_of(root, None), [f"data.nodata={text}"]) for text in ("nan", ".nan"))
    assert by_name == by_value
    assert Run(by_name).data_keys == Run(by_value).data_keys
    assert Run(by_name).data_keys["data.nodata"] == "nan"
    for text in (".inf", "none"):
        with pytest.raises(UserError, match=r"data\.nodata: "):
            load_experiment(config_of(root, None), [f"data.nodata={text}"])


def test_the_advice_for_values_beyond_float32_can_be_followed(tmp_path):
    """Of float64 whose no data is the least double, without a tag: it becomes infinite only when it is read."""
    image_HWB = np.random.default_rng(3).uniform(1, 9, (16, 20, 2))
    image_HWB[2:4, 5:9, 1] = np.finfo(np.float64).min
    write_tif(tmp_path / "a.tif", image_HWB)
    with pytest.raises(UserError, match=r"holds 8 values beyond float32.* data\.nodata=(\S+) says") as refusal:
        read_pixels(tmp_path / "a.tif")
    value = float(re.search(r"data\.nodata=(\S+) says", str(refusal.value))[1])
    _, empty_HW = read_pixels(tmp_path / "a.tif", value)
    assert np.argwhere(empty_HW).tolist() == [[row, column] for row in (2, 3) for column in range(5, 9)]
