import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from base.errors import UserError
from base.files import read_json, write_json
from config import load_experiment, open_run
from config.data import IGNORE_INDEX
from folds.classes import ClassTable
from folds.images import full_scale, read_image, read_mask
from folds.tiles import make_tiles
from pipeline.pack import Pack, open_pack, read_rows
from tests.scenes import cut, draw_texture
from tests.tiny import draw_image, draw_mask, tiny_values, write_config, write_mask, write_tif, write_tiny


def pack_of(tmp_path, **data) -> tuple[Pack, ClassTable]:
    values = tiny_values(tmp_path / "data", tmp_path)
    values["data"] |= data
    run = open_run(load_experiment(write_config(tmp_path / "tiny.yaml", values)))
    return open_pack(run, make_tiles(run)), ClassTable.of(run.experiment.data)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_pack_holds_the_files_pixels_in_the_tables_order(tmp_path, dtype):
    root = write_tiny(tmp_path / "data", dtype=dtype)
    pack, classes = pack_of(tmp_path)
    assert pack.train_image_NHWB.dtype == dtype
    assert (len(pack.train_names), len(pack.test_names)) == (9, 4)
    for i, name in enumerate(pack.train_names):
        np.testing.assert_array_equal(pack.train_image_NHWB[i], read_image(root / "train" / f"{name}.tif"))
        np.testing.assert_array_equal(
            classes.to_label(pack.train_mask_NHW[i]), read_mask(root / "train" / f"{name}.png")
        )
    for i, name in enumerate(pack.test_names):
        np.testing.assert_array_equal(pack.test_image_NHWB[i], read_image(root / "test" / f"{name}.tif"))


def test_statistics_are_those_of_all_train_pixels(tmp_path):
    write_tiny(tmp_path / "data")
    pack, _ = pack_of(tmp_path)
    pixels = pack.train_image_NHWB.reshape(-1, 4) / full_scale(pack.train_image_NHWB.dtype)
    np.testing.assert_allclose(pack.mean_B, pixels.mean(0), rtol=1e-9)
    np.testing.assert_allclose(pack.std_B, pixels.std(0), rtol=1e-9)


def test_statistics_of_floats_far_from_0_are_exact(tmp_path):
    """Heights in metres: squares in float32 would be wrong by more than the variance."""
    root = write_tiny(tmp_path / "data")
    for path in root.rglob("*.tif"):
        write_tif(path, read_image(path).astype(np.float32) / 64 + 3000)
    pack, _ = pack_of(tmp_path)
    pixels = pack.train_image_NHWB.reshape(-1, 4).astype(np.float64)
    np.testing.assert_allclose(pack.mean_B, pixels.mean(0), rtol=1e-9)
    np.testing.assert_allclose(pack.std_B, pixels.std(0), rtol=1e-6)


def test_a_dead_band_has_std_1(tmp_path):
    root = write_tiny(tmp_path / "data")
    for path in (root / "train").glob("*.tif"):
        image = read_image(path)
        image[..., 2] = 9
        write_tif(path, image)
    pack, _ = pack_of(tmp_path)
    assert pack.std_B[2] == 1.0


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e6])
def test_a_band_of_a_small_unit_is_not_dead_and_a_constant_one_is(tmp_path, unit):
    root = write_tiny(tmp_path / "data")
    for path in (root / "train").glob("*.tif"):
        image = read_image(path).astype(np.float32) / 255 * np.float32(unit)
        image[..., 1] = 0.37 * unit
        write_tif(path, image)
    for path in (root / "test").glob("*.tif"):
        write_tif(path, read_image(path).astype(np.float32))
    pack, _ = pack_of(tmp_path)
    pixels = pack.train_image_NHWB.reshape(-1, 4).astype(np.float64)
    assert pack.std_B[1] == 1.0
    np.testing.assert_allclose(pack.std_B[[0, 2, 3]], pixels.std(0)[[0, 2, 3]], rtol=1e-6)


