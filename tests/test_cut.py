import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.transform import from_origin

from base.errors import UserError
from config import load_experiment, open_run
from config.data import IGNORE_INDEX
from folds import cut
from folds.assign import make_folds
from folds.classes import ClassTable
from folds.files import find_tiles
from folds.images import read_mask, read_values
from folds.tiles import hist_of, make_tiles
from tests.tiny import TINY_CLASSES, draw_mask, tiny_values, write_config, write_mask, write_tif

PX = 32
SIZES = {"a": (75, 64), "b.c": (32, 101), "d e": (70, 70), "f": (96, 33)}
PLACE = {"crs": "EPSG:32633", "transform": from_origin(5e5, 5.2e6, 2.0, 0.5)}


def write_scene(root: Path, name: str, dtype: str = "uint8", bands: int = 4, **place) -> None:
    """Values that differ from pixel to pixel, and labels, 0 among them, that have nothing to do with them."""
    height, width = SIZES[name]
    rng = np.random.default_rng(height)
    values = rng.integers(1, 120, (bands, height, width)).astype(dtype) - (60 if dtype == "int16" else 0)
    (root / "scenes").mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        root / "scenes" / f"{name}.tif", "w", "GTiff", width, height, bands, dtype=dtype, **place
    ) as file:
        file.write(values.astype(dtype))
    side = max(height, width)
    label_HW = draw_mask(rng, side, [each["label"] for each in TINY_CLASSES])[:height, :width].copy()
    label_HW[-5:, 3:9] = 0
    write_mask(root / "labels" / f"{name}.png", label_HW)


def config_of(root: Path, folds: dict | None = None, **data) -> Path:
    values = tiny_values(root, root.parent)
    values["data"] |= {"train_images": "scenes/*.tif", "train_masks": "labels/{name}.png", "ignore_label": 0} | data
    values["folds"] = {"k": 2} | (folds or {})
    return write_config(root.parent / "scenes.yaml", values)


def cut_by(config: Path, *overrides: str) -> tuple[pd.DataFrame, int, Path]:
    out = config.parent / "cut"
    return *cut.cut_scenes(config, load_experiment(config, [*overrides]), PX, out), out


@pytest.fixture
def root(tmp_path) -> Path:
    for name in SIZES:
        write_scene(tmp_path / "data", name)
    return tmp_path / "data"


def refusal(config: Path, *overrides: str) -> str:
    before = sorted(config.parent.rglob("*"))
    with pytest.raises(UserError) as error:
        cut_by(config, *overrides)
    assert sorted(config.parent.rglob("*")) == before
    return str(error.value)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float64"])
def test_tiles_laid_out_again_are_the_scenes(tmp_path, dtype):
    for name in SIZES:
        write_scene(tmp_path / "data", name, dtype, bands=3)
    tiles, left_out, out = cut_by(config_of(tmp_path / "data", bands=["x", "y", "z"]))
    assert left_out == 0
    assert len(tiles) == 3 * 2 + 1 * 4 + 3 * 3 + 3 * 2
    for scene in SIZES:
        image = read_values(tmp_path / "data" / "scenes" / f"{scene}.tif")
        mask = read_mask(tmp_path / "data" / "labels" / f"{scene}.png")
        image_again, mask_again = np.full_like(image, 125), np.full_like(mask, 125)
        for tile in tiles[tiles.scene == scene].itertuples():
            here = slice(tile.row, tile.row + PX), slice(tile.col, tile.col + PX)
            values = read_values(out / "images" / f"{tile.name}.tif")
            assert (values.shape, values.dtype) == ((3, PX, PX), image.dtype)
            image_again[:, *here] = values
            mask_again[here] = read_mask(out / "masks" / f"{tile.name}.png")
        np.testing.assert_array_equal(image_again, image)
        np.testing.assert_array_equal(mask_again, mask)


def test_masks_of_colours_become_labels(root):
    before = cut_by(config_of(root))[0]
    (root.parent / "cut").rename(root.parent / "by-labels")
    palette = np.zeros((256, 3), np.uint8)
    for each in TINY_CLASSES:
        palette[each["label"]] = each["color"]
    for path in (root / "labels").glob("*.png"):
        Image.fromarray(palette[read_mask(path)]).save(path)
    config = config_of(root, mask_values="colors", ignore_label=None, ignore_color=[0, 0, 0])
    tiles, _, out = cut_by(config)
    pd.testing.assert_frame_equal(tiles, before)
    for path in sorted((out / "masks").iterdir()):
        np.testing.assert_array_equal(read_mask(path), read_mask(root.parent / "by-labels" / "masks" / path.name))


