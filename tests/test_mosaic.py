import numpy as np
import pandas as pd
import pytest
from PIL import Image

from config import load_experiment, open_run
from folds.borders import MIN_COST, Borders, Scale, border_cost, match_borders
from folds.layout import lay_out
from folds.links import find_links, open_links
from folds.mosaic import FALSE_SHARE, MIN_MARGIN, margin_asked, recover_mosaics
from folds.pictures import write_mosaics
from folds.scan import open_scan
from folds.tiles import make_tiles, sources_hash
from reports.material import Material
from tests.scenes import cut, draw_texture, neighbours, scan_of, shuffled_scenes
from tests.tiny import tiny_values, write_config, write_mask, write_tif


def recovered(images: list[np.ndarray]):
    return recover_mosaics(scan_of(images), np.ones(len(images), bool))


def pairs_of(mosaics) -> set[tuple[int, int, str]]:
    return set(zip(mosaics.pairs.a, mosaics.pairs.b, mosaics.pairs.relation, strict=True))


@pytest.mark.parametrize(
    ("bands", "dtype", "px"), [(1, "uint8", 64), (3, "uint16", 24), (4, "uint8", 24), (5, "float32", 24)]
)
def test_planted_neighbours_are_found_and_none_invented(bands, dtype, px):
    images, place_of = shuffled_scenes(np.random.default_rng(bands), 3, 3, 4, px, bands, dtype)
    mosaics = recovered(images)
    assert pairs_of(mosaics) == neighbours(place_of)
    assert (mosaics.pairs.found == "border").all()
    # A mosaic is a scene, and places in it are places in the scene.
    scene_N = np.array([scene for scene, _, _ in place_of])
    for scene in range(3):
        here = scene_N == scene
        assert np.unique(mosaics.mosaic_N[here]).tolist() == [np.flatnonzero(here)[0]]
    np.testing.assert_array_equal(mosaics.place_N2, [place[1:] for place in place_of])


def test_the_order_of_the_tiles_does_not_matter():
    images, _ = shuffled_scenes(np.random.default_rng(5), 2, 3, 3)
    order = np.random.default_rng(6).permutation(len(images))
    position = np.argsort(order)
    again = pairs_of(recovered([images[n] for n in order]))
    assert again == {(position[a], position[b], relation) for a, b, relation in pairs_of(recovered(images))}


def test_tiles_need_not_be_square():
    rng = np.random.default_rng(1)
    scene = draw_texture(rng, 3 * 20, 3 * 36, 4)
    tiles = [scene[r * 20 : r * 20 + 20, c * 36 : c * 36 + 36] for r in range(3) for c in range(3)]
    assert pairs_of(recovered(tiles)) == neighbours([(0, r, c) for r in range(3) for c in range(3)])


def test_tiles_from_different_scenes_are_no_neighbours():
    rng = np.random.default_rng(2)
    mosaics = recovered([draw_texture(rng, 24, 24, 4) for _ in range(60)])
    assert mosaics.pairs.empty
    assert len(set(mosaics.mosaic_N)) == 60


@pytest.mark.parametrize("level_std", [0, 3, 40])
def test_water_is_no_evidence(level_std):
    """Flat tiles with sensor noise fit each other and their mirror images alike; so do tiles of one colour."""
    rng = np.random.default_rng(3)
    levels = rng.normal(90, level_std, (80, 1, 1, 4))
    water = np.clip(levels + rng.normal(0, 1.5, (80, 24, 24, 4)), 1, 255).astype(np.uint8)
    constant = [np.full((24, 24, 4), value, np.uint8) for value in (0, 0, 90, 90, 255)]
    mosaics = recovered([*water, *constant])
    assert mosaics.pairs.empty
    assert mosaics.borders["matched"] == 0
    assert mosaics.borders["undecided"] > 0


def test_two_lone_flat_tiles_among_textured_ones_are_no_neighbours():
    """Nothing else fits them, and still their borders say nothing: they fit upside down as well."""
    images, place_of = shuffled_scenes(np.random.default_rng(4), 2, 3, 3)
    black, white = np.zeros((24, 24, 4), np.uint8), np.full((24, 24, 4), 255, np.uint8)
    assert pairs_of(recovered([*images, black, black, white, white])) == neighbours(place_of)


def test_a_border_without_texture_inside_a_scene_is_placed_by_what_surrounds_it():
    rng = np.random.default_rng(8)
    px = 24
    scene = draw_texture(rng, 5 * px, 5 * px, 4)
    scene[2 * px + 2 : 3 * px - 2, px + 2 : 3 * px - 2] = 60  # a lake in two tiles, that reaches no other tile
    scene[2 * px : 3 * px, 2 * px - 2 : 2 * px + 2] = 60  # but covers their common border
    tiles = cut(scene, px)
    mosaics = recovered(list(tiles.values()))
    assert pairs_of(mosaics) == neighbours([(0, *place) for place in tiles])
    by_layout = mosaics.pairs[mosaics.pairs.found == "layout"]
    places = list(tiles)
    assert ((2, 1), (2, 2)) in {(places[a], places[b]) for a, b in zip(by_layout.a, by_layout.b, strict=True)}


