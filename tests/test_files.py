"""Which files are tiles: data sets as they are published, and what they were called does not change them."""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from base.errors import UserError
from config import Run, load_experiment, open_run
from config.data import Data
from folds.classes import ClassTable
from folds.files import find_test_masks, find_tiles
from folds.images import read_mask
from folds.tiles import make_tiles
from tests.tiny import TINY_CLASSES, tiny_values, write_config, write_mask, write_tiny

ROOT = Path(__file__).parent.parent
NAMES = [f"{n:06d}" for n in range(9)]


def data_of(root: Path, **keys) -> Data:
    return Data.model_validate({"root": str(root), "classes": TINY_CLASSES, "test_images": None} | keys)


def run_of(root: Path, **data) -> Run:
    values = tiny_values(root, root.parent)
    values["data"] |= data
    return open_run(load_experiment(write_config(root.parent / "config.yaml", values)))


@pytest.mark.parametrize(
    ("image", "mask", "train_images", "train_masks"),
    [
        ("train/{}_sat.tif", "train/{}_mask.png", "train/{name}_sat.tif", "train/{name}_mask.png"),
        ("train/{}.tif", "train/{}_mask.tif", "train/*.tif", "train/{name}_mask.tif"),
        ("train/{}_image.tif", "train/{}.tif", "train/{name}_image.tif", "train/{name}.tif"),
        ("train/{}/image.tif", "train/{}/mask.png", "train/{name}/image.tif", "train/{name}/mask.png"),
        ("{city}/images/{}.tif", "{city}/labels/{}.tif", "*/images/*.tif", "*/labels/{name}.tif"),
        ("{city}/a/b/{}/x.tif", "{city}/c/{}.png", "**/{name}/x.tif", "**/{name}.png"),
        ("./train//{}.tif", "train/m[1]/{}.png", "./train//*.tif", "train/m[[]1]/{name}.png"),
    ],
)
def test_any_layout_gives_the_same_table(tmp_path, image, mask, train_images, train_masks):
    root = write_tiny(tmp_path / "data")
    expected = make_tiles(run_of(root)).drop(columns=["image", "mask"])
    for n, name in enumerate(NAMES):
        city = ("rural", "urban")[n % 2]
        for old, new in ((f"{name}.tif", image), (f"{name}.png", mask)):
            path = root / new.format(name, city=city)
            path.parent.mkdir(parents=True, exist_ok=True)
            (root / "train" / old).rename(root / "aside")
            (root / "aside").rename(path)
    found = make_tiles(run_of(root, train_images=train_images, train_masks=train_masks))
    pd.testing.assert_frame_equal(found.drop(columns=["image", "mask"]), expected)
    assert all((root / path).is_file() for path in [*found.image, *found["mask"].dropna()])


def test_colours_and_labels_are_the_same_masks(tmp_path):
    root = write_tiny(tmp_path / "data")
    path = root / "train" / "000003.png"
    mask_HW = read_mask(path).copy()
    mask_HW[3:7, 5:] = 0
    write_mask(path, mask_HW)
    labels = make_tiles(run_of(root, ignore_label=0))
    palette = np.zeros((256, 3), np.uint8)
    palette[[spec["label"] for spec in TINY_CLASSES]] = [spec["color"] for spec in TINY_CLASSES]
    for name in NAMES:
        path = root / "train" / f"{name}.png"
        Image.fromarray(palette[read_mask(path)]).convert("RGBA" if name == NAMES[4] else "RGB").save(path)
    with pytest.raises(UserError, match=r"8 files: 3 bands of uint8; a mask has .*data.mask_values=colors is for"):
        make_tiles(run_of(root))
    with pytest.raises(UserError, match=r"holds colours \[0, 0, 0\].*set data.ignore_color=\[0, 0, 0\]"):
        make_tiles(run_of(root, mask_values="colors"))
    colors = make_tiles(run_of(root, mask_values="colors", ignore_color=[0, 0, 0]))
    pd.testing.assert_frame_equal(colors, labels)  # the same hashes too: members do not ask how masks were written


def test_labels_where_colours_were_promised(tmp_path):
    root = write_tiny(tmp_path / "data")
    with pytest.raises(UserError, match=r"9 files: 1 bands of uint8; a mask of colours .*mask_values=labels is for"):
        make_tiles(run_of(root, mask_values="colors"))


def test_what_all_masks_have_wrong_is_said_once_with_what_may_be_meant(tmp_path):
    root = write_tiny(tmp_path / "data")
    for name in NAMES:
        mask_HW = read_mask(root / "train" / f"{name}.png").copy()
        mask_HW[2, 3:9] = 255
        write_mask(root / "train" / f"{name}.png", mask_HW)
    with pytest.raises(UserError) as error:
        make_tiles(run_of(root))
    message = str(error.value)
    assert ": 1 problem: 9 files: holds labels 255; known are 1, 2, 4" in message
    assert "set data.ignore_label=255 (train/000000.png, train/000001.png" in message
    assert message.count(".png") == 5


