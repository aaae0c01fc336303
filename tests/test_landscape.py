import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from sklearn.ensemble import HistGradientBoostingClassifier

from base.errors import UserError
from base.files import hash_file, read_json
from config import load_experiment
from config.data import LANDSCAPE_CLASSES, Data
from folds.assign import assign_folds
from folds.classes import ClassTable
from folds.images import read_image, read_mask
from folds.landscape import make_landscape, tile_places
from folds.scenery import Sensor, draw_scene, target_shares
from folds.scenery.canvas import PIXELS
from folds.scenery.noise import PEAK, blob, canopy, fractal
from folds.scenery.spectra import MATERIALS, NUMBER, shadows

SIDE, PX = 3, 64


def demo(root: Path, *overrides: str) -> Data:
    """The demo's `data`, small: 3 train scenes and 1 test scene of 3 x 3 tiles of 64 pixels."""
    small = {"train_scenes": 3, "test_scenes": 1, "scene_tiles": SIDE, "tile_px": PX}
    keys = [f"data.generate.{key}={value}" for key, value in small.items()]
    return load_experiment("configs/demo.yaml", [f"data.root={root}", *keys, *overrides]).data


def files_of(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): hash_file(path) for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Data:
    data = demo(tmp_path_factory.mktemp("landscape") / "demo")
    assert make_landscape(data)
    return data


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, np.ndarray]]:
    """The train scenes that configs/demo.yaml draws: image and class positions."""
    spec = load_experiment("configs/demo.yaml").data.generate
    size = spec.scene_tiles * spec.tile_px
    return [draw_scene(spec.seed, "train", n, size, spec.floor, 1.0) for n in range(spec.train_scenes)]


def test_the_folder_holds_what_the_competitions_holds_and_the_truth_beside_it(drawn):
    root = Path(drawn.root)
    tiles = pd.read_csv(root / "scenes.csv", dtype={"name": str})
    train, test = tiles[tiles.split == "train"].name, tiles[tiles.split == "test"].name
    assert (len(train), len(test)) == (3 * SIDE**2, SIDE**2)
    assert tiles.name.is_unique
    assert {file.removesuffix(".tif") for file in files_of(root / "train")} - {f"{n}.png" for n in train} == set(train)
    assert set(files_of(root / "test")) == {f"{name}.tif" for name in test}
    assert set(files_of(root / "truth")) == {f"{name}.png" for name in test}
    for folder, masks, names in (("train", "train", train), ("test", "truth", test)):
        for name in names:
            image_HWB = read_image(root / folder / f"{name}.tif")
            label_HW = read_mask(root / masks / f"{name}.png")
            assert image_HWB.shape == (PX, PX, 4)
            assert image_HWB.dtype == np.uint8
            assert label_HW.shape == (PX, PX)
            ClassTable.of(drawn).to_index(label_HW)  # knows every label


def test_the_fourth_band_is_infrared_and_not_alpha(drawn):
    path = next(Path(drawn.root).glob("train/*.tif"))
    with rasterio.open(path) as file:
        assert [band.name for band in file.colorinterp] == ["red", "green", "blue", "undefined"]


def test_tiles_lie_where_scenes_csv_says(drawn):
    """Put together by scene, row and column, the tiles are the scene that was drawn."""
    spec = drawn.generate
    tiles = pd.read_csv(Path(drawn.root) / "scenes.csv", dtype={"name": str})
    for split, masks in (("train", "train"), ("test", "truth")):
        image_HWB, class_HW = draw_scene(spec.seed, split, 0, SIDE * PX, spec.floor, spec.test_shift)
        found_HWB, found_HW = np.zeros_like(image_HWB), np.zeros_like(class_HW)
        for tile in tiles[tiles.scene == f"{split}-0"].itertuples():
            where = slice(tile.row * PX, (tile.row + 1) * PX), slice(tile.col * PX, (tile.col + 1) * PX)
            found_HWB[where] = read_image(Path(drawn.root) / split / f"{tile.name}.tif")
            found_HW[where] = read_mask(Path(drawn.root) / masks / f"{tile.name}.png")
        np.testing.assert_array_equal(found_HWB, image_HWB)
        np.testing.assert_array_equal(found_HW, class_HW + 1)  # the demo's labels are positions + 1