def test_a_tile_that_fits_by_chance_does_not_take_the_place_of_a_neighbour():
    """The middle tile's left side was spoilt, and a stranger continues there; the other three sides are stronger."""
    rng = np.random.default_rng(14)
    tiles = cut(draw_texture(rng, 3 * 24, 3 * 24, 4), 24)
    places = [(0, *place) for place in tiles]
    images = [tile.copy() for tile in tiles.values()]
    middle, left, stranger = 4, 3, 9
    images.append(draw_texture(rng, 24, 24, 4))
    noise = rng.normal(0, 9, (24, 2, 4))
    images[stranger][:, :2] = np.clip(images[middle][:, :2] + noise, 0, 255)
    images[middle][:, :2] = draw_texture(rng, 24, 2, 4)
    found = recovered(images)
    assert (left, stranger) not in set(zip(found.pairs.a, found.pairs.b, strict=True))
    assert pairs_of(found) == neighbours(places)
    scan = scan_of(images)
    winners = match_borders(scan.right_N2HB, scan.left_N2HB, Scale.of(scan.right_N2HB))
    assert (left, stranger) in set(zip(winners.a_P, winners.b_P, strict=True))  # it did fit


def test_a_copy_of_a_neighbour_does_not_hide_it():
    images, place_of = shuffled_scenes(np.random.default_rng(9), 2, 3, 3)
    upside_down = images[4][::-1]
    links = find_links(scan_of([*images, images[0].copy(), upside_down]))
    found = set(zip(links.neighbours.a, links.neighbours.b, links.neighbours.relation, strict=True))
    assert found == neighbours(place_of)
    assert set(zip(links.copies.a, links.copies.b, strict=True)) == {(0, 18), (4, 19)}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_the_cost_is_the_mean_squared_difference_in_steps(dtype):
    rng = np.random.default_rng(10)
    last, first = (np.stack([draw_texture(rng, 2, 30, 3, dtype) for _ in range(7)]) for _ in range(2))
    scale = Scale.of(last)
    expected = np.empty((7, 7))
    for a in range(7):
        for b in range(7):
            (one, one_next), (other, other_next) = last[a] * scale.unit_B, first[b] * scale.unit_B
            step = ((one - one_next) ** 2).mean() / 2 + ((other - other_next) ** 2).mean() / 2 + scale.floor
            expected[a, b] = ((one - other) ** 2).mean() / step
    expected = np.maximum(expected, MIN_COST)
    cost = Borders.of(last, scale).costs(slice(0, 7), Borders.of(first, scale))
    np.testing.assert_allclose(cost, expected, rtol=1e-3)
    np.testing.assert_allclose(border_cost(last, first, 3, 5, scale), expected[3, 5], rtol=1e-3)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_bands_count_alike_whatever_their_units(dtype):
    """One band of noise in units that are a thousand times smaller, or larger, does not hide the neighbours."""
    images, place_of = shuffled_scenes(np.random.default_rng(15), 2, 3, 3, dtype=dtype)
    rng = np.random.default_rng(16)
    noise = (1, 2000) if dtype == "uint16" else (-5e4, 5e4)
    images = [np.dstack([image, rng.uniform(*noise, image.shape[:2])]).astype(dtype) for image in images]
    for image in images:
        image[..., 0] = image[..., 0] / 1000 if dtype == "float32" else image[..., 0] // 100
    assert pairs_of(recovered(images)) == neighbours(place_of)


def test_winners_are_mutual_best_whatever_the_blocks(monkeypatch):
    rng = np.random.default_rng(11)
    last, first = (np.stack([draw_texture(rng, 2, 16, 2) for _ in range(23)]) for _ in range(2))
    scale = Scale.of(last)
    whole = match_borders(last, first, scale)
    cost = Borders.of(last, scale).costs(slice(0, 23), Borders.of(first, scale, mirrored=True))
    cost[np.arange(23), np.arange(23)] = cost[np.arange(23), 23 + np.arange(23)] = np.inf
    for a, b, value, margin, mirrored in zip(
        whole.a_P, whole.b_P, whole.cost_P, whole.margin_P, whole.mirrored_P, strict=True
    ):
        column = b + 23 * mirrored
        rivals = np.concatenate([np.delete(cost[a], column), np.delete(cost[:, column], a)])
        assert cost[a, column] == pytest.approx(value, rel=1e-4)
        assert rivals.min() / cost[a, column] == pytest.approx(margin, rel=1e-4)
        assert margin >= 1
    assert len(whole.a_P) > 3
    monkeypatch.setattr("folds.borders.BLOCK", 5)
    blocked = match_borders(last, first, scale)
    np.testing.assert_array_equal(blocked.a_P, whole.a_P)
    np.testing.assert_array_equal(blocked.b_P, whole.b_P)
    np.testing.assert_allclose(blocked.margin_P, whole.margin_P, rtol=1e-3)