def test_tiles_lie_where_the_scene_lay(tmp_path):
    for name in SIZES:
        write_scene(tmp_path / "data", name, nodata=7, **PLACE)
    points = [GroundControlPoint(0, 0, 10, 50), GroundControlPoint(90, 0, 10, 40), GroundControlPoint(0, 30, 20, 50)]
    write_scene(tmp_path / "data", "f", gcps=points, crs="EPSG:4326")
    tiles, _, out = cut_by(config_of(tmp_path / "data"))
    for tile in tiles.itertuples():
        with rasterio.open(out / "images" / f"{tile.name}.tif") as file:
            if tile.scene == "f":
                found = [(p.row + tile.row, p.col + tile.col, p.x, p.y) for p in file.gcps[0]]
                assert found == [(p.row, p.col, p.x, p.y) for p in points]
                assert file.gcps[1] == "EPSG:4326"
                continue
            assert file.crs == PLACE["crs"]
            assert file.transform @ (3, 5) == PLACE["transform"] @ (3 + tile.col, 5 + tile.row)
            assert file.nodata == 7


def test_tiles_without_a_coordinate_have_none(root):
    _, _, out = cut_by(config_of(root))
    for path in (out / "images").iterdir():
        with rasterio.open(path) as file:
            assert file.crs is None
            assert file.transform.is_identity


def test_what_has_no_label_or_no_data_is_left_out(root):
    """In tiles that stay, pixels without data are ignored; the images keep the value that says so."""
    mask_HW = read_mask(root / "labels" / "a.png")
    mask_HW[:PX, PX:] = 0
    write_mask(root / "labels" / "a.png", mask_HW)
    with rasterio.open(root / "scenes" / "d e.tif", "r+") as file:
        values = file.read()
        values[:, 38:, :40] = 200
        file.write(values)
    config = config_of(root, nodata=200)
    tiles, left_out, out = cut_by(config)
    assert left_out == 2
    names = set(tiles.name)
    assert not {"a_00000_00032", "d e_00038_00000"} & names
    assert (read_mask(out / "masks" / "d e_00032_00000.png")[6:] == 0).all()
    assert (read_values(out / "images" / "d e_00032_00000.tif")[:, 6:] == 200).all()
    assert {path.stem for path in (out / "images").iterdir()} == names
    assert {path.stem for path in (out / "masks").iterdir()} == names


def test_where_nothing_was_ignored_before_pixels_without_data_get_a_label_of_their_own(root):
    for path in (root / "labels").iterdir():
        write_mask(path, np.maximum(read_mask(path), 1))
    with rasterio.open(root / "scenes" / "a.tif", "r+") as file:
        values = file.read()
        values[:, 2, 3:9] = 200
        file.write(values)
    for keys, ignore_label in (({}, None), ({"nodata": 200}, 0)):
        _, _, out = cut_by(config_of(root, ignore_label=None, **keys))
        experiment = load_experiment(out / "tiny_32.yaml")
        assert experiment.data.ignore_label == ignore_label
        index_HW = ClassTable.of(experiment.data).read_index(out / "masks" / "a_00000_00000.png")
        assert (index_HW[2, 3:9] == IGNORE_INDEX).all() == bool(keys)
        assert (index_HW == IGNORE_INDEX).sum() == (6 if keys else 0)
        out.rename(out.with_name(f"cut{ignore_label}"))