def test_ignored_pixels_become_255(tmp_path):
    root = write_tiny(tmp_path / "data")
    mask = read_mask(root / "train" / "000003.png")
    mask[:5] = 9
    write_mask(root / "train" / "000003.png", mask)
    pack, _ = pack_of(tmp_path, ignore_label=9)
    assert (pack.train_mask_NHW[3][:5] == IGNORE_INDEX).all()
    assert (pack.train_mask_NHW[3][5:] < 3).all()


def test_a_changed_file_gives_another_pack_and_the_old_one_stays(tmp_path):
    root = write_tiny(tmp_path / "data")
    before, _ = pack_of(tmp_path)
    rng = np.random.default_rng(5)
    write_tif(root / "train" / "000004.tif", draw_image(rng, read_mask(root / "train" / "000004.png"), 4))
    after, _ = pack_of(tmp_path)
    assert (before.train_image_NHWB[4] != after.train_image_NHWB[4]).any()
    np.testing.assert_array_equal(before.train_image_NHWB[:4], after.train_image_NHWB[:4])
    assert len([path for path in (tmp_path / "runs" / "packs").iterdir() if path.is_dir()]) == 2


def test_runs_on_the_same_tiles_share_one_pack_even_when_they_start_at_once(tmp_path):
    write_tiny(tmp_path / "data")
    run = open_run(load_experiment(write_config(tmp_path / "t.yaml", tiny_values(tmp_path / "data", tmp_path))))
    tiles = make_tiles(run)
    packs: list[Pack] = []
    threads = [threading.Thread(target=lambda: packs.append(open_pack(run, tiles))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(packs) == 4
    assert len([path for path in run.packs_dir.iterdir() if path.is_dir()]) == 1


def test_without_a_test_set_the_pack_has_no_test_tiles(tmp_path):
    write_tiny(tmp_path / "data")
    pack, _ = pack_of(tmp_path, test_images=None)
    assert pack.test_names == []
    assert len(pack.test_image_NHWB) == 0


def test_mixed_dtypes_are_refused_and_leave_nothing(tmp_path):
    root = write_tiny(tmp_path / "data")
    write_tif(root / "train" / "000005.tif", read_image(root / "train" / "000005.tif").astype(np.uint16))
    with pytest.raises(UserError, match="one dtype"):
        pack_of(tmp_path)
    assert not list((tmp_path / "runs").rglob("*.npy"))


def test_rows_of_a_map_are_read_without_touching_its_pages(tmp_path):
    array = np.random.default_rng(0).integers(0, 2**16, (300, 64, 64, 4), dtype=np.uint16)
    np.save(tmp_path / "array.npy", array)
    mapped = np.load(tmp_path / "array.npy", mmap_mode="r")
    rows = np.array([7, 299, 7, 0])
    before = mapped_kib()
    np.testing.assert_array_equal(read_rows(mapped, np.arange(300)), array)
    np.testing.assert_array_equal(read_rows(mapped, rows), array[rows])
    assert mapped_kib() - before < array.nbytes / 1024 / 4
    np.testing.assert_array_equal(read_rows(mapped[5:], rows[[0, 3]]), array[5:][rows[[0, 3]]])
    np.testing.assert_array_equal(read_rows(array, rows), array[rows])


def test_an_array_cut_short_is_said(tmp_path):
    path = tmp_path / "array.npy"
    np.save(path, np.ones((4, 32, 32, 4), np.uint8))
    mapped = np.load(path, mmap_mode="r")
    with open(path, "rb+") as file:
        file.truncate(path.stat().st_size - 100)
    with pytest.raises(UserError, match="cut short"):
        read_rows(mapped, np.array([3]))


def test_a_damaged_pack_is_said_with_every_array_and_what_to_run(tmp_path):
    write_tiny(tmp_path / "data")
    pack_of(tmp_path)
    (folder,) = (path for path in (tmp_path / "runs" / "packs").iterdir() if path.is_dir())
    os.truncate(folder / "train_mask.npy", 1000)
    (folder / "test_image.npy").unlink()
    with pytest.raises(UserError, match="delete it and run the same command again") as refused:
        pack_of(tmp_path)
    assert "train_mask.npy has 1000 bytes of 9344" in str(refused.value)
    assert "test_image.npy has 0 bytes of 16512" in str(refused.value)
    shutil.rmtree(folder)
    assert len(pack_of(tmp_path)[0].test_names) == 4


def test_a_pack_that_does_not_know_its_sizes_is_taken(tmp_path):
    write_tiny(tmp_path / "data")
    pack_of(tmp_path)
    (path,) = (tmp_path / "runs" / "packs").glob("*/pack.json")
    told = read_json(path)
    assert told.pop("bytes").keys() == {"train_image.npy", "train_mask.npy", "test_image.npy"}
    write_json(path, told)
    assert len(pack_of(tmp_path)[0].train_names) == 9


def mapped_kib() -> int:
    """File pages that are resident in this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssFile")).split()[1])


def test_data_sets_of_equal_names_sizes_and_times_share_nothing(tmp_path):
    """Two versions of a data set, unpacked with the times of their archives; moving one trains nothing again."""
    for n, version in enumerate(("v1", "v2")):
        write_tiny(tmp_path / version, seed=n)
        for path in (tmp_path / version).rglob("*.*"):
            if path.suffix == ".png":
                write_tif(path, read_mask(path)[..., None])  # as large as the other's, which a PNG is not
            os.utime(path, (0, 0))
    packs, contents = {}, set()
    for version in ("v1", "v2"):
        values = tiny_values(tmp_path / version, tmp_path) | {"name": version}
        run = open_run(load_experiment(write_config(tmp_path / f"{version}.yaml", values)))
        tiles = make_tiles(run)
        packs[version] = open_pack(run, tiles).train_image_NHWB
        contents |= set(tiles.sha256)
        for name, image_HWB in zip(tiles.image[tiles.split == "train"], packs[version], strict=True):
            np.testing.assert_array_equal(image_HWB, read_image(tmp_path / version / name))
    assert len(contents) == 2 * len(tiles)
    before = run.member_inputs() | run.test_inputs()
    (tmp_path / "v2").rename(tmp_path / "elsewhere")
    run = open_run(load_experiment(tmp_path / "v2.yaml", [f"data.root={tmp_path / 'elsewhere'}"]))
    np.testing.assert_array_equal(open_pack(run, make_tiles(run)).train_image_NHWB, packs["v2"])
    assert run.member_inputs() | run.test_inputs() == before


def test_a_run_whose_folder_is_another_one_reads_it_whatever_its_times(tmp_path):
    """Also its neighbours: the second data set has a scene, where the first has tiles of nothing in common."""
    rng = np.random.default_rng(8)
    scene = list(cut(draw_texture(rng, 64, 96, 4), 32).values())
    for version, images in (("v1", [draw_texture(rng, 32, 32, 4) for _ in range(6)]), ("v2", scene)):
        for n, image_HWB in enumerate(images):
            write_tif(tmp_path / version / "train" / f"{n}.tif", image_HWB)
            write_tif(tmp_path / version / "train" / f"{n}_m.tif", draw_mask(rng, 32, [1, 2, 4])[..., None])
        for path in (tmp_path / version).rglob("*.tif"):
            os.utime(path, (0, 0))
    groups = {}
    for version in ("v1", "v2"):
        values = tiny_values(tmp_path / version, tmp_path) | {"folds": {"groups": "mosaic"}}
        values["data"] |= {"test_images": None, "train_images": "train/*.tif", "train_masks": "train/{name}_m.tif"}
        run = open_run(load_experiment(write_config(tmp_path / "tiny.yaml", values)))
        groups[version] = make_tiles(run).group.nunique()
    assert groups == {"v1": 6, "v2": 1}
