import contextlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from base.errors import UserError
from config import Run, load_experiment, open_run
from folds.classes import ClassTable
from folds.files import find_tiles
from folds.groups import component_names
from folds.images import read_image, read_mask
from folds.tiles import hist_of, make_tiles, read_tiles, sources_hash
from tests.tiny import TINY_CLASSES, tiny_values, write_config, write_mask, write_tif, write_tiny

PX = 32


@pytest.fixture
def root(tmp_path) -> Path:
    return write_tiny(tmp_path / "data")


def config_of(root: Path, **data) -> Path:
    values = tiny_values(root, root.parent)
    values["data"] |= data
    return write_config(root.parent / "config.yaml", values)


def run_of(root: Path, **data) -> Run:
    return open_run(load_experiment(config_of(root, **data)))


def refusal(root: Path, **data) -> str:
    """The message with which the tile table is refused; but for the experiment's record and a lock, nothing is left."""
    with pytest.raises(UserError) as error:
        make_tiles(run_of(root, **data))
    left = {path.name for path in (root.parent / "runs").rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert left == {"experiment.yaml"}
    return str(error.value)


def image_of(root: Path, split: str, name: str) -> np.ndarray:
    return read_image(root / split / f"{name}.tif")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


@pytest.mark.parametrize(("bands", "dtype"), [(1, "uint8"), (3, "uint16"), (4, "uint8"), (6, "uint16")])
def test_every_tile_is_there_with_its_size_and_pixels_per_class(tmp_path, bands, dtype):
    root = write_tiny(tmp_path / "data", train=7, test=3, bands=bands, dtype=dtype)
    run = run_of(root, bands=[f"band{b}" for b in range(bands)])
    tiles = make_tiles(run)
    names = [f"{n:06d}" for n in range(7)]
    assert tiles.name.tolist() == names + names[:3]
    assert tiles.split.tolist() == ["train"] * 7 + ["test"] * 3
    assert set(tiles.height) == set(tiles.width) == {PX}
    classes = ClassTable.of(run.experiment.data)
    expected = [
        [int((read_mask(root / path) == spec["label"]).sum()) for spec in TINY_CLASSES] for path in tiles["mask"][:7]
    ]
    np.testing.assert_array_equal(hist_of(tiles, classes), expected)
    assert (np.array(expected).sum(1) == PX * PX).all()
    assert tiles[list(classes.names)][7:].isna().all(axis=None)
    pd.testing.assert_frame_equal(read_tiles(run.tiles_csv), tiles, check_dtype=False)


def test_ignored_pixels_are_not_counted(root):
    mask_HW = read_mask(root / "train" / "000002.png").copy()
    mask_HW[3:9] = 0
    write_mask(root / "train" / "000002.png", mask_HW)
    tiles = make_tiles(run_of(root, ignore_label=0))
    counted = tiles[[spec["name"] for spec in TINY_CLASSES]][:9].sum(axis=1)
    assert counted.tolist() == [PX * PX - 6 * PX * (n == 2) for n in range(9)]


def test_a_table_that_holds_is_not_made_again_and_a_touched_tile_makes_it_anew(root):
    run = run_of(root)
    make_tiles(run)
    written = run.tiles_csv.stat().st_mtime_ns
    make_tiles(run_of(root))
    assert run.tiles_csv.stat().st_mtime_ns == written
    mask = root / "train" / "000004.png"
    before = sources_hash(find_tiles(run.experiment.data), root)
    write_mask(mask, np.where(read_mask(mask) == 1, 2, read_mask(mask)).astype(np.uint8))
    assert sources_hash(find_tiles(run.experiment.data), root) != before
    tiles = make_tiles(run)
    assert tiles.field[4] == 0


def test_groups_follow_their_csv(root):
    assert make_tiles(run_of(root)).group.dropna().tolist() == [f"scene{n // 3}" for n in range(9)]
    csv = root / "scenes.csv"
    csv.write_text(csv.read_text().replace("000008,scene2", "000008,scene0"))
    assert make_tiles(run_of(root)).group.dropna().tolist()[-1] == "scene0"
    csv.write_text(csv.read_text().replace("000008,scene0", "000008,NA"))
    assert make_tiles(run_of(root)).group.tolist()[8] == "NA"


def test_linked_tiles_have_the_name_of_their_first_train_tile():
    names = np.array(["a", "b", "c", "d", "a", "b"])  # the last two are test tiles
    pairs = np.array([[3, 4], [4, 1], [5, 5]])  # train d - test a - train b
    assert component_names(names, pairs)[:4].tolist() == ["a", "b", "c", "b"]
    assert component_names(names, np.empty((0, 2), int))[:4].tolist() == ["a", "b", "c", "d"]


# Bad input: one message that lists everything, and nothing half-written.


def test_no_tiles(root):
    message = refusal(root, train_images="nowhere/*.tif")
    assert "no train tiles: nothing matches nowhere/*.tif" in message
    both = refusal(root, train_images="nowhere/*.tif", test_images="neither/*.tif")
    assert "no train tiles: nothing matches nowhere/*.tif" in both
    assert "no test tiles: nothing matches neither/*.tif" in both
    assert f"(there is no {root / 'nowhere'}); set data.root=DIR" in message
    assert "no test tiles" in refusal(root, test_images="nowhere/*.tif")


def test_no_tiles_where_they_are_yet_to_be_drawn(tmp_path):
    data = load_experiment("configs/demo.yaml", [f"data.root={tmp_path}"]).data
    with pytest.raises(UserError, match=r"no train tiles: .*; draw them: python -m folds.landscape --config FILE;"):
        find_tiles(data)


def test_a_folder_that_may_not_be_read(root, monkeypatch):
    (root / "train").rename(root / "away")
    (root / "train").mkdir()
    monkeypatch.setattr("folds.files.os.access", lambda path, mode: path.name != "train")  # root may read everything
    assert f"(no permission to read {root / 'train'})" in refusal(root)


def test_image_without_mask_and_mask_without_image(root):
    for name in ("000001", "000004"):
        (root / "train" / f"{name}.png").unlink()
    (root / "train" / "000007.tif").unlink()
    message = refusal(root)
    assert "2 images have no mask train/{name}.png: train/000001.tif, train/000004.tif" in message
    assert "1 masks have no image train/*.tif: train/000007.png" in message


def test_one_name_for_two_images(root):
    write_tif(root / "train" / "more" / "000003.tif", image_of(root, "train", "000003"))
    assert "train/000003.tif and train/more/000003.tif" in refusal(root, train_images="train/**/*.tif")


def test_more_than_ten_offenders_are_counted(tmp_path):
    root = write_tiny(tmp_path / "data", train=14)
    for n in range(14):
        (root / "train" / f"{n:06d}.png").unlink()
    message = refusal(root)
    assert "14 images have no mask" in message
    assert message.count(".tif") == 10
    assert message.endswith("and 4 more")


def test_everything_wrong_with_the_pixels_is_listed_at_once(root):
    write_tif(root / "train" / "000000.tif", image_of(root, "train", "000000")[:, :24])  # its mask still fits
    write_tif(root / "train" / "000001.tif", image_of(root, "train", "000001")[..., :3])
    write_tif(root / "test" / "000001.tif", image_of(root, "test", "000001").astype(np.uint16))
    mask_HW = read_mask(root / "train" / "000002.png").copy()
    mask_HW[0, :2] = (3, 77)
    write_mask(root / "train" / "000002.png", mask_HW)
    write_mask(root / "train" / "000003.png", read_mask(root / "train" / "000003.png")[:20])
    truncate(root / "train" / "000005.tif")
    truncate(root / "train" / "000006.png")
    (root / "test" / "000002.tif").write_bytes(b"no picture")
    message = refusal(root)
    for problem in (
        f"tiles in {root}: 9 problems: train/000000.png: 32x32, its image is 32x24",
        "; train/000001.tif: 3 bands, data.bands names 4",
        "; train/000002.png: holds labels 3, 77; known are 1, 2, 4",
        "; train/000003.png: 20x32, its image is 32x32",
        "; train/000005.tif: unreadable or truncated",
        "; train/000006.png: unreadable or truncated",
        "; test/000002.tif: unreadable or truncated (it is not recognized",
        "1 tiles are not 32x32 like the others: train/000000.tif 32x24",
        "1 tiles are not uint8 like the others: test/000001.tif uint16",
    ):
        assert problem in message


def test_masks_of_two_bands_or_of_what_is_no_label(root):
    write_tif(root / "train" / "000001.png", np.ones((PX, PX, 2), np.uint8))
    for n, (dtype, value) in enumerate((("uint16", 257), ("int16", -1), ("float32", 1.5), ("float64", np.nan)), 2):
        mask_HW = read_mask(root / "train" / f"{n:06d}.png").astype(dtype)
        mask_HW[3, 5:7] = value
        write_tif(root / "train" / f"{n:06d}.png", mask_HW[..., None])
    message = refusal(root)
    assert "000001.png: 2 bands of uint8; a mask has one band of labels" in message
    for found in ("257 (uint16)", "-1 (int16)", "1.5 (float32)", "nan (float64)"):
        assert f"holds {found}; labels are whole numbers from 0 to 255" in message


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int16", "int32", "float32", "float64"])
def test_labels_of_any_dtype_are_the_same_labels(root, dtype):
    """As tools write them that rasterise polygons."""
    expected = make_tiles(run_of(root))
    for path in (root / "train").glob("*.png"):
        write_tif(path, read_mask(path).astype(dtype)[..., None])
    pd.testing.assert_frame_equal(make_tiles(run_of(root)), expected)


def test_a_palette_mask_is_read_as_its_indices(root):
    """Labels with colours, as annotation tools save them; the colours do not count."""
    expected = make_tiles(run_of(root)).drop(columns=["image", "mask"])
    for path in (root / "train").glob("*.png"):
        mask = Image.fromarray(read_mask(path)).convert("P")
        mask.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
        mask.putdata(read_mask(path).ravel().tolist())
        mask.save(path)
        with Image.open(path) as saved:
            assert saved.mode == "P"
    pd.testing.assert_frame_equal(make_tiles(run_of(root)).drop(columns=["image", "mask"]), expected)


def test_a_file_that_may_not_be_read(root, monkeypatch):
    """Said as such, not as damage. Root may read everything, so the answer of the system is played."""
    truncate(root / "train" / "000001.tif")
    monkeypatch.setattr("folds.images.os.access", lambda path, mode: path.name != "000001.tif")
    assert "train/000001.tif: no permission to read it" in refusal(root)


def test_values_that_are_no_numbers(tmp_path):
    root = write_tiny(tmp_path / "data", train=6, test=1)
    for path in sorted(root.rglob("*.tif")):
        image_HWB = read_image(path).astype(np.float32)
        if path.name == "000003.tif":
            image_HWB[2, 3] = (np.nan, 1, np.inf, 2)
        write_tif(path, image_HWB)
    assert "000003.tif: holds 2 values that are NaN or inf" in refusal(root)


def test_tiles_too_small_to_be_compared(tmp_path):
    root = write_tiny(tmp_path / "data", train=3, test=1)
    for path in [*root.rglob("*.tif"), *root.rglob("*.png")]:
        write_tif(path, read_image(path)[:1, :20]) if path.suffix == ".tif" else write_mask(
            path, read_mask(path)[:1, :20]
        )
    assert "tiles of 1x20 px are too small: a side has 8 or more" in refusal(root)


def test_unknown_dtype(root):
    write_tif(root / "train" / "000003.tif", image_of(root, "train", "000003").astype(np.complex64))
    assert "000003.tif: dtype complex64; expected one of uint8, uint16, float32, int8" in refusal(root)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint32", "float64"])
def test_other_dtypes_are_float32_once_read(root, dtype):
    """With a value for no data in the file's own dtype: float32 has neither the least float64 nor the largest int32."""
    signed = np.dtype(dtype).kind != "u"
    nodata = np.finfo(dtype).min if dtype == "float64" else np.iinfo(dtype).max
    images = {path: image_of(root, path.parent.name, path.stem) // 2 - 50.0 * signed for path in root.rglob("*.tif")}
    tables = []
    for written_as, empty in (("float32", -3e30), (dtype, nodata)):
        for n, (path, image_HWB) in enumerate(sorted(images.items())):
            written_HWB = image_HWB.astype(written_as)
            written_HWB[2, 3 : 5 + n] = empty
            write_tif(path, written_HWB)
        tables.append(make_tiles(run_of(root, nodata=float(empty))))
    pd.testing.assert_frame_equal(*tables)


def test_a_class_without_a_pixel(root):
    for path in sorted((root / "train").glob("*.png")):
        mask_HW = read_mask(path)
        write_mask(path, np.where(mask_HW == 4, 2, mask_HW).astype(np.uint8))
    with pytest.raises(UserError, match="classes without a pixel in any train mask: bare"):
        make_tiles(run_of(root))
    assert not run_of(root).tiles_csv.exists()


@pytest.mark.parametrize(
    ("csv", "message"),
    [
        (None, r"scenes\.csv: no such file; folds\.groups is column"),
        ("", "unreadable as csv"),
        ("name,place\n000000,x\n", "no column scene; it has name, place"),
        ("name,scene\n000000,x\n000000,y\n", "1 names stand in two rows with a group: 000000"),
        ("name,scene\n000000,x\n000001,\n", "8 train tiles have no scene: 000001, 000002"),
    ],
)
def test_a_csv_of_groups_that_does_not_fit(root, csv, message):
    (root / "scenes.csv").unlink() if csv is None else (root / "scenes.csv").write_text(csv)
    with pytest.raises(UserError, match=message):
        make_tiles(run_of(root))
    assert not run_of(root).scans_dir.exists()  # said before a tile is read


def test_no_cut_of_a_file_goes_unnoticed(root):
    """GDAL reads the rows that are missing from a PNG as zeros, which may be a label."""
    for name in ("000003.png", "000003.tif"):
        path = root / "train" / name
        read = read_mask if name.endswith(".png") else read_image
        whole, pixels = path.read_bytes(), read(path)
        for length in range(1, len(whole), max(len(whole) // 40, 1)):
            path.write_bytes(whole[:length])
            with contextlib.suppress(UserError):
                np.testing.assert_array_equal(read(path), pixels)  # the last bytes of a PNG hold no pixel


def test_an_altered_mask_is_refused(root):
    path = root / "train" / "000003.png"
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"IDAT") + 9] ^= 0x10
    path.write_bytes(whole)
    with pytest.raises(UserError, match="unreadable or truncated"):
        read_mask(path)


def test_the_command_says_it_in_one_line_and_exits_with_2(root):
    truncate(root / "train" / "000004.tif")
    command = [sys.executable, "-m", "folds.tiles", "--config", str(config_of(root))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "000004.tif" in done.stderr
