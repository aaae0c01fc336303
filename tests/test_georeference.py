"""Groups from coordinates: what overlaps, touches or is near stays together, whatever the units and the order."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.transform import Affine, from_origin
from rasterio.warp import transform

from base.errors import UserError
from base.files import read_json
from config import Run, load_experiment, open_run
from config.data import AuditError
from folds import check
from folds.folds_csv import read_folds
from folds.georeference import Footprints, find_footprints, linked_tiles, read_footprints
from folds.images import read_values
from folds.tiles import make_tiles
from tests.scenes import cut, draw_texture
from tests.tiny import draw_image, draw_mask, tiny_values, write_config, write_mask, write_tif

PX, GSD = 32, 0.5
SIDE = PX * GSD
UTM32, UTM33 = "EPSG:32632", "EPSG:32633"


def write_placed(path: Path, west: float, north: float, crs: str | None = UTM32, gsd: float = GSD, seed: int = 0):
    """An image and its mask at a place."""
    rng = np.random.default_rng(seed)
    mask_HW = draw_mask(rng, PX, [1, 2, 4])
    image_HWB = draw_image(rng, mask_HW, 4)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", "GTiff", PX, PX, 4, dtype="uint8", crs=crs, transform=from_origin(west, north, gsd, gsd)
    ) as file:
        file.write(np.moveaxis(image_HWB, -1, 0))
    write_mask(path.with_suffix(".png"), mask_HW)


def write_scenes(root: Path, places: list[tuple[float, float]], **keys) -> None:
    """Train tiles 000000.tif, ... at (column, row) in sides of a tile; fractions too."""
    for n, (column, row) in enumerate(places):
        write_placed(root / "train" / f"{n:06d}.tif", 5e5 + column * SIDE, 5.2e6 - row * SIDE, seed=n, **keys)


def run_of(root: Path, **folds) -> Run:
    values = tiny_values(root, root.parent)
    values["data"]["test_images"] = None
    values["folds"] = {"k": 2, "groups": "georeference"} | folds
    return open_run(load_experiment(write_config(root.parent / "config.yaml", values)))


def groups_of(root: Path, **folds) -> list[set[int]]:
    """The groups, as sets of tiles."""
    tiles = make_tiles(run_of(root, **folds))
    assert all(rows.name.iloc[0] == group for group, rows in tiles.groupby("group"))
    return sorted(({int(name) for name in rows.name} for _, rows in tiles.groupby("group")), key=min)


def boxes(places_N2: np.ndarray, size: float = 1.0) -> Footprints:
    return Footprints(np.concatenate([places_N2, places_N2 + size], axis=1), np.array([0.5, 0.25]) / 256)


def test_tiles_that_touch_at_sides_or_corners_are_one_group_and_others_are_not(tmp_path):
    # A row of two, one at their corner; two that overlap elsewhere; one a pixel away from them; two less than half a
    # pixel apart.
    places = [(0, 0), (9, 9), (1, 0), (2, 1), (9.5, 9.2), (10.5 + 1 / PX, 9.2), (30, 0), (31 + 0.4 / PX, 0)]
    write_scenes(tmp_path / "data", places)
    assert groups_of(tmp_path / "data") == [{0, 2, 3}, {1, 4}, {5}, {6, 7}]


def test_a_gap_is_counted_in_sides_of_a_tile(tmp_path):
    write_scenes(tmp_path / "data", [(0, 0), (2.5, 0), (0, 3), (9, 9)])
    assert groups_of(tmp_path / "data", gap_tiles=1.4) == [{0}, {1}, {2}, {3}]
    assert groups_of(tmp_path / "data", gap_tiles=1.5) == [{0, 1}, {2}, {3}]
    assert groups_of(tmp_path / "data", gap_tiles=2) == [{0, 1, 2}, {3}]


def test_degrees_are_as_good_as_metres(tmp_path):
    places = [(0, 0), (1, 0), (3, 0), (3, 1), (8, 8)]
    for n, (column, row) in enumerate(places):
        # A degree is shorter along a parallel than along a meridian; tiles need not be square on the ground.
        path = tmp_path / "data" / "train" / f"{n:06d}.tif"
        write_placed(path, 11 + column * PX * 1e-5, 48 - row * PX * 1e-5, crs="EPSG:4326", gsd=1e-5, seed=n)
    assert groups_of(tmp_path / "data") == [{0, 1}, {2, 3}, {4}]


def test_the_same_place_in_two_zones_is_one_place(tmp_path):
    easts, norths = transform(UTM32, UTM33, [8e5, 9e5], [5.2e6, 5.2e6])
    write_placed(tmp_path / "data" / "train" / "000000.tif", 8e5, 5.2e6, seed=0)
    write_placed(tmp_path / "data" / "train" / "000001.tif", 8.5e5, 5.2e6, seed=1)
    write_placed(tmp_path / "data" / "train" / "000002.tif", easts[0], norths[0], crs=UTM33, seed=2)
    write_placed(tmp_path / "data" / "train" / "000003.tif", easts[1], norths[1], crs=UTM33, seed=3)
    write_placed(tmp_path / "data" / "train" / "000004.tif", 8e5 - 40 * SIDE, 5.2e6, seed=4)
    assert groups_of(tmp_path / "data") == [{0, 2}, {1}, {3}, {4}]


def test_blocks_cut_links_but_never_shared_pixels(tmp_path):
    grid = [(column, row) for row in range(4) for column in range(4)]
    write_scenes(tmp_path / "data", grid)
    assert groups_of(tmp_path / "data") == [set(range(16))]
    blocks = [{0, 1, 4, 5}, {2, 3, 6, 7}, {8, 9, 12, 13}, {10, 11, 14, 15}]
    assert groups_of(tmp_path / "data", block_tiles=2) == blocks
    # One more tile lies across the border of the upper two blocks, another, smaller scene at no multiple of a side.
    far = [(column + 50.3, row + 7.7) for column, row in grid[:2]]
    write_scenes(tmp_path / "data", [*grid, (1.5, 0.2), *far])
    joined = [blocks[0] | blocks[1] | {16}, blocks[2], blocks[3], {17, 18}]
    assert groups_of(tmp_path / "data", block_tiles=2) == joined


def test_copies_join_groups_that_coordinates_keep_apart(tmp_path):
    write_scenes(tmp_path / "data", [(0, 0), (1, 0), (9, 0), (9.5, 0), (30, 0), (40, 0)])
    write_placed(tmp_path / "data" / "train" / "000004.tif", 9e5, 5.2e6, seed=1)  # tile 1, handed in from elsewhere
    assert groups_of(tmp_path / "data") == [{0, 1}, {2, 3}, {4}, {5}]
    assert groups_of(tmp_path / "data", groups="georeference+duplicates") == [{0, 1, 4}, {2, 3}, {5}]


def test_test_tiles_that_share_pixels_with_train_tiles_are_told_of(tmp_path):
    """No border says so. Test tiles need no coordinates: then nothing is told of them, and nothing is wrong."""
    root = tmp_path / "data"
    write_scenes(root, [(0, 0), (1, 0), (9, 0), (9.5, 0)])
    write_placed(root / "test" / "a.tif", 5e5 + 9.7 * SIDE, 5.2e6 - 0.2 * SIDE, seed=7)
    write_placed(root / "test" / "b.tif", 5e5 + 20 * SIDE, 5.2e6, seed=8)
    (root / "test" / "a.png").unlink()
    (root / "test" / "b.png").unlink()
    config = tmp_path / "config.yaml"
    values = tiny_values(root, tmp_path) | {"folds": {"k": 2, "groups": "georeference"}}
    write_config(config, values)
    check.main(["--config", str(config)])
    found = {each["kind"]: each["tiles"] for each in read_json(tmp_path / "runs" / "tiny" / "check.json")["findings"]}
    assert found["test_beside_train"] == ["test/a"]
    write_tif(root / "test" / "b.tif", np.moveaxis(read_values(root / "test" / "b.tif"), 0, -1))
    check.main(["--config", str(config)])
    found = {each["kind"]: each["tiles"] for each in read_json(tmp_path / "runs" / "tiny" / "check.json")["findings"]}
    assert found["test_beside_train"] == ["test/a"]
    write_tif(root / "test" / "a.tif", np.moveaxis(read_values(root / "test" / "a.tif"), 0, -1))
    check.main(["--config", str(config)])
    found = read_json(tmp_path / "runs" / "tiny" / "check.json")["findings"]
    assert "test_beside_train" not in {each["kind"] for each in found}


def write_scene(root: Path, size: int, place) -> None:
    """A scene of size x size tiles whose borders fit; `place`: (column, row) -> those that the coordinates tell."""
    rng = np.random.default_rng(4)
    for n, ((row, column), tile) in enumerate(cut(draw_texture(rng, size * PX, size * PX, 4), PX).items()):
        east, south = place(column, row)
        path = root / "train" / f"{n:06d}.tif"
        write_placed(path, 5e5 + east * SIDE, 5.2e6 - south * SIDE, seed=n)
        with rasterio.open(path, "r+") as file:
            file.write(np.moveaxis(tile, -1, 0))


def findings(root: Path, **folds) -> dict[str, dict]:
    """kind -> the finding of that kind, of folds.check with everything allowed."""
    run_of(root, **folds)
    allow = f"folds.allow=[{', '.join(get_args(AuditError))}]"
    check.main(["--config", str(root.parent / "config.yaml"), allow])
    return {each["kind"]: each for each in read_json(root.parent / "runs" / "tiny" / "check.json")["findings"]}


def test_neighbours_across_blocks_were_chosen_and_those_that_coordinates_put_elsewhere_were_not(tmp_path):
    write_scene(tmp_path / "true" / "data", 4, lambda column, row: (column, row))
    found = findings(tmp_path / "true" / "data", block_tiles=2)
    assert "chosen_leaks" in found
    assert "neighbours_across_folds" not in found
    write_scene(tmp_path / "wrong" / "data", 4, lambda column, row: (3 * column, 5 * row))
    found = findings(tmp_path / "wrong" / "data", block_tiles=2)
    assert "chosen_leaks" not in found
    assert "neighbours_across_folds" in found


def test_pairs_by_coordinates_are_audited_whatever_the_groups_are(tmp_path):
    """Two scenes of tiles that overlap by half, one of tiles that touch; borders tell of none of them."""
    root = tmp_path / "data"
    halves = [(10 * scene + column / 2, row / 2) for scene in (0, 1) for row in range(3) for column in range(3)]
    write_scenes(root, [*halves, (40, 0), (41, 0), (41, 1), (60, 0)])
    for groups in ("none", "mosaic+duplicates"):
        with pytest.raises(UserError, match="overlaps_across_folds") as refusal:
            run_of(root, groups=groups)
            check.main(["--config", str(tmp_path / "config.yaml")])
        assert "folds.groups=georeference+duplicates keeps them together" in str(refusal.value)
        found = findings(root, groups=groups)
        folds = read_folds(tmp_path / "runs" / "tiny" / "folds.csv").fold
        footprints = read_footprints(root, [f"train/{n:06d}.tif" for n in range(22)])
        near = [sorted(pair) for pair in linked_tiles(footprints, 0, None).tolist()]
        apart = [(a, b) for a, b in near if folds[a] != folds[b]]
        touching = {(9 * scene + a, 9 * scene + b) for scene in (0, 1) for a, b in ((0, 2), (3, 5), (6, 8))}
        touching |= {(9 * scene + a, 9 * scene + b) for scene in (0, 1) for a in (0, 1, 2) for b in (6, 7, 8)}
        touching |= {(9 * scene + a, 9 * scene + b) for scene in (0, 1) for a, b in ((0, 5), (2, 3), (3, 8), (5, 6))}
        touching |= {(18, 19), (19, 20), (18, 20)}
        shared = [pair for pair in apart if pair not in touching]
        assert found["overlaps_across_folds"]["what"].startswith(f"{len(shared)} of 40 pairs that share pixels")
        assert set(found["overlaps_across_folds"]["tiles"]) == {f"train/{n:06d}" for pair in shared for n in pair}
        touched = [pair for pair in apart if pair in touching]
        assert found["neighbours_across_folds"]["what"].startswith(f"{len(touched)} of {len(touching)} pairs")
    assert not {"overlaps_across_folds", "neighbours_across_folds"} & set(findings(root))  # georeference
    (root / "train" / "000021.tif").unlink()
    write_tif(root / "train" / "000021.tif", draw_texture(np.random.default_rng(1), PX, PX, 4))
    found = findings(root, groups="none")
    assert "folds.groups=column takes groups of your own" in found["overlaps_across_folds"]["what"]


def test_tiles_that_carry_the_coordinates_of_their_scene_overlap_nothing(tmp_path):
    """As whoever cuts with the profile of the scene leaves them: told of, and taken for no place at all."""
    for n, (groups, block_tiles) in enumerate((("mosaic", 2), ("none", None))):
        root = tmp_path / f"{n}" / "data"
        write_scene(root, 4, lambda column, row: (7, 3))
        write_placed(root / "train" / "000098.tif", 9e5, 5.2e6, seed=98)
        write_placed(root / "train" / "000099.tif", 9e5 + SIDE / 2, 5.2e6, seed=99)
        found = findings(root, groups=groups, block_tiles=block_tiles)
        assert found["same_coordinates"]["tiles"] == [f"train/{n:06d}" for n in range(16)]
        overlaps = found.get("overlaps_across_folds", {"tiles": []})["tiles"]
        assert set(overlaps) <= {"train/000098", "train/000099"}
    write_scene(tmp_path / "all" / "data", 3, lambda column, row: (7, 3))
    with pytest.raises(UserError, match=r"9 train images have exactly the same coordinates: .*groups=mosaic\+dupl"):
        make_tiles(run_of(tmp_path / "all" / "data"))


def test_two_dates_of_a_place_share_its_pixels(tmp_path):
    root = tmp_path / "data"
    write_scenes(root, [(5 * place, 0) for place in range(6) for _ in range(2)])
    found = findings(root, groups="none")
    assert "same_coordinates" not in found
    assert "of 6 pairs that share pixels" in found["overlaps_across_folds"]["what"]


@pytest.mark.parametrize("groups", ["column", "georeference", "mosaic"])
def test_tiles_that_share_pixels_and_copies_leave_their_groups_together(tmp_path, groups):
    """0 and 1 overlap, 3 and 5 are copies; 6 overlaps 7, which does not leave."""
    root = tmp_path / "data"
    write_scenes(root, [(0, 0), (0.5, 0), (5, 0), (9, 0), (13, 0), (20, 0), (30, 0), (30.5, 0.2)])
    write_placed(root / "train" / "000005.tif", 5e5 + 20 * SIDE, 5.2e6, seed=3)
    labels_of = {0: [1, 2, 4], 1: [2, 2, 4], 2: [2, 2, 4], 3: [1, 2, 4], 4: [2, 2, 2], 5: [1, 2, 4], 6: [2, 2, 4]}
    for n in range(8):
        mask_HW = np.full((PX, PX), 2, np.uint8)
        mask_HW[3:9], mask_HW[11:12, n:] = np.reshape(labels_of.get(n, [2, 2, 2]), (3, 1))[[0, 2]]
        write_mask(root / "train" / f"{n:06d}.png", mask_HW)
    (root / "one.csv").write_text("name,scene\n" + "".join(f"{n:06d},{'ab'[n == 5]}\n" for n in range(8)))
    run = run_of(root, groups=groups, groups_csv="one.csv", split_groups_of=["bare", "field"])
    group = dict(zip(range(8), make_tiles(run).group, strict=True))
    together = {frozenset(n for n in group if group[n] == each) for each in group.values()}
    assert {frozenset({0, 1}), frozenset({2}), frozenset({3, 5}), frozenset({6})} <= together
    assert all(not {4, 7} & each or each <= {4, 7} for each in together)
    assert group[1].count("/") == group[0].count("/")
    found = findings(root, groups=groups, groups_csv="one.csv", split_groups_of=["bare", "field"])
    assert "copies_across_folds" not in found
    for kind in ("chosen_leaks", "overlaps_across_folds"):
        assert set(found.get(kind, {"tiles": []})["tiles"]) <= {"train/000006", "train/000007"}


def test_a_turned_image_covers_the_box_around_it(tmp_path):
    for n, turn in enumerate((0, 45)):
        path = tmp_path / f"{n}.tif"
        transform = Affine.translation(100, 200) @ Affine.rotation(turn) @ Affine.scale(1, -1)
        with rasterio.open(path, "w", "GTiff", 20, 20, 1, dtype="uint8", transform=transform, crs=UTM32) as file:
            file.write(np.ones((1, 20, 20), np.uint8))
    box_N4 = read_footprints(tmp_path, ["0.tif", "1.tif"]).box_N4
    ratio_2 = (box_N4[1, 2:] - box_N4[1, :2]) / (box_N4[0, 2:] - box_N4[0, :2])
    np.testing.assert_allclose(ratio_2, 2**0.5)


@settings(max_examples=60)
@given(st.integers(2, 40), st.sampled_from([0.0, 0.3, 1.0]), st.integers(0, 2**32 - 1))
def test_links_are_those_of_all_pairs_compared_in_any_order_and_place(count, gap, seed):
    rng = np.random.default_rng(seed)
    places_N2 = rng.integers(0, 40, (count, 2)) / 4
    size_N1 = rng.choice([0.5, 1.0, 1.25], (count, 1))
    footprints = boxes(places_N2, size_N1)
    west_N, south_N, east_N, north_N = footprints.box_N4.T
    expected = set()
    for a in range(count):
        for b in range(a + 1, count):
            across = max(west_N[a], west_N[b]) - min(east_N[a], east_N[b])
            along = max(south_N[a], south_N[b]) - min(north_N[a], north_N[b])
            if (np.array([across, along]) <= gap + footprints.touch_2).all():
                expected.add((a, b))
    assert {tuple(sorted(pair)) for pair in linked_tiles(footprints, gap, None).tolist()} == expected
    order = rng.permutation(count)
    moved = Footprints(footprints.box_N4[order] + [7e3, -3e3] * 2, footprints.touch_2)
    found = {tuple(sorted(order[pair].tolist())) for pair in linked_tiles(moved, gap, None)}
    assert found == expected


def test_images_without_coordinates_are_named_before_a_pixel_is_read(tmp_path):
    write_scenes(tmp_path / "data", [(n, 0) for n in range(4)])
    path = tmp_path / "data" / "train" / "000002.tif"
    with rasterio.open(path) as file:
        pixels = file.read()
    with rasterio.open(path, "w", "GTiff", PX, PX, 4, dtype="uint8") as file:
        file.write(pixels)
    (tmp_path / "data" / "train" / "000003.tif").write_bytes(b"no picture")
    with pytest.raises(UserError) as error:
        make_tiles(run_of(tmp_path / "data"))
    assert "2 of 4 train images do not say where they lie" in str(error.value)
    assert "no coordinates" in str(error.value)
    assert "not recognized" in str(error.value)
    assert "000002.tif, train/000003.tif; folds.groups=mosaic+duplicates" in str(error.value)
    assert not run_of(tmp_path / "data").scans_dir.exists()


def test_a_system_for_some_images_only_is_refused_and_for_none_is_taken_as_one(tmp_path):
    write_scenes(tmp_path / "data", [(0, 0), (1, 0), (5, 5)], crs=None)  # as a world file gives them
    assert groups_of(tmp_path / "data") == [{0, 1}, {2}]
    write_placed(tmp_path / "data" / "train" / "000003.tif", 5e5, 5.2e6)
    unknown = r"3 of 4 train images .*\(coordinates of an unknown system\): train/000000\.tif"
    with pytest.raises(UserError, match=unknown):
        make_tiles(run_of(tmp_path / "data"))


def write_headers(root: Path, places: list[tuple[str, Affine]], width: int = PX, height: int = PX) -> list[str]:
    """Images of nothing at places; their names."""
    root.mkdir(parents=True, exist_ok=True)
    names = [f"{n}.tif" for n in range(len(places))]
    for name, (crs, placed) in zip(names, places, strict=True):
        with rasterio.open(
            root / name, "w", "GTiff", width, height, 1, dtype="uint8", crs=CRS.from_user_input(crs), transform=placed
        ) as file:
            file.write(np.ones((1, height, width), np.uint8))
    return names


def test_tiles_on_both_sides_of_the_antimeridian_are_neighbours(tmp_path):
    """A row of tiles over 180 degrees, handed in as -179.9 and as 180.1; the rest of the data lies elsewhere."""
    step = PX * 1e-3
    row = [("EPSG:4326", from_origin(west, 5, 1e-3, 1e-3)) for west in (180 - 2 * step, 180 - step, -180, 180 + step)]
    across = ("EPSG:32601", from_origin(166000, 1000, 20, 20))  # its box goes from 179.9998 to -179.9944
    beside = ("EPSG:32601", from_origin(166000 + PX * 20, 1000, 20, 20))
    others = [("EPSG:4326", from_origin(west, 5, 1e-3, 1e-3)) for west in (10, 12, 150)]
    footprints = read_footprints(tmp_path, write_headers(tmp_path, [*row, across, beside, *others]))
    assert {tuple(sorted(pair)) for pair in linked_tiles(footprints, 0, None).tolist()} == {
        (0, 1), (1, 2), (2, 3), (4, 5)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("crs", "placed"),
    [
        ('LOCAL_CS["site",UNIT["metre",1]]', from_origin(5e5, 5.2e6, GSD, GSD)),  # of a building site, say
        ("EPSG:4326", from_origin(200, 95, 1e-3, 1e-3)),
        (UTM32, Affine(np.nan, 0, 5e5, 0, -1, 5.2e6)),
    ],
)
def test_a_place_that_the_others_system_does_not_know_is_a_listed_problem(tmp_path, capfd, crs, placed):
    good = [(UTM32, from_origin(5e5 + n * SIDE, 5.2e6, GSD, GSD)) for n in range(3)]
    names = write_headers(tmp_path, [*good[:1], (crs, placed), *good[1:]])
    with pytest.raises(UserError, match=r"1 of 4 train images .*\(no place in the system that most .*\): 1\.tif"):
        read_footprints(tmp_path, names)
    assert "ERROR" not in capfd.readouterr().err
    footprints, lost_of = find_footprints(tmp_path, names)
    assert list(lost_of) == ["1.tif"]
    assert {tuple(sorted(pair)) for pair in linked_tiles(footprints, 0, None).tolist()} == {(0, 2), (2, 3)}


def test_half_a_pixel_is_counted_along_each_axis(tmp_path):
    """Tiles of 16 x 256 px: half a pixel is 1/32 of a side across, and 1/512 along."""
    places = [(0, 0), (16.4, 0), (40, 0), (56.6, 0), (100, 0), (100, 256.4), (200, 0), (200, 256.6)]
    names = write_headers(tmp_path, [(UTM32, from_origin(5e5 + x, 5.2e6 - y, 1, 1)) for x, y in places], 16, 256)
    pairs = linked_tiles(read_footprints(tmp_path, names), 0, None)
    assert {tuple(sorted(pair)) for pair in pairs.tolist()} == {(0, 1), (4, 5)}