def test_the_margin_lets_few_mirrored_winners_through():
    rng = np.random.default_rng(12)
    margin_P = np.sort(rng.uniform(1, 9, 900))[::-1]
    mirrored_P = rng.random(900) < np.linspace(0, 0.5, 900)
    asked = margin_asked(margin_P, mirrored_P)
    accepted = margin_P >= asked
    assert mirrored_P[accepted].sum() <= FALSE_SHARE * (~mirrored_P[accepted]).sum()
    assert accepted.sum() > 50
    assert margin_asked(margin_P, np.zeros(900, bool)) == MIN_MARGIN
    assert margin_asked(margin_P, np.ones(900, bool)) == np.inf
    assert margin_asked(margin_P[:0], mirrored_P[:0]) == MIN_MARGIN


def test_pairs_that_contradict_stronger_ones_are_refused():
    # 0 1    in one place: 3 is right of 2 and below 1; then 4 is said to be below 1 too, and 3 to be right of 0.
    # 2 3
    pairs = [(0, 1, "right"), (2, 3, "right"), (0, 2, "below"), (1, 4, "below"), (0, 3, "right"), (1, 3, "below")]
    layout = lay_out(6, pairs, lambda a, b, relation: True)
    assert layout.refused == [3, 4]
    assert layout.mosaic_N.tolist() == [0, 0, 0, 0, 4, 5]
    assert layout.place_N2.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 0], [0, 0]]
    assert sorted(layout.adjacent()) == [(0, 1, "right"), (0, 2, "below"), (1, 3, "below"), (2, 3, "right")]


def test_a_false_pair_does_not_merge_two_mosaics():
    """Two columns of three; a false pair would put them side by side, where two of three sides do not fit."""
    columns = [(0, 1, "below"), (1, 2, "below"), (3, 4, "below"), (4, 5, "below")]
    false_pair = (0, 3, "right")
    layout = lay_out(6, [*columns, false_pair], lambda a, b, relation: relation == "below" or (a, b) == (0, 3))
    assert layout.refused == [4]
    assert layout.mosaic_N.tolist() == [0, 0, 0, 3, 3, 3]


def test_links_and_pictures_are_kept_and_show_the_scene(tmp_path):
    px = 24
    rng = np.random.default_rng(13)
    scene = draw_texture(rng, 2 * px, 3 * px, 4)
    tiles = list(cut(scene, px).items())
    for n, (_, tile) in enumerate(tiles):
        split = "test" if n == 5 else "train"
        write_tif(tmp_path / "data" / split / f"{n:06d}.tif", tile)
        if split == "train":
            write_mask(
                tmp_path / "data" / split / f"{n:06d}.png", np.resize([1, 2, 4, 4, 1], (px, px)).astype(np.uint8)
            )
    values = tiny_values(tmp_path / "data", tmp_path)
    values["folds"] = {"k": 2, "groups": "mosaic"}
    run = open_run(load_experiment(write_config(tmp_path / "c.yaml", values)))
    table = make_tiles(run)
    assert table.group.tolist()[:5] == ["000000"] * 5  # one scene, held together by the test tile too
    assert table.group.isna().tolist() == [False] * 5 + [True]

    sources = sources_hash(table, tmp_path / "data")
    scan = open_scan(run, table, sources)
    kept, found = open_links(run, table, scan, sources), find_links(scan)
    assert kept.evidence == found.evidence
    pd.testing.assert_frame_equal(kept.places, found.places)
    pd.testing.assert_frame_equal(kept.copies, found.copies, check_dtype=False)
    pd.testing.assert_frame_equal(kept.neighbours, found.neighbours, check_dtype=False, rtol=1e-4)

    (picture,) = write_mosaics(run, table, kept.places, scan)
    shown_HW3 = np.asarray(Image.open(picture))
    assert picture.name == "01-train-000000-6-tiles.png"
    drawn = picture.stat().st_mtime_ns
    assert write_mosaics(run, table, kept.places, scan) == [picture]
    assert picture.stat().st_mtime_ns == drawn
    assert shown_HW3.shape == (2 * px + 3, 3 * px + 4, 3)
    stretched = Material(run).stretch.true_color(scene)  # as the report's pictures of single tiles
    assert len(np.unique(stretched)) > 200
    for (row, column), _ in tiles[:5]:
        top, left = 1 + row * (px + 1), 1 + column * (px + 1)
        expected = stretched[row * px : (row + 1) * px, column * px : (column + 1) * px]
        np.testing.assert_allclose(shown_HW3[top : top + px, left : left + px], expected, atol=1)
    assert shown_HW3[-2, -2].tolist() == [255, 60, 60]  # the frame of the test tile