def test_labels_follow_the_experiments_classes_by_name(tmp_path):
    """Classes in another order and with other labels: the same land under other numbers."""
    plain, other = demo(tmp_path / "plain"), demo(tmp_path / "other")
    turned = [c.model_copy(update={"label": 200 - c.label}) for c in reversed(other.classes)]
    other = Data.model_validate(other.model_copy(update={"classes": turned}).model_dump())
    make_landscape(plain)
    make_landscape(other)
    for path in sorted((tmp_path / "plain" / "train").glob("*.png")):
        np.testing.assert_array_equal(read_mask(tmp_path / "other" / "train" / path.name), 200 - read_mask(path))


def test_names_tell_nothing_of_neighbours():
    tiles = tile_places(load_experiment("configs/demo.yaml").data.generate)
    train = tiles[tiles.split == "train"]
    number = train.name.astype(int).to_numpy()
    assert sorted(number) == list(range(1, len(train) + 1))
    assert (np.diff(number) == 1).mean() < 0.03  # 1 / 225 by chance; all of them if numbered in order
    assert tiles.name[tiles.split == "test"].astype(int).min() == len(train) + 1


def test_the_same_keys_give_the_same_bytes_and_another_seed_another_land(drawn, tmp_path):
    again, other = demo(tmp_path / "again"), demo(tmp_path / "other", "data.generate.seed=1")
    make_landscape(again)
    make_landscape(other)
    files, files_other = files_of(Path(drawn.root)), files_of(tmp_path / "other")
    assert files == files_of(tmp_path / "again")
    assert files.keys() == files_other.keys()
    assert not [name for name in files if files[name] == files_other[name] and name.endswith(".tif")]


def test_pixels_are_those_of_this_generator_version():
    """Raise GENERATOR in folds/landscape.py with these hashes. Pixels do not depend on the processor."""
    image_HWB, class_HW = draw_scene(3, "test", 1, 200, 0.01, 1.0)
    assert hashlib.sha256(class_HW).hexdigest()[:16] == "443c48fea7229afa"
    assert hashlib.sha256(image_HWB).hexdigest()[:16] == "d91178d451cc2fd7"


def test_a_scene_depends_on_its_number_alone(drawn, tmp_path):
    """More scenes leave the ones there were as they are."""
    first = draw_scene(5, "train", 2, 128, 0.006, 1.0)
    draw_scene(5, "train", 0, 128, 0.006, 1.0)
    second = draw_scene(5, "train", 2, 128, 0.006, 1.0)
    np.testing.assert_array_equal(first[0], second[0])
    assert not np.array_equal(first[1], draw_scene(5, "test", 2, 128, 0.006, 1.0)[1])
    assert not np.array_equal(first[1], draw_scene(5, "train", 3, 128, 0.006, 1.0)[1])


@pytest.mark.parametrize(("tiles", "px"), [(2, 32), (3, 96), (2, 256)])
def test_any_size_can_be_drawn(tiles, px):
    image_HWB, class_HW = draw_scene(0, "train", 0, tiles * px, 0.006, 1.0)
    assert image_HWB.shape == (tiles * px, tiles * px, 4)
    assert class_HW.max() < len(LANDSCAPE_CLASSES)


def test_what_is_drawn_is_not_drawn_again(drawn):
    root = Path(drawn.root)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert not make_landscape(drawn)
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def test_other_keys_and_missing_files_are_drawn_again(tmp_path):
    data = demo(tmp_path / "demo")
    make_landscape(data)
    whole = files_of(tmp_path / "demo")
    next((tmp_path / "demo" / "truth").iterdir()).unlink()
    assert make_landscape(data)
    assert files_of(tmp_path / "demo") == whole

    changed = demo(tmp_path / "demo", "data.generate.train_scenes=2")
    assert make_landscape(changed)
    assert len(list((tmp_path / "demo" / "train").glob("*.tif"))) == 2 * SIDE**2
    assert read_json(tmp_path / "demo" / "landscape.json")["train_scenes"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]  # nothing written aside is left


@pytest.mark.parametrize("foreign", ["mine.csv", "train/000001.jpg", "train/notes/000001.tif"])
def test_a_folder_with_other_content_is_left_alone(tmp_path, foreign):
    path = tmp_path / "demo" / foreign
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    with pytest.raises(UserError, match=f"{foreign}.*data.root"):
        make_landscape(demo(tmp_path / "demo"))
    assert path.read_text() == "precious"
    assert set(files_of(tmp_path)) == {f"demo/{foreign}"}