def test_a_file_of_both_patterns_is_what_the_longer_one_says(tmp_path):
    for name in ("a.tif", "a_mask.tif", "b.tif", "b_mask.tif"):
        (tmp_path / name).touch()
    found = find_tiles(data_of(tmp_path, train_images="*.tif", train_masks="{name}_mask.tif"))
    assert found[["name", "image", "mask"]].to_numpy().tolist() == [
        ["a", "a.tif", "a_mask.tif"],
        ["b", "b.tif", "b_mask.tif"],
    ]
    (tmp_path / "b.tif").unlink()
    with pytest.raises(UserError, match=r"1 masks have no image \*\.tif: b_mask\.tif"):
        find_tiles(data_of(tmp_path, train_images="*.tif", train_masks="{name}_mask.tif"))


def test_a_name_that_stands_for_several_files(tmp_path):
    for name in ("x/a.tif", "y/a.tif", "m/a.png", "n/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UserError) as error:
        find_tiles(data_of(tmp_path, train_images="*/*.tif", train_masks="*/{name}.png"))
    # Once, though its masks are two as well.
    assert str(error.value).endswith(
        "1 name of several files: a (x/a.tif and y/a.tif); a name must be unique over all folders: rename the files, "
        "or link them into one folder"
    )
    with pytest.raises(
        UserError, match=r"1 name of several files: a \(m/a.png and n/a.png\); .*rename the files, or link them"
    ):
        find_test_masks(data_of(tmp_path, test_masks="*/{name}.png"), ["a"])


def test_test_masks_lie_in_any_layout_and_missing_ones_are_named(tmp_path):
    for name in ("x/a_truth.png", "y/b_truth.png", "y/z_truth.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    data = data_of(tmp_path, test_masks="*/{name}_truth.png")
    assert find_test_masks(data, ["b", "a"]) == {"b": "y/b_truth.png", "a": "x/a_truth.png"}
    with pytest.raises(UserError, match=r"2 test tiles have no mask \*/\{name\}_truth\.png: c, d"):
        find_test_masks(data, ["c", "b", "d"])
    with pytest.raises(UserError, match=r"data.test_masks is not set"):
        find_test_masks(data_of(tmp_path), ["a"])


def test_indices_do_not_depend_on_how_a_class_table_reads_labels_of_a_zip():
    """A zip holds labels, whatever the masks hold."""
    table = ClassTable.of(data_of(Path("."), mask_values="colors", ignore_color=[0, 0, 0]))
    assert table.to_index(np.array([[1, 2], [4, 1]], np.uint8)).tolist() == [[0, 1], [2, 0]]


ROWS = re.findall(r"^\| (`.+`) \| (`.+`) \| (`.+`) \|$", (ROOT / "docs" / "folds.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_layout_of_the_page_is_found(tmp_path, row):
    files, (train_images,), (train_masks,) = (re.findall(r"`(.+?)`", cell) for cell in row)
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    found = find_tiles(data_of(tmp_path, train_images=train_images, train_masks=train_masks))
    assert found[["image", "mask"]].to_numpy().tolist() == [files]


def test_the_page_has_layouts():
    assert len(ROWS) >= 6


def test_links_that_lead_nowhere_are_named(tmp_path):
    """As git-annex and DVC leave them where the content is not there yet."""
    for name in ("train/a.tif", "train/a.png", "train/b.png", "test/c.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "train" / "b.tif").symlink_to("../.git/annex/objects/b.tif")
    (tmp_path / "test" / "d.tif").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"2 files are links that lead nowhere: train/b\.tif, test/d\.tif; fetch what"):
        find_tiles(data_of(tmp_path, test_images="test/*.tif"))
    (tmp_path / "nowhere").touch()
    (tmp_path / "train" / "b.tif").unlink()
    (tmp_path / "train" / "b.tif").symlink_to("a.tif")
    assert len(find_tiles(data_of(tmp_path, test_images="test/*.tif"))) == 4


def test_names_of_another_encoding_are_refused_in_print(tmp_path):
    """Of a zip packed under Windows: no table and no JSON could hold them."""
    (tmp_path / "train").mkdir()
    for name in ("a", "耕地"):
        for ending in (".tif", ".png"):
            Path(os.fsdecode(os.fsencode(tmp_path / "train") + b"/" + (name + ending).encode("gbk"))).touch()
    with pytest.raises(UserError) as refusal:
        find_tiles(data_of(tmp_path))
    said = str(refusal.value)
    assert r"2 file names are no UTF-8: train/\xb8\xfb\xb5\xd8.tif, train/\xb8\xfb\xb5\xd8.png; rename" in said
    assert said.encode()
