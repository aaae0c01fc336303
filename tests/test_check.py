from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest

from base.errors import UserError
from base.files import read_json
from config.data import AuditError, Folds
from folds import check
from folds.audit import band_table, class_table, data_findings, nodata_findings
from folds.findings import Finding
from folds.fold_audit import AuditedFolds, fold_findings
from folds.folds_csv import read_folds
from folds.georeference import Beside
from folds.images import read_image, read_mask
from folds.links import Links, find_links
from folds.scan import Scan, fields_of, fields_without_mask
from tests.scenes import cut, draw_texture, scan_of
from tests.tiny import tiny_values, write_config, write_mask, write_tif

PX = 24
BANDS = ["red", "green", "blue", "nir"]
NAMES = ("field", "forest", "bare")


@pytest.fixture
def root(tmp_path) -> Path:
    """Four scenes of 2 x 2 train tiles and one of 1 x 2 test tiles; every tile has all classes."""
    rng = np.random.default_rng(0)
    number = 0
    for split, scenes, rows in (("train", 4, 2), ("test", 1, 1)):
        for _ in range(scenes):
            for tile in cut(draw_texture(rng, rows * PX, 2 * PX, 4), PX).values():
                write_tif(tmp_path / "data" / split / f"{number:06d}.tif", tile)
                if split == "train":
                    mask_HW = np.asarray([1, 2, 4], np.uint8)[rng.integers(0, 3, (PX, PX))]
                    write_mask(tmp_path / "data" / split / f"{number:06d}.png", mask_HW)
                number += 1
    return tmp_path / "data"


def run_check(root: Path, *words: str, **folds) -> Path:
    """Run the command; the run folder."""
    values = tiny_values(root, root.parent)
    values["folds"] = {"k": 2, **folds}
    config = write_config(root.parent / "config.yaml", values)
    check.main(["--config", str(config), *words])
    return root.parent / "runs" / "tiny"


def kinds(folder: Path) -> dict[str, str]:
    table = pd.read_csv(folder / "check.csv")
    return dict(zip(table.kind, table.severity, strict=True))


def test_good_data_and_folds_pass(root, capsys):
    folder = run_check(root)
    assert kinds(folder) == {}
    said = capsys.readouterr().out
    assert "neighbours: 17 pairs of 18 tiles in 5 mosaics" in said
    assert "each fold against an even share" in said
    record = read_json(folder / "check.json")
    assert record["neighbours"]["pairs"] == 17
    assert record["folds"]["tiles"] == [8, 8]
    assert [entry["tiles"] for entry in record["classes"]] == [16] * 3
    assert [entry["groups"] for entry in record["classes"]] == [4] * 3
    assert len(list((folder / "mosaic").glob("*.png"))) == 5


def test_no_neighbours_is_said_with_what_it_means(tmp_path, capsys):
    rng = np.random.default_rng(1)
    for n in range(10):
        split = "train" if n < 8 else "test"
        write_tif(tmp_path / "data" / split / f"{n}.tif", draw_texture(rng, PX, PX, 4))
        write_mask(tmp_path / "data" / "train" / f"{n % 8}.png", np.resize([1, 2, 4, 2, 1], (PX, PX)).astype(np.uint8))
    folder = run_check(tmp_path / "data")
    assert "no neighbours found: leaks of this kind are unlikely" in capsys.readouterr().out
    assert not list((folder / "mosaic").glob("*.png"))


def test_what_borders_without_texture_leave_unsaid_is_said():
    borders = {"matched": 0, "undecided": 6, "alone": 4}
    none = links_of(evidence={"borders": borders, "mirrored": 0})
    assert check.say_neighbours(none).startswith(
        "no neighbours found, which says little: 60% of the borders fit several"
    )
    few = links_of(evidence={"borders": borders | {"alone": 94}, "mirrored": 0})
    assert "leaks of this kind are unlikely; 6% of the borders" in check.say_neighbours(few)


def test_neighbours_on_both_sides_stop_the_run_unless_allowed(root):
    with pytest.raises(UserError, match=r"neighbours_across_folds: \d+ of 16 pairs of neighbours stand in two folds"):
        run_check(root, groups="none")
    folder = run_check(root, groups="none", allow=["neighbours_across_folds"])
    assert kinds(folder) == {"neighbours_across_folds": "error"}
    (finding,) = read_json(folder / "check.json")["findings"]
    assert all(tile.startswith("train/") for tile in finding["tiles"])