def test_a_competitions_tiles_are_left_alone(tmp_path):
    """Tiles with the very names that are drawn here, but not by us."""
    path = tmp_path / "demo" / "train" / "000001.tif"
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    with pytest.raises(UserError, match=r"landscape\.json"):
        make_landscape(demo(tmp_path / "demo"))
    assert path.read_text() == "precious"


def test_a_file_added_to_the_demo_stops_its_replacement(drawn, tmp_path):
    data = demo(tmp_path / "demo")
    make_landscape(data)
    (tmp_path / "demo" / "my_folds.csv").write_text("precious")
    assert not make_landscape(data)
    with pytest.raises(UserError, match=r"my_folds\.csv"):
        make_landscape(demo(tmp_path / "demo", "data.generate.seed=1"))


def test_without_the_section_nothing_is_drawn(tmp_path):
    assert not make_landscape(demo(tmp_path / "demo", "data.generate=null"))
    assert not (tmp_path / "demo").exists()


def test_the_experiment_must_name_what_is_drawn():
    with pytest.raises(UserError, match=r"bareland; found farmland"):
        load_experiment("configs/demo.yaml", ["data.classes=[{label: 1, name: farmland, color: [1, 2, 3]}, "
                                              "{label: 2, name: sea, color: [1, 2, 3]}]"])  # fmt: skip
    with pytest.raises(UserError, match="generate writes train_images"):
        load_experiment("configs/demo.yaml", ["data.train_images=images/*.tif"])


def test_shares_are_the_competitions_with_a_floor(scenes):
    target_C = target_shares(load_experiment("configs/demo.yaml").data.generate.floor)
    share_C = np.bincount(np.concatenate([c.ravel() for _, c in scenes]), minlength=10) / sum(c.size for _, c in scenes)
    assert target_C.sum() == pytest.approx(1)
    np.testing.assert_allclose(share_C, target_C, rtol=0.3)
    np.testing.assert_allclose(target_shares(0.0), np.array(list(PIXELS.values())) / sum(PIXELS.values()))


def test_every_scene_and_so_every_fold_holds_every_class(scenes):
    hist_GC = np.stack([np.bincount(class_HW.ravel(), minlength=10) for _, class_HW in scenes])
    assert (hist_GC > 500).all()
    spec = load_experiment("configs/demo.yaml").folds
    fold_G = assign_folds(hist_GC, np.arange(len(hist_GC)), spec.k)
    share_KC = np.stack([hist_GC[fold_G == k].sum(0) for k in range(spec.k)]) / hist_GC.sum(0)
    assert share_KC.min() > 0.5 / spec.k


def test_neighbours_continue_and_strangers_do_not(scenes):
    """Mean squared difference across a border, in units of the tile's own last step: 1 for true neighbours."""
    px = 128
    rights, lefts, steps, place = [], [], [], []
    for s, (image_HWB, _) in enumerate(scenes):
        for row in range(5):
            for col in range(5):
                tile = image_HWB[row * px : (row + 1) * px, col * px : (col + 1) * px].astype(float)
                rights.append(tile[:, -1].ravel())
                lefts.append(tile[:, 0].ravel())
                steps.append(((tile[:, -1] - tile[:, -2]) ** 2).mean())
                place.append((s, row, col))
    rights, lefts = np.array(rights), np.array(lefts)
    cost_NN = ((rights[:, None] - lefts[None]) ** 2).mean(-1) / np.array(steps)[:, None]
    true_NN = np.array([[b == (a[0], a[1], a[2] + 1) for b in place] for a in place])
    assert 0.85 < np.median(cost_NN[true_NN]) < 1.15
    assert np.quantile(cost_NN[true_NN], 0.95) < 2
    has_neighbour = true_NN.any(1)
    best_N = cost_NN.argmin(1)
    assert true_NN[np.arange(len(place)), best_N][has_neighbour].mean() > 0.97
    assert np.quantile(cost_NN[~true_NN], 0.01) > 3


