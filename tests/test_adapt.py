"""`predict.adapt`: batch norms go by the tiles that are predicted, whatever else is asked for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from config import Member, Run
from ensemble.fitted import uniform_blend
from ensemble.predict import label_by_blend
from folds.images import read_image
from models.batch_statistics import update_batch_statistics
from pipeline import batch_norms as chosen
from pipeline.batch_norms import in_twos, share_of, spread_batches
from pipeline.image_files import Wanted
from pipeline.images import label_by_members
from pipeline.members import LoadedMember, load_member, load_network
from pipeline.predict import predict_oof, predict_test
from pipeline.stopping import Stopped, StopRequest
from pipeline.store import open_store
from tests.stored import read_many
from tests.tiny import draw_image, draw_mask, tiny_values, write_tif, write_tiny
from tests.trained import CPU, GO_ON, member_of, run_of, train_all


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    """Two trained members, of two folds, and test tiles that are darker than the train tiles."""
    folder = tmp_path_factory.mktemp("adapt")
    values = tiny_values(write_tiny(folder / "data", train=6, test=3), folder)
    for path in (folder / "data" / "test").glob("*.tif"):
        write_tif(path, (read_image(path) * 0.6).astype(np.uint8))
    values["train"]["epochs"] = 2
    values["folds"]["k"] = 2
    values["data"]["nodata"] = 0
    values["predict"] = {"adapt": True, "tta": "none"}
    return train_all(folder / "tiny.yaml", values)


def adapted(run: Run, member: Member, batches: list[np.ndarray]) -> LoadedMember:
    """By hand, to (n, H, W, B) pixels."""
    loaded, network = load_member(run, member, CPU), load_network(run, member, "last")
    images = [loaded.preparation(torch.from_numpy(in_twos(pixels_NHWB))) for pixels_NHWB in batches]
    update_batch_statistics(network, images, share_of(sum(map(len, batches))))
    return replace(loaded, networks=[network])


def probs_of(run: Run, loaded: LoadedMember, pixels_NHWB: np.ndarray) -> np.ndarray:
    predictor = loaded.predictor(run.experiment.predict, "fp32", CPU)
    return np.concatenate(list(predictor.probs(pixels_NHWB, np.arange(len(pixels_NHWB)))))


@pytest.mark.parametrize("fold", [0, 1])
def test_a_held_out_fold_is_predicted_by_its_own_statistics_and_test_tiles_by_theirs(config, fold):
    run, plain = run_of(config), run_of(config, "predict.adapt=false")
    member = member_of(run, fold)
    for predict, split in ((predict_oof, "train"), (predict_test, "test")):
        path = predict(run, member, CPU, GO_ON)
        store, as_trained = open_store(path), open_store(predict(plain, member, CPU, GO_ON))
        pixels = np.stack([read_image(Path(run.experiment.data.root) / split / f"{name}.tif") for name in store.names])
        expected = probs_of(run, adapted(run, member, [pixels]), pixels)
        assert np.abs(read_many(store, range(3)) - expected).max() <= 1.6 / 255
        assert np.abs(read_many(as_trained, range(3)) - expected).max() > 0.02
        assert path.name.endswith("-adapt")


@pytest.mark.parametrize("batch", [1, 2])
def test_what_is_adapted_to_does_not_depend_on_what_goes_through_at_once(config, batch):
    stores = [
        open_store(predict_oof(run, member_of(run), CPU, GO_ON))
        for run in (run_of(config), run_of(config, f"predict.batch={batch}", "predict.tta=['identity']"))
    ]
    assert stores[0].path != stores[1].path
    assert np.abs(read_many(stores[0], range(3)) - read_many(stores[1], range(3))).max() <= 1.1 / 255


def test_each_kind_of_weights_is_adapted(config, monkeypatch):
    run = run_of(config)
    seen = []
    monkeypatch.setattr("pipeline.members.adapt", lambda network, *others: seen.append(network))
    load_member(run, member_of(run), CPU, adapt_to=chosen.PixelSample(0, []))
    assert len(seen) == len(run.experiment.predict.weight_kinds)


def test_nothing_to_adapt_to_leaves_the_network_as_it_was_trained(config):
    run = run_of(config)
    pixels = np.stack([draw(3), draw(4)])
    none, plain = (load_member(run, member_of(run), CPU, sample) for sample in (chosen.PixelSample(0, []), None))
    assert np.array_equal(probs_of(run, none, pixels), probs_of(run, plain, pixels))


def test_a_stop_is_heard_before_the_next_batch_that_is_adapted_to(config, monkeypatch):
    class StopAfter(StopRequest):
        asked = 0

        def __bool__(self) -> bool:
            self.asked += 1
            return self.asked > 1

    run, stop = run_of(config, "predict.tta=hflip"), StopAfter()
    monkeypatch.setattr("pipeline.predict.spread_batches", lambda row_N, at_once: np.array_split(row_N, 3))
    with pytest.raises(Stopped):
        predict_test(run, member_of(run), CPU, stop)
    assert stop.asked == 2
    assert not run.test_part(member_of(run)).exists()


def draw(seed: int, height: int = 32, width: int = 32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mask_HW = draw_mask(rng, 80, [1, 2, 4])[:height, :width]
    return draw_image(rng, mask_HW, 4)


@pytest.mark.parametrize("by", ["members", "blend"])
def test_images_are_adapted_to_by_their_windows(config, tmp_path, by):
    """Two windows side by side; a smaller image, which is one; and one without data, which says nothing."""
    run = run_of(config)
    wide, small, empty = draw(5, 40, 70), draw(6, 30, 32), np.zeros((32, 32, 4), np.uint8)
    for name, image_HWB in (("wide", wide), ("small", small), ("empty", empty)):
        write_tif(tmp_path / "in" / f"{name}.tif", image_HWB)
    wanted = Wanted(str(tmp_path / "in" / "*.tif"), tmp_path / "out", "png", probs=True)
    members = [member_of(run, fold) for fold in (0, 1)]
    if by == "members":
        assert label_by_members(run, members, wanted, CPU) == 3
    else:
        assert label_by_blend(run, uniform_blend(["field", "forest", "bare"], ["unet"]), wanted, CPU) == 3
    windows = [small[None], np.stack([wide[:32, :32], wide[:32, 32:64]])]
    by_hand = [adapted(run, member, windows) for member in members]
    for name, image_HWB in (("wide", wide), ("small", small)):
        expected = np.mean([probs_of(run, each, image_HWB[None])[0] for each in by_hand], 0)
        found = rasterio.open(tmp_path / "out" / f"{name}.probs.tif").read()
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(("tiles", "at_once"), [(1, 4), (2, 1), (3, 2), (7, 3), (16, 16), (17, 16), (33, 8)])
def test_every_tile_is_in_one_batch_of_two_or_more_which_are_nearly_equal(tiles, at_once):
    batches = spread_batches(np.arange(10, 10 + tiles), at_once)
    sizes = [len(batch) for batch in batches]
    assert sorted(np.concatenate(batches)) == list(range(10, 10 + tiles))
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= max(at_once, 3)
    assert min(sizes) >= min(tiles, 2)


def test_of_many_tiles_some_stand_for_all_and_always_the_same(monkeypatch):
    monkeypatch.setattr(chosen, "MOST_TILES", 20)
    first, again = (np.concatenate(spread_batches(np.arange(100), 8)) for _ in range(2))
    assert len({*first.tolist()}) == 20
    assert first.min() < 20
    assert first.max() > 80
    assert np.array_equal(first, again)


@pytest.mark.parametrize(("tiles", "share"), [(0, 0), (1, 1 / 17), (16, 0.5), (24, 0.6), (30, 0.65), (3000, 0.65)])
def test_few_tiles_count_little_and_many_never_alone(tiles, share):
    assert share_of(tiles) == pytest.approx(share)


@pytest.mark.parametrize(("trained", "wanted"), [(2, 8), (3, 12), (4, 16), (8, 16), (32, 32)])
def test_statistics_are_of_more_tiles_at_once_than_trained_where_these_were_few(trained, wanted):
    assert chosen.batch_after_training(trained) == wanted
    assert chosen.batch_before_prediction(trained) == max(2, 16 // trained)