def test_a_leak_that_was_chosen_is_counted_and_passes(root):
    folder = run_check(root, split_groups_of=["bare"])
    assert kinds(folder) == {"chosen_leaks": "warning"}
    with pytest.raises(UserError, match=r"form 4 groups.*folds\.block_tiles=8"):
        run_check(root, k=5)
    folder = run_check(root, k=5, split_groups_of=["bare"])
    assert kinds(folder) == {"chosen_leaks": "warning"}


def test_copies_on_both_sides_stop_the_run(root):
    copied = root / "train" / "000001.tif"
    write_tif(root / "train" / "000099.tif", np.rot90(read_image(copied)))
    write_mask(root / "train" / "000099.png", np.rot90(read_mask(copied.with_suffix(".png"))))
    write_tif(root / "test" / "000098.tif", read_image(root / "train" / "000007.tif"))
    folder = run_check(root)
    assert kinds(folder) == {"train_copies": "warning", "test_copies": "warning"}
    # Where the tiles of a class leave their groups, copies leave together.
    groups = read_folds(run_check(root, split_groups_of=["bare"]) / "folds.csv").set_index("name").group
    assert groups["000099"] == groups["000001"] == "000000/000001"
    assert groups.nunique() == 16
    folder = run_check(root)
    # Alone among all tiles in the other fold: no group of mosaics says anything against it.
    folds = read_folds(folder / "folds.csv")
    other = 1 - folds.fold[1]
    with pytest.raises(UserError, match=r"1 groups stand on both sides of a split: 000000"):
        run_check(root, "--folds", str(written(root, folds.assign(fold=[*folds.fold[:-1], other]))))
    with pytest.raises(UserError, match=r"copies_across_folds: 1 of 1 pairs of copies stand in two folds.*000099"):
        run_check(root, "--folds", str(written(root, folds.assign(fold=[*folds.fold[:-1], other]))), groups="mosaic")