def test_a_shift_moves_the_test_flights_only():
    """Without one, train and test flights are draws of the same distribution."""
    flights = {shift: [Sensor.draw(np.random.default_rng(i), shift) for i in range(400)] for shift in (0.0, 1.0)}
    gain = {shift: np.array([sensor.gain for sensor in drawn]) for shift, drawn in flights.items()}
    haze = {shift: np.array([sensor.haze for sensor in drawn]) for shift, drawn in flights.items()}
    np.testing.assert_allclose(gain[0.0].mean(0), 1, atol=0.01)
    assert gain[1.0][:, 3].mean() < 0.96
    assert (gain[1.0].std(0) > 1.4 * gain[0.0].std(0)).all()
    assert (haze[1.0][:, :3].mean(0) > 2 * haze[0.0][:, :3].mean(0)).all()

    size = 96
    for split, alike in (("train", True), ("test", False)):
        calm, hazy = (draw_scene(4, split, 0, size, 0.01, shift)[0] for shift in (0.0, 2.0))
        assert np.array_equal(calm, hazy) == alike


@pytest.mark.parametrize(
    ("rare", "common"),
    [("grass", "farmland"), ("bareland", "farmland"), ("construction", "industrial"), ("urban", "industrial")],
)
def test_a_pixel_alone_tells_look_alikes_only_in_part(scenes, rare, common):
    """A per-pixel model, fitted on some scenes, is far from certain on others, and far from guessing."""
    rng = np.random.default_rng(0)

    def pixels(some: list, name: str) -> np.ndarray:
        of_class = np.concatenate(
            [image_HWB[class_HW == LANDSCAPE_CLASSES.index(name)] for image_HWB, class_HW in some]
        )
        return rng.permutation(of_class)[:2000]

    known, unknown = ([pixels(some, name) for name in (rare, common)] for some in (scenes[:6], scenes[6:]))
    model = HistGradientBoostingClassifier(max_iter=30).fit(np.concatenate(known), np.repeat([0, 1], [2000, 2000]))
    accuracy = np.mean([(model.predict(pixels) == c).mean() for c, pixels in enumerate(unknown)])
    assert 0.55 < accuracy < 0.92


def test_fractal_noise_is_smooth_and_bounded():
    field = fractal(np.random.default_rng(0), 130, 77, 64, 8, 0.5).astype(int)
    assert field.shape == (130, 77)
    assert np.abs(field).max() <= PEAK
    assert field.std() > PEAK / 20
    # No period below 8: from pixel to pixel the field moves little.
    assert np.abs(np.diff(field, axis=0)).mean() < field.std() / 4


def test_the_canopy_is_the_highest_of_all_trees():
    """Against the definition: every tree's paraboloid over the whole area."""
    rng, spacing, size = np.random.default_rng(1), 6, 30
    surface = canopy(rng, size, size, spacing)
    rng = np.random.default_rng(1)
    y, x = rng.integers(0, spacing, (2, 7, 7), np.int16)
    top = rng.integers(9, 37, (7, 7), np.int16)
    rows, cols = np.mgrid[:size, :size]
    expected = np.zeros((size, size), int)
    for i in range(7):
        for j in range(7):
            distance = (rows - (i - 1) * spacing - y[i, j]) ** 2 + (cols - (j - 1) * spacing - x[i, j]) ** 2
            expected = np.maximum(expected, int(top[i, j]) - distance)
    np.testing.assert_array_equal(surface, expected)


def test_a_blob_fills_most_of_its_rectangle_and_touches_no_corner():
    for seed in range(20):
        inside = blob(np.random.default_rng(seed), 40, 70)
        assert 0.25 < inside.mean() < 0.9
        assert not inside[[0, 0, -1, -1], [0, -1, 0, -1]].all()


@pytest.mark.parametrize("sun", [(1, 1), (1, 2), (2, 1), (1, -1)])
def test_shadows_fall_away_from_the_sun_as_far_as_a_thing_is_high(sun):
    height = np.zeros((41, 41), np.uint8)
    height[20, 20] = 5
    y, x = np.nonzero(shadows(height, sun))
    assert len(y) == 4  # 5 high at 45 degrees: it hides the sun from the next 4 pixels
    assert (y >= 20).all()
    assert (np.sign(x - 20) == np.sign(sun[1]))[np.abs(x - 20) > 0].all()
    assert not shadows(height, sun)[20, 20]


def test_every_variant_has_its_own_number():
    last = list(MATERIALS)[-1]
    assert NUMBER[last] + MATERIALS[last].variants <= 256
    taken = [NUMBER[name] + i for name, material in MATERIALS.items() for i in range(material.variants)]
    assert len(set(taken)) == len(taken)
