from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from base.errors import UserError
from base.files import read_json
from config import Run, load_experiment, open_run
from folds import leak
from folds.classes import ClassTable
from folds.leak import WINDOWS_PX, _draw_groups, _row, measure_leak, pixel_features, sample_pixels
from folds.metrics import mean_iou
from folds.reader import TileReader
from folds.tiles import make_tiles
from tests.tiny import tiny_values, write_config, write_mask, write_tif

PX = 32


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(leak, "REPEATS", 1)
    monkeypatch.setattr(leak, "TREES", 12)
    monkeypatch.setattr(leak, "PIXELS_PER_TILE", 120)


def write_scenes(root: Path, scene_shift: float) -> Path:
    """Six scenes of four tiles; the classes' colours are far apart in a scene, and moved by another amount in each."""
    rng = np.random.default_rng(0)
    rows = []
    for n in range(24):
        scene = n // 4
        cells = rng.integers(0, 3, (4, 4)).repeat(8, 0).repeat(8, 1)
        cells.ravel()[:3] = (0, 1, 2)
        colour = 60 + 25 * cells + scene_shift * 25 * (scene * 7 % 6)
        image_HWB = colour[..., None] + rng.normal(0, 3, (PX, PX, 4))
        write_tif(root / "train" / f"{n:06d}.tif", np.clip(image_HWB, 0, 255).astype(np.uint8))
        write_mask(root / "train" / f"{n:06d}.png", np.array([1, 2, 4], np.uint8)[cells])
        rows.append(f"{n:06d},scene{scene}")
    (root / "scenes.csv").write_text("\n".join(["name,scene", *rows]) + "\n")
    return root


def config_of(root: Path, **folds) -> Path:
    values = tiny_values(root, root.parent)
    values["data"]["test_images"] = None
    values["folds"] |= folds
    return write_config(root.parent / "config.yaml", values)


def run_of(root: Path, **folds) -> Run:
    return open_run(load_experiment(config_of(root, **folds)))


def test_what_a_scene_gives_away_is_the_leak(tmp_path, capsys):
    """A scene's own colours are known to whoever saw another of its tiles, and to nobody else."""
    root = write_scenes(tmp_path / "data", scene_shift=1.0)
    leak.main(["--config", str(config_of(root)), "--json", str(tmp_path / "leak.json")])
    figures = read_json(tmp_path / "leak.json")
    assert figures["leak"] == pytest.approx(figures["random_miou"] - figures["grouped_miou"])
    assert figures["leak"] > 0.15
    assert f"random folds would have told you {figures['random_miou']:.3f}" in capsys.readouterr().out


def test_without_differences_between_scenes_there_is_no_leak(tmp_path):
    found = measure_leak(run_of(write_scenes(tmp_path / "data", scene_shift=0.0)))
    assert mean_iou(found.grouped_RCC)[0] > 0.9
    assert abs(mean_iou(found.random_RCC)[0] - mean_iou(found.grouped_RCC)[0]) < 0.03
    # Every sampled pixel is scored once, by a model that did not see its tile.
    assert found.random_RCC.sum() == found.grouped_RCC.sum() == 24 * 120


def test_single_tiles_have_nothing_to_compare(tmp_path):
    with pytest.raises(UserError, match=r"every tile is a group of its own \(folds.groups is none\)"):
        measure_leak(run_of(write_scenes(tmp_path / "data", 1.0), groups="none"))


def test_features_are_the_bands_and_their_means_around():
    rng = np.random.default_rng(1)
    image_HWB = rng.integers(0, 255, (40, 44, 3)).astype(np.uint8)
    features_HWF = pixel_features(image_HWB)
    assert features_HWF.shape == (40, 44, 3 * (1 + len(WINDOWS_PX)))
    np.testing.assert_array_equal(features_HWF[..., :3], image_HWB)
    for i, window in enumerate(WINDOWS_PX):
        around = image_HWB[20 - window // 2 : 21 + window // 2, 22 - window // 2 : 23 + window // 2]
        np.testing.assert_allclose(features_HWF[20, 22, 3 + 3 * i : 6 + 3 * i], around.mean((0, 1)), rtol=1e-4)


def test_the_same_pixels_are_drawn_whatever_the_order_and_ignored_ones_never(tmp_path):
    root = write_scenes(tmp_path / "data", 1.0)
    run = run_of(root)
    train, reader = make_tiles(run), TileReader.of(run.experiment.data)
    features, truth, tile = sample_pixels(train, reader, seed=0)
    back_features, back_truth, back_tile = sample_pixels(train[::-1], reader, seed=0)
    for n in range(24):
        np.testing.assert_array_equal(features[tile == n], back_features[back_tile == 23 - n])
        np.testing.assert_array_equal(truth[tile == n], back_truth[back_tile == 23 - n])
    assert (sample_pixels(train, reader, seed=1)[0] != features).any()
    ignoring = TileReader(root, ClassTable((1, 2), ("a", "b"), ((0, 0, 0), (1, 1, 1)), ignore_label=4))
    assert set(sample_pixels(train, ignoring, seed=0)[1]) == {0, 1}


def test_large_data_is_measured_on_some_tiles_of_enough_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(leak, "MAX_TILES", 12)
    found = measure_leak(run_of(write_scenes(tmp_path / "data", 1.0)))
    assert found.grouped_RCC.sum() == 12 * 120  # two tiles of each of six scenes


@pytest.mark.parametrize(("groups", "tiles"), [(20, 300), (12, 160), (8, 700), (5, 2000), (300, 1)])
def test_few_large_groups_give_enough_groups_and_not_all_their_tiles(groups, tiles):
    group_N = pd.Series(np.repeat([f"scene{i:03d}" for i in range(groups)], tiles))
    used = _draw_groups(group_N, k=5)
    drawn = group_N[used].value_counts()
    assert len(drawn) >= min(groups, 10)
    assert drawn.sum() <= 600
    assert drawn.sum() > 540 or used.all()


@pytest.mark.parametrize(("random", "said"), [(0.7, "+0.200"), (0.4997, "+0.000"), (0.5, "+0.000"), (0.45, "-0.050")])
def test_a_leak_of_nothing_has_no_minus(random, said):
    assert _row("bare", random, 0.5) == ("bare", f"{random:.3f}", "0.500", said)