def test_large_mosaics_can_be_cut_into_blocks(tmp_path):
    scene = draw_texture(np.random.default_rng(2), 5 * PX, 6 * PX, 4)
    rng = np.random.default_rng(3)
    for n, tile in enumerate(cut(scene, PX).values()):
        write_tif(tmp_path / "data" / "train" / f"{n:06d}.tif", tile)
        mask_HW = np.array([1, 2, 4], np.uint8)[rng.integers(0, 3, (PX, PX))]
        write_mask(tmp_path / "data" / "train" / f"{n:06d}.png", mask_HW)
    write_tif(tmp_path / "data" / "test" / "x.tif", draw_texture(rng, PX, PX, 4))
    with pytest.raises(UserError, match="30 tiles form 1 groups"):
        run_check(tmp_path / "data", k=3)
    folder = run_check(tmp_path / "data", k=3, block_tiles=2)
    groups = read_folds(folder / "folds.csv").group.to_numpy().reshape(5, 6)
    for row in range(5):
        for col in range(6):
            assert groups[row, col] == groups[row // 2 * 2, col // 2 * 2] == f"{row // 2 * 12 + col // 2 * 2:06d}"
    assert kinds(folder)["chosen_leaks"] == "warning"


def written(root: Path, folds: pd.DataFrame) -> Path:
    file = root.parent / "other.csv"
    folds[["name", "fold"]].to_csv(file, index=False)
    return file


def test_another_folds_file_is_audited_and_every_violation_listed(root):
    folder = run_check(root)
    folds = read_folds(folder / "folds.csv")
    run_check(root, "--folds", str(written(root, folds.assign(fold=1 - folds.fold))))
    bad = folds.assign(fold=[5, *folds.fold[1:]])[:-1]
    records = {path: path.read_text() for path in (folder / "check.csv", folder / "check.json")}
    with pytest.raises(UserError, match=r"3 errors: unfit_folds: 1 .*000015; .*unfit_folds: .*unfit_folds: ") as found:
        run_check(root, "--folds", str(written(root, bad)), "folds.allow=[copies_across_folds]")
    assert str(found.value).count("unfit_folds") == 3
    assert {path: path.read_text() for path in records} == records  # they are of the run's own folds


def links_of(**tables) -> Links:
    none = pd.DataFrame({"a": [], "b": [], "symmetry": [], "exact": []}).astype({"a": int, "b": int})
    places = pd.DataFrame({"mosaic": [0, 1]})
    return Links(tables.get("neighbours", none), tables.get("copies", none), places, tables.get("evidence", {}))


def table_of(train: int, test: int) -> pd.DataFrame:
    names = [f"{n}" for n in range(train)] + [f"{n}" for n in range(test)]
    return pd.DataFrame({"name": names, "split": ["train"] * train + ["test"] * test, "group": names})


def findings_of(images: list[np.ndarray], train: int, hist_NC: np.ndarray | None = None) -> dict[str, list[str]]:
    """kind -> tiles, of images of which the first `train` are train tiles."""
    tiles, scan = table_of(train, len(images) - train), scan_of(images)
    hist_NC = np.full((train, 3), 5) if hist_NC is None else hist_NC
    bands = band_table(scan, tiles.split.to_numpy(), BANDS)
    return {f.kind: f.tiles for f in data_findings(tiles, scan, find_links(scan), hist_NC, bands)}


def textures(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [draw_texture(rng, PX, PX, 4) for _ in range(count)]


def test_band_statistics_are_those_of_all_pixels():
    images = [image // (n + 1) for n, image in enumerate(textures(5))]
    table = band_table(scan_of(images), np.array(["train"] * 3 + ["test"] * 2), BANDS)
    for row in table.itertuples():
        of_split = images[:3] if row.split == "train" else images[3:]
        pixels = np.stack(of_split)[..., BANDS.index(row.band)]
        assert row.mean == pytest.approx(pixels.mean())
        assert row.std == pytest.approx(pixels.std())
        assert row.zero == pytest.approx((pixels == 0).mean())
        assert row.p1 <= row.median <= row.p99
        assert row.median == pytest.approx(np.median(pixels), abs=8)
    assert table.split.tolist() == ["train"] * 4 + ["test"] * 4


def test_pixels_without_data_move_no_band():
    """Whole tiles of them, and parts: the table is that of the pixels there are."""
    images = textures(9)
    empty_NHW = np.zeros((9, PX, PX), bool)
    empty_NHW[[1, 7]] = True
    empty_NHW[3, :9], empty_NHW[8, 5:] = True, True
    for image, empty_HW in zip(images, empty_NHW, strict=True):
        image[empty_HW] = 0
    rows = [fields_of(image, empty) | fields_without_mask(2) for image, empty in zip(images, empty_NHW, strict=True)]
    scan = Scan(**{name: np.stack([row[name] for row in rows]) for name in rows[0]})
    tiles = table_of(5, 4)
    table = band_table(scan, tiles.split.to_numpy(), BANDS)
    for row in table.itertuples():
        of_split = slice(0, 5) if row.split == "train" else slice(5, 9)
        pixels = np.stack(images)[of_split][~empty_NHW[of_split]][:, BANDS.index(row.band)]
        assert row.mean == pytest.approx(pixels.mean())
        assert row.std == pytest.approx(pixels.std())
        assert row.zero == pytest.approx((pixels == 0).mean())
    found = {f.kind: f.tiles for f in data_findings(tiles, scan, find_links(scan), np.full((5, 3), 5), table)}
    assert found == {"empty_tiles": ["train/1", "test/2"]}


def test_classes_are_counted_in_pixels_tiles_and_groups():
    train = pd.DataFrame({"group": ["a", "a", "b", "c"]})
    table = class_table(train, np.array([[3, 0], [1, 4], [0, 8], [0, 0]]), ("x", "y"))
    assert table.to_dict("list") == {
        "class": ["x", "y"], "share": [0.25, 0.75], "pixels": [4, 12], "tiles": [2, 2], "groups": [1, 2],
    }  # fmt: skip


def test_nothing_is_found_in_good_data():
    assert findings_of(textures(14), 10) == {}


def test_flaws_of_images_are_found_and_named():
    images = textures(12)
    images[1] = np.zeros_like(images[1])
    images[3] = np.full_like(images[3], 77)
    images[4][: PX // 2] = 255
    images[5][: PX // 2] = 255
    images[6][: PX // 2] = 255
    images[7][: PX // 2] = 255
    found = findings_of(images, 12, np.tile([[4, 4, 0]], (12, 1)))
    assert found["black_tiles"] == ["train/1"]
    assert found["constant_tiles"] == ["train/3"]
    assert found["labels_without_image"] == ["train/1", "train/3"]
    assert "saturated_band" in found


def test_a_dead_band_and_a_shifted_test_set_are_found():
    images = textures(12)
    for image in images:
        image[..., 2] = 9
    for image in images[8:]:
        image[..., 3] //= 3
    assert set(findings_of(images, 8)) == {"dead_band", "shifted_test"}


@pytest.mark.parametrize("count", [7, 12, 31])
@pytest.mark.parametrize("value", [255, np.float32(0.1), np.float32(1234.567)])
def test_a_dead_band_is_found_whatever_rounding_does_to_its_mean(count, value):
    """And no shift is told of it: nothing can be said in stds of 0."""
    dtype = np.asarray(value).dtype if isinstance(value, np.float32) else np.uint8
    images = [image.astype(dtype) for image in textures(count)]
    for n, image in enumerate(images):
        image[..., 2] = value if n < count - 2 else value / 2
        image[..., 1] = value  # in the test tiles too
        if n == 0:
            image[..., 0] = 9  # a tile of one value is no band of one value
    scan, tiles = scan_of(images), table_of(count - 2, 2)
    found = data_findings(
        tiles, scan, find_links(scan), np.full((count - 2, 3), 5), band_table(scan, tiles.split.to_numpy(), BANDS)
    )
    (dead,) = [f for f in found if f.kind == "dead_band"]
    assert dead.what.endswith("in all train tiles: green, blue")
    assert not [f for f in found if f.kind == "shifted_test" and ("green" in f.what or "blue" in f.what)]


def test_tiles_that_are_each_of_one_value_are_no_dead_band():
    images = textures(6)
    for n, image in enumerate(images):
        image[..., 3] = 40 + n
    assert "dead_band" not in findings_of(images, 6)


def test_flaws_of_masks_are_found():
    images = textures(6)
    assert "one_label_masks" in findings_of(images, 6, np.eye(3, dtype=int)[[0, 1, 2, 0, 1, 2]] * 9)
    assert findings_of(images, 6, np.array([[5, 1, 0]] * 5 + [[0, 0, 0]])) == {"unlabelled_tiles": ["train/5"]}


def test_copies_whose_labels_differ_are_found():
    images = textures(6)
    images += [images[2][::-1].copy(), images[4].copy()]
    hist_NC = np.tile([[400, 100, 76]], (8, 1))
    assert set(findings_of(images, 8, hist_NC)) == {"train_copies"}
    hist_NC[6] = (300, 200, 76)
    assert findings_of(images, 8, hist_NC)["copies_with_other_labels"] == ["train/2", "train/6"]


def test_test_copies_are_counted_by_test_tiles_and_one_is_said_as_one():
    images = textures(4)
    images += [images[0][::-1].copy(), images[0][:, ::-1].copy(), images[0][::-1, ::-1].copy(), images[3].copy()]
    for test_tiles, said in ((2, "2 test tiles with"), (1, "1 test tile with")):
        scan, tiles = scan_of(images[:6] + images[6:][:test_tiles]), table_of(6, test_tiles)
        bands = band_table(scan, tiles.split.to_numpy(), ["a", "b", "c", "d"])
        found = data_findings(tiles, scan, find_links(scan), np.ones((6, 3), int), bands)
        (copies,) = (each.what for each in found if each.kind == "test_copies")
        assert copies.startswith(f"{said} copies among the train tiles: train/0 = test/")
        assert copies.count(" = ") > test_tiles


def in_folds(train, fold_N, links, hist_NC, asked, whole_N=None) -> list[Finding]:
    """Findings in folds of ours, of tiles without coordinates, whose groups no key cut unless told."""
    whole_N = train.group.to_numpy() if whole_N is None else whole_N
    folds = AuditedFolds(train, fold_N, hist_NC, NAMES, asked, whole_N, ours=True)
    return fold_findings(folds, links, Beside.nothing_known(len(train)))


def test_leaks_and_lonely_classes_are_found_in_folds():
    train = table_of(6, 0)
    hist_NC = np.array([[5, 5, 0]] * 4 + [[5, 5, 7]] * 2)
    fold_N = np.array([0, 1, 0, 1, 0, 1])
    pairs = pd.DataFrame({"a": [0, 2, 4, 5], "b": [2, 3, 5, 6], "symmetry": "same", "exact": True})  # 6: a test tile
    links = links_of(neighbours=pairs, copies=pairs[:2])
    found = {f.kind: f for f in in_folds(train, fold_N, links, hist_NC, Folds(k=3, groups="column"))}
    assert set(found) == {
        "neighbours_across_folds", "copies_across_folds", "class_in_few_groups", "class_absent_in_fold"
    }  # fmt: skip
    assert "fold 2 has no field, fold 2 has no forest" in found["class_absent_in_fold"].what  # of bare, see few groups
    assert found["neighbours_across_folds"].what.startswith("2 of 3 pairs")
    assert found["neighbours_across_folds"].tiles == ["train/2", "train/3", "train/4", "train/5"]
    assert found["copies_across_folds"].what.startswith("1 of 2 pairs")


@pytest.mark.parametrize("groups", ["mosaic", "georeference", "column"])
def test_what_was_cut_is_chosen_and_what_was_never_together_is_not(groups):
    """Tiles 0 to 3 were one group, and 4 and 5 another; whichever kind of groups it was."""
    train, fold_N = table_of(6, 0), np.array([0, 1, 0, 1, 0, 1])
    hist_NC = np.array([[5, 5, 0]] * 4 + [[5, 5, 7]] * 2)
    pairs = pd.DataFrame({"a": [0, 2, 3, 4, 2], "b": [1, 3, 4, 5, 5], "symmetry": "same", "exact": True})
    whole_N = np.array(list("aaaabb"), object)

    def found_by(links: Links, **keys) -> list[tuple[str, list[str]]]:
        asked = Folds.model_validate({"k": 2, "groups": groups} | keys)
        found = in_folds(train, fold_N, links, hist_NC, asked, whole_N)
        return [(f.kind, f.tiles) for f in found if f.kind != "class_in_few_groups"]

    assert found_by(links_of(neighbours=pairs), block_tiles=2) == [
        ("chosen_leaks", [f"train/{n}" for n in range(6)]),
        ("neighbours_across_folds", [f"train/{n}" for n in (2, 3, 4, 5)]),
    ]
    # Blocks cut no copies; only the tiles of a class leave.
    assert found_by(links_of(copies=pairs), block_tiles=2) == [
        ("copies_across_folds", [f"train/{n}" for n in range(6)])
    ]
    assert found_by(links_of(copies=pairs[3:]), split_groups_of=["bare"]) == [
        ("chosen_leaks", ["train/4", "train/5"]), ("copies_across_folds", ["train/2", "train/5"])
    ]  # fmt: skip


def test_copies_that_coordinates_put_elsewhere_have_their_own_remedy():
    train = table_of(4, 0).assign(group=list("abcd"))
    links = links_of(copies=pd.DataFrame({"a": [0], "b": [1], "symmetry": "same", "exact": True}))
    args = train, np.array([0, 1, 0, 1]), links, np.ones((4, 3), int)
    for groups, remedy in (("georeference", "georeference+duplicates"), ("column", "mosaic+duplicates")):
        (found,) = in_folds(*args, Folds(k=2, groups=groups))
        assert f"folds.groups={remedy} keeps them together" in found.what


@pytest.mark.parametrize(
    ("nodata", "tag", "concerned"),
    [(None, None, []), (None, 0.0, ["train/1", "train/3"]), (0, 0.0, []), (None, 7.0, []), (None, float("nan"), [])],
)
def test_pixels_that_a_tag_calls_no_data_are_told_of_unless_they_are_left_out(nodata, tag, concerned):
    images = textures(4)
    for n in (1, 3):
        images[n][:4] = 0
    images[0][:4, :, 0] = 0  # one band alone is dark
    scan, tile_names = scan_of(images), np.array([f"train/{n}" for n in range(4)])
    found = nodata_findings(scan, tile_names, nodata, tag)
    assert [tile for finding in found for tile in finding.tiles] == concerned
    assert all("data.nodata=0 leaves them out" in finding.what for finding in found)


@pytest.mark.parametrize(
    ("nodata", "concerned", "said"),
    [("nan", ["train/1"], ", and NaN too"), (0.0, ["train/1"], ", in place of 0.0"), (-9999.0, [], "")],
)
def test_a_tag_is_told_of_where_no_data_is_something_else(nodata, concerned, said):
    images = [image.astype(np.float32) for image in textures(3)]
    images[1][:4, :, 2] = -9999
    found = nodata_findings(scan_of(images), np.array(["train/0", "train/1", "train/2"]), nodata, -9999.0)
    assert [tile for finding in found for tile in finding.tiles] == concerned
    assert all(finding.what.endswith(f"data.nodata=-9999 leaves them out{said}") for finding in found)


def test_a_tag_of_many_digits_is_told_with_all_of_them():
    images = [image.astype(np.float32) for image in textures(3)]
    images[2][:4, :, 1] = np.finfo(np.float32).min  # of floats one band is enough, as data.nodata has it
    tag = float(np.finfo(np.float32).min)
    (found,) = nodata_findings(scan_of(images), np.array(["train/0", "train/1", "train/2"]), None, tag)
    assert found.tiles == ["train/2"]
    assert float(found.what.split("data.nodata=")[1].split()[0]) == tag


def test_test_labels_that_are_not_there_are_named_before_time_is_spent(root):
    values = tiny_values(root, root.parent) | {"folds": {"k": 2}}
    values["data"]["test_masks"] = "truth/{name}.png"
    config = write_config(root.parent / "config.yaml", values)
    with pytest.raises(UserError, match=r"2 test tiles have no mask truth/\{name\}\.png"):
        check.main(["--config", str(config)])


@pytest.mark.parametrize("nodata", ["nan", "-9999", "256", "0.5"])
def test_a_value_that_no_pixel_can_have_is_no_nodata(root, nodata):
    values = tiny_values(root, root.parent) | {"folds": {"k": 2}}
    config = write_config(root.parent / "config.yaml", values)
    with pytest.raises(UserError, match=rf"data\.nodata={nodata} is no value of uint8 \(0 to 255\)"):
        check.main(["--config", str(config), f"data.nodata={nodata}"])


def test_test_tiles_beside_train_tiles_are_told_of(tmp_path):
    """By their borders; the scene's test tiles stand at both ends, and the one in the middle of nowhere beside none."""
    rng = np.random.default_rng(5)
    scene = list(cut(draw_texture(rng, PX, 6 * PX, 4), PX).values())
    alone = textures(8, seed=6)
    for n, tile in enumerate([*scene[1:5], *alone[:6]]):
        write_tif(tmp_path / "data" / "train" / f"{n:06d}.tif", tile)
        write_mask(tmp_path / "data" / "train" / f"{n:06d}.png", np.resize([1, 2, 4, 2, 1], (PX, PX)).astype(np.uint8))
    for n, tile in enumerate([scene[0], alone[6], scene[5]]):
        write_tif(tmp_path / "data" / "test" / f"{n}.tif", tile)
    folder = run_check(tmp_path / "data")
    (finding,) = [each for each in read_json(folder / "check.json")["findings"] if each["kind"] == "test_beside_train"]
    assert finding["tiles"] == ["test/0", "test/2"]
    assert finding["what"].startswith("2 test tiles of 3")


def test_folds_from_elsewhere_that_lack_a_class_stop_the_run_unless_allowed(root):
    """Bare is in 4 of 16 tiles, each a group; the file lays all of them into one fold."""
    for n in range(4, 16):
        path = root / "train" / f"{n:06d}.png"
        write_mask(path, np.where(read_mask(path) == 4, 2, read_mask(path)).astype(np.uint8))
    file = root.parent / "mine.csv"
    file.write_text("name,fold\n" + "".join(f"{n:06d},{n // 8}\n" for n in range(16)))
    asked = {"groups": "none", "allow": ["neighbours_across_folds"]}
    assert "class_absent_in_fold" not in kinds(run_check(root, **asked))
    with pytest.raises(UserError, match=r"allow=\[class_absent_in_fold\]\): .*: fold 1 has no bare, though"):
        run_check(root, file=str(file), **asked)
    (root.parent / "runs" / "tiny" / "folds.csv").unlink()
    with pytest.raises(UserError, match="fold 1 has no bare"):
        run_check(root, "--folds", str(file), **asked)
    asked["allow"].append("class_absent_in_fold")
    assert kinds(run_check(root, file=str(file), **asked))["class_absent_in_fold"] == "error"


def test_a_group_larger_than_a_fold_is_said():
    train = table_of(6, 0).assign(group=list("aaaabc"))
    found = in_folds(train, np.array([0, 0, 0, 0, 1, 2]), links_of(), np.ones((6, 3), int), Folds(k=3))
    assert [f.kind for f in found] == ["large_group"]


def test_every_error_can_be_allowed_by_name():
    source = "".join((Path(check.__file__).parent / name).read_text() for name in ("audit.py", "fold_audit.py"))
    raised = {kind for kind in get_args(AuditError) if f'"{kind}"' in source}
    assert raised == set(get_args(AuditError))