def test_the_config_reads_the_tiles_with_their_scenes_as_groups(root):
    config = config_of(root, folds={"k": 3, "seed": 4})
    tiles, _, out = cut_by(config, "data.normalize=tile")
    experiment = load_experiment(out / "tiny_32.yaml")
    assert (experiment.name, experiment.data.normalize, experiment.folds.k) == ("tiny_32", "tile", 3)
    assert experiment.folds.seed == 4
    assert experiment.models == load_experiment(config).models
    assert sorted(find_tiles(experiment.data).name) == sorted(tiles.name)
    run = open_run(experiment)
    table = make_tiles(run).set_index("name")
    assert table.group.to_dict() == tiles.set_index("name").scene.to_dict()
    folds = make_folds(run).set_index("name").fold
    assert (folds.groupby(table.group).nunique() == 1).all()
    # Counted again from the scenes: pixels that two tiles share count twice.
    classes = ClassTable.of(experiment.data)
    of_scene = {scene: classes.to_index(read_mask(root / "labels" / f"{scene}.png")) for scene in SIZES}
    parts = [of_scene[t.scene][t.row : t.row + PX, t.col : t.col + PX] for t in tiles.itertuples()]
    expected = np.bincount(np.concatenate(parts, axis=None), minlength=256)[:3]
    np.testing.assert_array_equal(hist_of(table.reset_index(), classes).sum(0), expected)


def test_scenes_that_a_csv_puts_together_stay_together(root):
    town_of = dict(zip(SIZES, ("x", "y", "x", "z"), strict=True))
    (root / "towns.csv").write_text("file,town\n" + "".join(f"{scene},{town}\n" for scene, town in town_of.items()))
    columns = {"groups": "column", "groups_csv": "towns.csv", "groups_column": "town", "name_column": "file"}
    tiles, _, out = cut_by(config_of(root, folds=columns))
    assert tiles.group.tolist() == [town_of[scene] for scene in tiles.scene]
    table = make_tiles(open_run(load_experiment(out / "tiny_32.yaml"))).set_index("name")
    assert table.group.to_dict() == tiles.set_index("name").group.to_dict()


def test_coordinates_decide_where_they_were_asked_to(tmp_path):
    """Two of the scenes overlap; blocks are then of the run, which counts them from coordinates."""
    for name, west in zip(SIZES, (0, 100, 5000, 9000), strict=True):
        write_scene(tmp_path / "data", name, crs="EPSG:32633", transform=from_origin(5e5 + west, 5.2e6, 2, 2))
    config = config_of(tmp_path / "data", folds={"k": 2, "groups": "georeference"})
    tiles, _, out = cut_by(config)
    table = make_tiles(open_run(load_experiment(out / "tiny_32.yaml"))).set_index("name")
    found = table.group.groupby(table.index.map(tiles.set_index("name").scene)).unique().map(list).to_dict()
    assert found["a"] == found["b.c"]
    assert all(len(groups) == 1 for groups in found.values())
    assert len({groups[0] for groups in found.values()}) == 3


@pytest.mark.parametrize("length", [32, 33, 64, 65, 95, 96, 97, 200])
@pytest.mark.parametrize("block_tiles", [2, 3])
def test_blocks_share_no_pixel_and_cover_all(length, block_tiles):
    block_at = np.full(length, -1)
    for start in cut.starts(length, PX):
        here = block_at[start : start + PX]
        block = cut.block_of(start, length, PX, block_tiles)
        assert ((here == -1) | (here == block)).all()
        here[:] = block
    assert (np.diff(block_at) >= 0).all()
    assert block_at[0] == 0
    sizes = np.bincount(block_at)
    assert (sizes[:-1] == block_tiles * PX).all()
    assert sizes[-1] < (block_tiles + 1) * PX


def test_blocks_are_groups_and_their_neighbours_are_allowed(root):
    config = config_of(root, folds={"k": 2, "block_tiles": 2})
    tiles, _, out = cut_by(config)
    assert tiles[tiles.scene == "b.c"].group.tolist() == ["b.c/0-0", "b.c/0-0", "b.c/0-1", "b.c/0-1"]
    experiment = load_experiment(out / "tiny_32.yaml")
    assert experiment.folds.allow == ["neighbours_across_folds"]
    table = make_tiles(open_run(experiment)).set_index("name")
    assert table.group.to_dict() == tiles.set_index("name").group.to_dict()


def test_what_was_drawn_is_not_drawn_again(tmp_path):
    drawn = load_experiment("configs/demo.yaml")
    keys = cut.tile_keys(drawn, PX, tmp_path)
    path = write_config(tmp_path / "x.yaml", {"extends": str(Path("configs/demo.yaml").absolute()), **keys})
    experiment = load_experiment(path)
    assert experiment.data.generate is None
    assert experiment.data.classes == drawn.data.classes
    assert experiment.folds.groups_column == "group"


