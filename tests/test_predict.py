"""Prediction: the same path for OOF, test and foreign images; what is predicted twice is the same to the byte."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio

from base.errors import UserError
from base.files import hash_file, hash_rows, hash_value, read_json
from base.version import code_version
from config import Run
from ensemble.apply import apply_blend
from ensemble.fitted import FittedSpecialist, uniform_blend
from ensemble.predict import decision_of, label_by_blend
from folds.images import read_image, read_mask
from pipeline import forward, mean, predict, waits
from pipeline.check import check_stores
from pipeline.finished import SECONDS
from pipeline.forward import Predictor
from pipeline.image_files import Wanted
from pipeline.images import batches_of
from pipeline.mean import mean_test
from pipeline.members import LoadedMember, load_member
from pipeline.predict import predict_oof, predict_test
from pipeline.quantise import quantise
from pipeline.scene import predict_scene
from pipeline.stopping import Stopped, StopRequest
from pipeline.store import PROBS, StoreWriter, open_store
from pipeline.to_host import ToHost
from tests.stored import read_many, read_many_raw
from tests.tiny import draw_image, draw_mask, tiny_values, write_tiny
from tests.trained import CPU, GO_ON, member_of, run_of, train_all


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    """Two trained members, of three folds, with last and averaged weights."""
    folder = tmp_path_factory.mktemp("predict")
    values = tiny_values(write_tiny(folder / "data", train=6, test=3), folder)
    values["train"] |= {"ema": {"decay": 0.5}, "epochs": 3}
    values["folds"]["k"] = 2
    return train_all(folder / "tiny.yaml", values)


def pixels_of(run: Run, names: list[str], split: str) -> np.ndarray:
    return np.stack([read_image(Path(run.experiment.data.root) / split / f"{name}.tif") for name in names])


def probs_of(loaded: LoadedMember, pixels_NHWB: np.ndarray, tile_N: list[int], run: Run) -> Iterator[np.ndarray]:
    return loaded.predictor(run.experiment.predict, "fp32", CPU).probs(pixels_NHWB, tile_N)


def test_oof_and_test_stores_hold_the_networks_probabilities_and_are_proven(config):
    run = run_of(config, "predict.tta=d4", "predict.batch=3")
    loaded = load_member(run, member_of(run), CPU)
    for path, split in (
        (predict_oof(run, member_of(run), CPU, GO_ON), "train"),
        (predict_test(run, member_of(run), CPU, GO_ON), "test"),
    ):
        store = open_store(path)
        pixels = pixels_of(run, store.names, split)
        predictor = loaded.predictor(run.experiment.predict, "fp32", CPU)
        (one_batch,) = predictor.probs(pixels, np.arange(3), batch=100)
        assert np.array_equal(read_many(store, range(3)).argmax(1), one_batch.argmax(1))
        assert np.abs(read_many(store, range(3)) - one_batch).max() <= 1.6 / 255
    assert len(check_stores(run, content=True)) == 2


def test_a_manifest_says_what_the_probabilities_were_made_from(config):
    """Spelled out here once more: with another word in it, the stores of every run there is would be none."""
    run = run_of(config, "predict.weights=ema", "predict.tta=none")
    weights = [hash_file(run.member_dir(each) / "weights" / "ema.safetensors") for each in run.members()]
    train, test = (hash_rows(run.tiles_csv, "split", split, ("image", "mask")) for split in ("train", "test"))
    inputs = {"oof": {"tiles.csv: train": train, "folds.csv": hash_file(run.folds_csv)}}
    inputs["test"] = inputs["oof"] | {"tiles.csv: test": test}
    stored = {"format", "tiles", "classes", "height", "width", "dtype", "codec", "bytes", "index_sha256"}
    for each in run.members():
        for kind, path in ("oof", predict_oof(run, each, CPU, GO_ON)), ("test", predict_test(run, each, CPU, GO_ON)):
            manifest = open_store(path).manifest
            assert {key: manifest[key] for key in manifest.keys() - stored} == {
                "kind": kind,
                "model": "unet",
                "fold": each.fold,
                "seed": 0,
                "target": "all",
                "variant": "ema-none",
                "weights": "ema",
                "weights_sha256": weights[each.fold],
                "inputs": inputs[kind],
                "keys_sha256": hash_value(run.member_keys(each.model)),
                "code": code_version(),
            }
    manifest = open_store(mean_test(run, run.experiment.models[0])).manifest
    assert {key: manifest[key] for key in manifest.keys() - stored} == {
        "kind": "test",
        "model": "unet",
        "variant": "ema-none",
        "members": {"unet/fold0-seed0": weights[0], "unet/fold1-seed0": weights[1]},
        "inputs": {"tiles.csv: test": test},
    }


def test_batches_of_one_size_give_every_tile_once(config, monkeypatch):
    """As on a GPU, which plans for each size anew."""
    run, sizes, read = (
        run_of(config, "predict.batch=4", "predict.tta=none", "predict.stretch=[2]"),
        [],
        forward.read_rows,
    )
    monkeypatch.setattr(forward, "read_rows", lambda *given: sizes.append(len(given[1])) or read(*given))
    loaded, pixels = load_member(run, member_of(run), CPU), pixels_of(run, ["000000", "000001", "000002"], "test")
    tile_N = np.array([2, 0, 1, 0, 2])
    short = list(probs_of(loaded, pixels, tile_N, run))
    monkeypatch.setattr(Predictor, "_fills", True)
    filled = list(probs_of(loaded, pixels, tile_N, run))
    assert [len(each) for each in filled] == [2, 2, 1]
    assert sizes == [2, 2, 1, 2, 2, 2]
    np.testing.assert_allclose(np.concatenate(filled), np.concatenate(short), atol=1e-6)
    next(probs_of(loaded, pixels, tile_N[:1], run))
    assert sizes[-1] == 1  # alone it is of one size already


def test_seconds_are_written_beside_a_store_with_what_was_waited_for(config, monkeypatch):
    run, now = run_of(config, "predict.batch=1", "predict.scales=[1.25]"), [0.0]

    def taking(seconds: float, owner: object, name: str) -> None:
        work = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given: now.__setitem__(0, now[0] + seconds) or work(*given))

    taking(1, forward, "read_rows")
    taking(10, ToHost, "arrays")
    taking(100, StoreWriter, "append")
    taking(1000, StoreWriter, "finish")
    taking(10000, forward, "predict_probs")
    for module in (waits, predict):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    waited = {"reading": 3, "device": 30, "store": 300, "end": 1000}
    took = read_json(predict_oof(run, member_of(run), CPU, GO_ON) / SECONDS)
    assert took == {"tiles": 3, "seconds": 31333, "waited": waited}


def test_several_weights_are_the_mean_of_their_probabilities(config):
    both = run_of(config, "predict.weights=[last, ema]")
    probs = {}
    for kind in ("last", "ema"):
        run = run_of(config, f"predict.weights={kind}", "predict.dtype=float16")
        probs[kind] = read_many(open_store(predict_oof(run, member_of(run), CPU, GO_ON)), range(3))
    assert np.abs(probs["last"] - probs["ema"]).max() > 0.01
    store = open_store(predict_oof(both, member_of(both), CPU, GO_ON))
    assert np.abs(read_many(store, range(3)) - (probs["last"] + probs["ema"]) / 2).max() <= 1.6 / 255
    assert store.manifest["weights_sha256"].count("+") == 1
    assert len(check_stores(both, content=True)) == 1


def test_stretched_pictures_take_part(config):
    plain, run = run_of(config), run_of(config, "predict.stretch=[2]")
    loaded = load_member(run, member_of(run), CPU)
    pixels = pixels_of(run, ["000000", "000001"], "test")
    with_it, without = (np.concatenate(list(probs_of(loaded, pixels, np.arange(2), each))) for each in (run, plain))
    assert np.abs(with_it - without).max() > 1e-3
    assert np.abs(with_it.sum(1) - 1).max() <= 1e-5


def test_a_stopped_prediction_leaves_nothing_and_the_next_gives_the_same_bytes(config):
    class StopAfter(StopRequest):
        left = 1

        def __bool__(self) -> bool:
            self.left -= 1
            return self.left < 0

    run = run_of(config, "predict.tta=none", "predict.batch=1")
    whole = hash_file(predict_oof(run, member_of(run), CPU, GO_ON) / PROBS)
    again = run_of(config, "predict.tta=none", "predict.batch=1", "name=again")
    run.dir.parent.joinpath("again").mkdir(exist_ok=True)
    for source in run.dir.rglob("*"):
        target = again.dir / source.relative_to(run.dir)
        if source.is_file() and "oof-" not in str(source):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    path = again.oof_store(member_of(again))
    left = path.parent / f".{path.name}.12345-0badcafe.part"
    left.mkdir()  # by a prediction that was killed
    (left / PROBS).write_bytes(b"half a store")
    with pytest.raises(Stopped):
        predict_oof(again, member_of(again), CPU, StopAfter())
    assert not [each for each in path.parent.iterdir() if "oof" in each.name]
    assert hash_file(predict_oof(again, member_of(again), CPU, GO_ON) / PROBS) == whole


def test_a_models_test_store_is_the_mean_of_its_members(config, monkeypatch):
    run = run_of(config, "predict.tta=hflip")
    parts = [open_store(predict_test(run, each, CPU, GO_ON)) for each in run.members()]
    expected = np.mean([read_many(part, range(3)) for part in parts], axis=0)
    own = [read_many_raw(part, [0, 2]) for part in parts]
    monkeypatch.setattr(mean, "EXCERPT", 2)
    store = open_store(mean_test(run, run.experiment.models[0]))
    assert np.array_equal(read_many_raw(store, range(3)), quantise(expected.astype(np.float32)))
    assert not any(run.test_part(each).exists() for each in run.members())
    assert len(check_stores(run, content=True)) == 1
    for each, kept, part in zip(run.members(), own, parts, strict=True):
        excerpt = open_store(run.test_excerpt(each))
        assert excerpt.names == [part.names[0], part.names[2]]
        assert np.array_equal(read_many_raw(excerpt, range(2)), kept)
        assert excerpt.manifest["weights_sha256"] == store.manifest["members"][str(each)]


def draw_scene(path: Path, height: int, width: int, bands: int = 4, dtype: str = "uint8", **place) -> np.ndarray:
    rng = np.random.default_rng([height, width])
    mask_HW = np.kron(draw_mask(rng, 40, [1, 2, 4]), np.ones((8, 8), np.uint8))[:height, :width]
    image_HWB = draw_image(rng, mask_HW, bands, dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", "GTiff", width, height, bands, dtype=dtype, **place) as file:
        file.write(np.moveaxis(image_HWB, -1, 0))
    return image_HWB


PLACE = {"crs": "EPSG:32650", "transform": rasterio.Affine(2, 0, 5000, 0, -2, 7000)}


def test_images_of_any_size_get_labels_that_lie_where_they_do(config, tmp_path):
    run = run_of(config, "predict.tta=d4")
    sizes = {"wide": (33, 97), "high": (130, 31), "tile": (32, 32), "also": (32, 32)}
    for name, size in sizes.items():
        draw_scene(tmp_path / "in" / f"{name}.tif", *size, **PLACE)
    overrides = ["--config", str(config), "predict.tta=d4"]
    ask = ["--model", "unet", "--images", str(tmp_path / "in" / "*.tif")]
    predict.main([*overrides, *ask, "--out", str(tmp_path / "out"), "--probs", "--format", "geotiff"])
    predict.main([*overrides, *ask, "--out", str(tmp_path / "png")])
    members = [load_member(run, each, CPU) for each in run.members()]
    for name, size in sizes.items():
        pixels = read_image(tmp_path / "in" / f"{name}.tif")[None]
        expected = np.mean(
            [np.concatenate(list(probs_of(m, pixels, [0], run))) for m in members],
            0,
        )[0]
        with rasterio.open(tmp_path / "out" / f"{name}.tif") as file:
            assert (file.crs, file.transform) == (PLACE["crs"], PLACE["transform"])
            assert file.colormap(1)[4][:3] == (128, 64, 0)
            label_HW = file.read(1)
        with rasterio.open(tmp_path / "out" / f"{name}.probs.tif") as file:
            assert file.descriptions == ("field", "forest", "bare")
            np.testing.assert_allclose(file.read(), expected, atol=1e-5)
        assert label_HW.shape == size
        assert np.array_equal(label_HW, np.array([1, 2, 4])[expected.argmax(0)])
        assert np.array_equal(label_HW, read_mask(tmp_path / "png" / f"{name}.png"))
    assert len(list((tmp_path / "png").iterdir())) == 4


def test_ground_control_points_are_passed_on(config, tmp_path):
    points = [
        rasterio.control.GroundControlPoint(row, col, 10.0 * col, -7.0 * row) for row in (0, 40) for col in (0, 40)
    ]
    draw_scene(tmp_path / "in" / "a.tif", 40, 40, gcps=points, crs="EPSG:4326")
    ask = ["--config", str(config), "--model", "unet", "--images", str(tmp_path / "in" / "*.tif")]
    predict.main([*ask, "--out", str(tmp_path / "out"), "--format", "geotiff"])
    with rasterio.open(tmp_path / "out" / "a.tif") as file:
        found, crs = file.gcps
    assert crs == "EPSG:4326"
    assert [(p.row, p.col, p.x, p.y) for p in found] == [(p.row, p.col, p.x, p.y) for p in points]


def test_labels_never_take_the_place_of_their_image(config, tmp_path):
    draw_scene(tmp_path / "in" / "a.tif", 40, 40)
    before = hash_file(tmp_path / "in" / "a.tif")
    ask = ["--config", str(config), "--model", "unet", "--images", str(tmp_path / "in" / "*.tif")]
    with pytest.raises(UserError, match=r"1 files there were not written by this command.*: a\.tif; name another"):
        predict.main([*ask, "--out", str(tmp_path / "in"), "--format", "geotiff"])
    predict.main([*ask, "--out", str(tmp_path / "in"), "--format", "png"])
    assert hash_file(tmp_path / "in" / "a.tif") == before


def test_only_files_of_this_command_are_replaced(config, tmp_path):
    """A mask beside its image has the name that its labels would have."""
    for name in ("a", "b"):
        draw_scene(tmp_path / "in" / f"{name}.tif", 40, 40)
    ask = ["--config", str(config), "--model", "unet", "--images", str(tmp_path / "in" / "[ab].tif")]
    out = ["--out", str(tmp_path / "out")]
    for format in ("png", "geotiff"):
        predict.main([*ask, *out, "--probs", "--format", format])
        predict.main([*ask, *out, "--probs", "--format", format])  # its own may be
    mask = tmp_path / "in" / "b.png"
    mask.write_bytes(b"a mask")
    for others in (mask, tmp_path / "in" / "a.probs.tif"):
        others.write_bytes(b"somebody's")
    with pytest.raises(UserError, match=r"2 files there were not written by this command.*: b\.png, a\.probs\.tif"):
        predict.main([*ask, "--out", str(tmp_path / "in"), "--probs"])
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["a.probs.tif", "a.tif", "b.png", "b.tif"]
    assert mask.read_bytes() == b"somebody's"
    with pytest.raises(UserError, match="is a file; name a folder"):
        predict.main([*ask, "--out", str(mask)])


def test_split_batches_are_predicted_in_smaller_ones(config, monkeypatch):
    seen, whole = [], Predictor.outputs

    def outputs(self, pixels_NHWB, tile_N, output, batch, waits):
        seen.append(batch)
        return whole(self, pixels_NHWB, tile_N, output, batch, waits)

    monkeypatch.setattr(Predictor, "outputs", outputs)
    for split in (1, 4, 64):
        run = run_of(config, "predict.tta=[rot90]", "predict.batch=16", f"jobs.split_batch={split}")
        path = predict_oof(run, member_of(run), CPU, GO_ON)
        shutil.rmtree(path)
        assert batches_of(run)(32, 32) == seen[-1]  # of other images too
        assert batches_of(run)(64, 32) == max(1, seen[-1] // 2)
    assert seen == [16, 4, 1]


def test_one_member_alone_can_be_asked(config, tmp_path):
    draw_scene(tmp_path / "in" / "a.tif", 40, 40)
    for fold in ("0", "1"):
        predict.main(
            ["--config", str(config), "--model", "unet", "--fold", fold, "--images", str(tmp_path / "in" / "*.tif"),
             "--out", str(tmp_path / fold), "--probs"]
        )  # fmt: skip
    probs = [rasterio.open(tmp_path / fold / "a.probs.tif").read() for fold in ("0", "1")]
    assert np.abs(probs[0] - probs[1]).max() > 0.01


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ([], [(0, 0), (1, 0), (0, 7), (1, 7)]),
        (["--seed", "7"], [(0, 7), (1, 7)]),
        (["--fold", "1"], [(1, 0)]),
        (["--fold", "1", "--seed", "7"], [(1, 7)]),
    ],
)
def test_images_are_labelled_by_the_members_that_are_named(config, tmp_path, monkeypatch, words, asked):
    seen = []
    monkeypatch.setattr(predict, "label_by_members", lambda run, members, *others: seen.extend(members) or 1)
    images = ["--images", str(tmp_path / "*.tif"), "--out", str(tmp_path / "out")]
    predict.main(["--config", str(config), "--model", "unet", *images, *words, "seeds=[0,7]"])
    assert [(each.fold, each.seed) for each in seen] == asked
    with pytest.raises(UserError, match="--seed 8: seeds are 0, 7"):
        predict.main(["--config", str(config), "--model", "unet", *images, "--seed", "8", "seeds=[0,7]"])


@pytest.mark.parametrize("size", [(64, 200), (200, 64), (150, 170), (30, 129)])
def test_a_scene_in_windows_is_the_scene_where_a_network_sees_pixels_alone(size):
    pixels = np.random.default_rng(0).random((*size, 3), np.float32)
    seen = []

    def predict_pixels(pixels_NHWB):
        seen.append(pixels_NHWB.shape)
        return np.moveaxis(pixels_NHWB, -1, 1).copy()

    probs = np.concatenate(list(predict_scene(pixels, predict_pixels, window_px=64)), axis=1)
    np.testing.assert_allclose(probs, np.moveaxis(pixels, -1, 0), atol=1e-6)
    assert all(shape[1] <= 64 and shape[2] <= 64 for shape in seen)


def test_windows_hide_what_a_network_does_at_its_borders():
    def with_borders(pixels_NHWB):
        probs = np.full((1, 1, *pixels_NHWB.shape[1:3]), 0.5, np.float32)
        probs[..., :3, :] = probs[..., -3:, :] = probs[..., :, :3] = probs[..., :, -3:] = 1.0
        return probs

    strips = list(predict_scene(np.zeros((200, 200, 1), np.uint8), with_borders, window_px=64))
    assert [strip.shape[1] for strip in strips] == [45, 46, 45, 64]
    inner = np.concatenate(strips, axis=1)[0, 4:-4, 4:-4]
    assert inner.max() < 0.65


def test_images_that_do_not_fit_are_refused_all_at_once(config, tmp_path):
    draw_scene(tmp_path / "in" / "good.tif", 40, 40)
    draw_scene(tmp_path / "in" / "rgb.tif", 40, 40, bands=3)
    draw_scene(tmp_path / "in" / "deep.tif", 40, 40, dtype="uint16")
    draw_scene(tmp_path / "in" / "sub" / "good.tif", 40, 40)
    (tmp_path / "in" / "text.tif").write_text("not an image")
    ask = ["--config", str(config), "--model", "unet", "--out", str(tmp_path / "out"), "--images"]
    with pytest.raises(UserError) as refusal:
        predict.main([*ask, str(tmp_path / "in" / "**" / "*.tif")])
    message = str(refusal.value)
    for part in ("3 bands", "uint16; the members were trained on uint8", "another file has the name good", "text.tif"):
        assert part in message
    with pytest.raises(UserError, match="nothing matches"):
        predict.main([*ask, str(tmp_path / "nothing" / "*.tif")])
    assert not (tmp_path / "out").exists()


def test_a_blend_labels_images_by_its_models_and_its_rule(config, tmp_path):
    run = run_of(config)
    pixels = draw_scene(tmp_path / "in" / "a.tif", 40, 50)[None]
    one = uniform_blend(["field", "forest", "bare"], ["unet"])
    members = [load_member(run, each, CPU) for each in run.members()]
    probs = np.mean([next(probs_of(m, pixels, np.arange(1), run)) for m in members], axis=0)[0]
    wanted = Wanted(str(tmp_path / "in" / "*.tif"), tmp_path / "out", "png", probs=True)
    for blend, index in (
        (one, probs.argmax(0)),
        (replace(one, offset_C=(0.0, 0.0, 2.0)), np.full((40, 50), 2)),
    ):
        assert label_by_blend(run, blend, wanted, CPU) == 1
        assert np.array_equal(read_mask(tmp_path / "out" / "a.png"), np.array([1, 2, 4])[index])
    np.testing.assert_allclose(rasterio.open(tmp_path / "out" / "a.probs.tif").read(), probs, atol=1e-5)


def test_a_blends_models_and_specialists_keep_their_channels():
    rng = np.random.default_rng(0)
    models, evidence = (
        rng.dirichlet(np.ones(3), (2, 6, 7)).transpose(0, 3, 1, 2).astype(np.float32),
        rng.random((1, 6, 7)),
    )
    specialist = FittedSpecialist("bare_unet", target=2, slope=1.0, bias=0.0, share=0.5)
    blend = replace(uniform_blend(["field", "forest", "bare"], ["a", "b"]), specialists=(specialist,))
    predicted = np.concatenate([*models, evidence])
    for given in (blend, replace(blend, min_px_C=(3, 3, 3), hole_px_C=(2, 0, 5))):
        expected, expected_index = apply_blend(given, models, evidence)
        for cut_at in ([], [2], [1, 4]):
            strips = np.split(predicted, cut_at, axis=1)
            probs, index = decision_of(given, keep_probs=True)(strips, 6)
            assert np.array_equal(probs, expected)
            assert np.array_equal(index, expected_index)
            assert np.array_equal(decision_of(given, keep_probs=False)(strips, 6)[1], expected_index)
    assert np.abs(probs - models.mean(0)).max() > 0.01
    assert not np.array_equal(expected_index, apply_blend(blend, models, evidence)[1])