def test_all_that_is_wrong_with_scenes_is_said_at_once(root):
    write_mask(root / "labels" / "a.png", np.ones((75, 63), np.uint8))
    SIZES["small"], SIZES["deep"] = (31, 90), (40, 40)
    try:
        write_scene(root, "small")
        write_scene(root, "deep", bands=5)
    finally:
        del SIZES["small"], SIZES["deep"]
    (root / "scenes" / "f.tif").write_bytes(b"no image")
    message = refusal(config_of(root))
    for problem in (
        "labels/a.png: 75x63, its image is 75x64",
        "scenes/small.tif: 31x90 is smaller than a tile of 32 px",
        "scenes/deep.tif: 5 bands, data.bands names 4",
        "scenes/f.tif or labels/f.png: unreadable",
    ):
        assert problem in message


def test_a_label_that_no_class_has_leaves_nothing_behind(root):
    mask_HW = read_mask(root / "labels" / "d e.png")
    mask_HW[-1, -1] = 9
    write_mask(root / "labels" / "d e.png", mask_HW)
    assert "d e.png: holds labels 9; known are 1, 2, 4 and ignore_label 0" in refusal(config_of(root))


def test_scenes_without_any_label(root):
    for path in (root / "labels").iterdir():
        write_mask(path, read_mask(path) * 0)
    assert "no scene has a pixel with data and a label" in refusal(config_of(root))


def test_a_folder_that_is_there_is_left_alone(root):
    (root.parent / "cut").mkdir()
    assert "cut: is there already" in refusal(config_of(root))


def test_folds_of_scenes_are_no_folds_of_tiles(root):
    assert "folds.csv names scenes, not tiles" in refusal(config_of(root, folds={"file": "folds.csv"}))


def test_the_command(root, capsys):
    config, out = config_of(root, folds={"k": 7}), root.parent / "out"
    words = ["--config", str(config), "--px", "32", "--out", str(out)]
    with pytest.raises(UserError, match=re.escape("train.epochs=3: cutting reads name, data and folds")):
        cut.main([*words, "train.epochs=3"])
    with pytest.raises(UserError, match="--px 0"):
        cut.main([*words[:3], "0", *words[4:]])
    cut.main([*words, "name=other"])
    said = capsys.readouterr().out
    assert "25 tiles of 32 px from 4 scenes\n" in said
    assert "4 groups are too few for 7 folds" in said
    assert f"bash run_cv.sh {out}/other_32.yaml" in said
    assert (out / "other_32.yaml").exists()


def test_blocks_of_scenes_that_a_csv_puts_together_are_groups_over_both(tmp_path):
    """A place at two dates: its upper left block at one date and the same block at the other stay together."""
    for name in ("b.c", "f"):
        write_scene(tmp_path / "data", name)
    rng = np.random.default_rng(2)
    scene = tmp_path / "data" / "scenes" / "b.c later.tif"
    write_tif(scene, rng.integers(1, 120, (*SIZES["b.c"], 4)).astype(np.uint8))
    shutil.copy(tmp_path / "data" / "labels" / "b.c.png", tmp_path / "data" / "labels" / "b.c later.png")
    (tmp_path / "data" / "g.csv").write_text("name,place\nb.c,one\nb.c later,one\nf,two\n")
    columns = {"groups": "column", "groups_csv": "g.csv", "groups_column": "place", "block_tiles": 2}
    config = config_of(tmp_path / "data", folds=columns)
    tiles, _, out = cut_by(config)
    later, first = (tiles[tiles.scene == scene].group.tolist() for scene in ("b.c later", "b.c"))
    assert later == first == ["one/0-0", "one/0-0", "one/0-1", "one/0-1"]
    assert set(tiles.group[tiles.scene == "f"]) == {"two/0-0", "two/1-0"}
    assert make_tiles(open_run(load_experiment(out / "tiny_32.yaml"))).group.nunique() == 4
    shutil.rmtree(out)
    write_scene(tmp_path / "data", "a")
    (tmp_path / "data" / "g.csv").write_text("name,place\nb.c,one\nb.c later,one\nf,two\na,two\n")
    assert "group two: scenes of 75x64 and 96x33, of which no blocks are the same place" in refusal(config)
    cut_by(config, "folds.block_tiles=null")
