"""What a member's training is made of: its folds alone, the precision that was asked for, weights of every kind."""

import copy
import pickle
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from base.errors import UserError
from base.files import hash_file
from config import Member, Run, load_experiment, open_run
from config.losses import LogInverse
from folds.assign import make_folds, read_folds
from folds.classes import ClassTable
from folds.tiles import hist_of, read_tiles
from models.batch_statistics import update_batch_statistics
from models.class_weights import training_weights
from pipeline import batch_norms, forward, loop, train
from pipeline.augment import Sample
from pipeline.data import Batch, EpochBatches, collate
from pipeline.find_lr import find_lr
from pipeline.objective import Objective
from pipeline.setup import Setup, set_up
from pipeline.stopping import Stopped, StopRequest
from pipeline.train import plain_images, train_member
from tests.tiny import tiny_values, write_config, write_tiny

CPU = torch.device("cpu")


def run_of(tmp_path: Path, name: str = "tiny", **changes) -> Run:
    if not (tmp_path / "data").exists():
        write_tiny(tmp_path / "data")
    values = tiny_values(tmp_path / "data", tmp_path) | {"name": name}
    values["train"] |= {"precision": "fp32", "epochs": 1, "batch": 2, **changes}
    run = open_run(load_experiment(write_config(tmp_path / f"{name}.yaml", values)))
    make_folds(run)
    return run


def member_of(run: Run, fold: int = 0) -> Member:
    return Member(run.experiment.models[0], fold, 0)


def trained(run: Run, stop: StopRequest | None = None) -> Path:
    return train_member(run, member_of(run), CPU, stop or StopRequest())


class StopAtOnce(StopRequest):
    def __bool__(self) -> bool:
        return True


def steps_of(setup: Setup, count: int) -> None:
    """Optimizer steps on the member's own batches."""
    setup.batches.begin(0, end=1)
    setup.state.network.train()
    for batch in list(setup.loader)[:count]:
        loop.optimizer_step(setup.plan, setup.state, setup.objective, [batch], 1e-3)


@pytest.mark.parametrize("fold", [0, 2])
def test_class_weights_and_tiles_come_from_the_training_folds_alone(tmp_path, fold):
    run = run_of(tmp_path, class_weights={"name": "log_inverse"})
    setup = set_up(run, member_of(run, fold), CPU)
    folds, classes = read_folds(run.folds_csv), ClassTable.of(run.experiment.data)
    seen = (folds.fold != fold).to_numpy()
    count_C = hist_of(read_tiles(run.tiles_csv), classes)[seen].sum(0)
    expected = training_weights(LogInverse(), count_C, classes.names)
    torch.testing.assert_close(setup.objective.loss_fn.weight_C, torch.tensor(expected, dtype=torch.float32))
    for epoch in range(3):
        assert set(setup.batches.order_of_epoch(epoch)) == set(np.flatnonzero(seen))
    assert set(setup.loader.dataset.tile_N) == set(np.flatnonzero(seen))


def test_a_tile_looks_new_in_each_epoch_and_each_time_it_comes_within_one(tmp_path):
    run = run_of(tmp_path, augment=[{"name": "band_gain", "p": 1.0}])
    setup = set_up(run, member_of(run), CPU)
    tile, tiles = int(setup.train_N[0]), setup.loader.dataset
    keys = [(0, tile, 0), (0, tile, 1), (1, tile, 0)]
    seen = [tiles[key][1].image for key in keys]
    assert not any((seen[a] == seen[b]).all() for a, b in ((0, 1), (0, 2), (1, 2)))
    for key, image in zip(reversed(keys), reversed(seen), strict=True):
        assert (tiles[key][1].image == image).all()
    batches = EpochBatches(lambda epoch: np.array([tile, 7, tile, tile]), 4)
    batches.begin(4, end=5)
    assert list(batches) == [[(4, tile, 0), (4, 7, 0), (4, tile, 1), (4, tile, 2)]]


def keys_seen(run: Run, workers: int) -> list[list[tuple[int, int, int]]]:
    loaded = run.experiment.model_copy(
        update={"jobs": run.experiment.jobs.model_copy(update={"loader_workers": workers})}
    )
    setup = set_up(Run(loaded), member_of(run), CPU)
    setup.batches.begin(0, end=2)
    return [batch.keys for batch in setup.loader]


def test_loader_processes_work_where_processes_are_spawned(tmp_path):
    """As in a process that was spawned itself, whose way its own processes would go by default."""
    run = run_of(tmp_path, augment=[{"name": "d4", "p": 1.0}, {"name": "copy_paste", "params": {"classes": ["bare"]}}])
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(keys_seen, run, 2).result() == keys_seen(run, 0) != []


def test_epochs_are_one_stream_that_can_be_entered_anywhere():
    batches = EpochBatches(lambda epoch: np.arange(7) * (epoch + 1), 3)  # two batches, and a tile that comes no more
    batches.begin(0, end=3)
    stream = list(batches)
    assert stream == [[(e, t * (e + 1), 0) for t in ts] for e in range(3) for ts in ([0, 1, 2], [3, 4, 5])]
    for epoch, first in ((0, 1), (1, 0), (2, 1)):
        batches.begin(epoch, first, end=3)
        assert list(batches) == stream[2 * epoch + first :]
    batches.begin(1)
    assert list(islice(batches, 5))[:4] == stream[2:]


def test_a_batch_knows_its_valid_pixels_and_second_targets_only_where_tiles_were_mixed():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (4, 6, 3), dtype=np.uint8)
    first, second = (rng.integers(0, 3, (4, 6), dtype=np.uint8) for _ in range(2))
    first[0], second[:2] = 255, 255  # 18 and 12 valid pixels
    plain, mixed = Sample(image, first, first, 1.0), Sample(image, first, second, 0.25)
    batch = collate([((0, 0, 0), plain), ((0, 1, 0), plain)])
    assert (batch.second_NHW, batch.share_N, batch.valid_N, batch.valid) == (None, None, [18.0, 18.0], 36.0)
    batch = collate([((0, 0, 0), plain), ((0, 1, 0), mixed), ((0, 2, 0), mixed)])
    assert batch.valid_N == [18.0, 0.25 * 18 + 0.75 * 12, 13.5]
    assert (batch.second_NHW.numpy() == np.stack([first, second, second])).all()
    assert batch.share_N.tolist() == [1.0, 0.25, 0.25]
    parts = collate([((0, i, 0), mixed) for i in range(4)]).split(2)
    assert [(part.keys, part.valid, part.share_N.tolist()) for part in parts] == [
        ([(0, 0, 0), (0, 1, 0)], 27.0, [0.25, 0.25]),
        ([(0, 2, 0), (0, 3, 0)], 27.0, [0.25, 0.25]),
    ]


def test_fewer_tiles_than_a_batch_are_one():
    batches = EpochBatches(lambda epoch: np.arange(2), 8)
    batches.begin(0, end=1)
    assert list(batches) == [[(0, 0, 0), (0, 1, 0)]]


def test_a_specialists_class_is_weighed_against_all_others(tmp_path):
    values = tiny_values(write_tiny(tmp_path / "data"), tmp_path)
    values["models"] = [values["models"][0] | {"target": "bare"}, values["models"][0] | {"name": "all"}]
    values["train"]["class_weights"] = {"name": "log_inverse"}
    run = open_run(load_experiment(write_config(tmp_path / "bare.yaml", values)))
    make_folds(run)
    setup = set_up(run, member_of(run), CPU)
    count_C = hist_of(read_tiles(run.tiles_csv), ClassTable.of(run.experiment.data))[setup.train_N].sum(0)
    bare = count_C[setup.class_index]
    expected = training_weights(LogInverse(), np.array([count_C.sum() - bare, bare]), ["other", "bare"])
    torch.testing.assert_close(setup.objective.loss_fn.weight_C, torch.tensor(expected, dtype=torch.float32))


class Touch:
    """What an evil checkpoint holds: unpickling it calls a function."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_checkpoint_runs_no_code(tmp_path):
    run = run_of(tmp_path)
    with pytest.raises(Stopped):
        trained(run, StopAtOnce())
    path = run.member_dir(member_of(run)) / "last.pt"
    saved = torch.load(path, weights_only=True)
    torch.save(saved | {"log": [Touch(tmp_path / "was here")]}, path)
    with pytest.raises(UserError, match="not a checkpoint of ours"):
        trained(run)
    assert not (tmp_path / "was here").exists()
    with open(tmp_path / "plain.pickle", "wb") as file:  # that it would have been called
        pickle.dump(Touch(tmp_path / "was here"), file)
    pickle.loads((tmp_path / "plain.pickle").read_bytes())
    assert (tmp_path / "was here").exists()


def test_fp16_scales_the_loss_unscales_before_clipping_and_resumes(tmp_path):
    gradients = {}
    for precision in ("fp32", "fp16"):
        run = run_of(tmp_path, precision, precision=precision, clip_grad_norm=0.1)
        setup = set_up(run, member_of(run), CPU)
        assert setup.state.scaler.is_enabled() == (setup.objective.dtype == torch.float16) == (precision == "fp16")
        steps_of(setup, 1)
        weights = [weight for weight in setup.state.network.parameters() if weight.grad is not None]
        gradients[precision] = torch.cat([weight.grad.ravel() for weight in weights])
        assert gradients[precision].norm() == pytest.approx(0.1, rel=1e-3)  # clipped
    assert torch.nn.functional.cosine_similarity(gradients["fp32"], gradients["fp16"], dim=0) > 0.99

    whole = run_of(tmp_path, "whole", precision="fp16", epochs=2)
    setup = set_up(whole, member_of(whole), CPU)
    expected = {path.name: hash_file(path) for path in (trained(whole) / "weights").iterdir()}
    stopped = run_of(tmp_path, "stopped", precision="fp16", epochs=2)
    with pytest.raises(Stopped):
        trained(stopped, StopAtOnce())
    path = stopped.member_dir(member_of(stopped)) / "last.pt"
    saved = torch.load(path, weights_only=True)
    torch.save(saved | {"scaler": saved["scaler"] | {"scale": 4096.0}}, tmp_path / "other.pt")
    setup.state.load(tmp_path / "other.pt", saved["identity"], CPU)
    assert setup.state.scaler.get_scale() == 4096
    assert {path.name: hash_file(path) for path in (trained(stopped) / "weights").iterdir()} == expected


def test_a_step_that_overflows_in_fp16_is_left_out_and_the_scale_halved(tmp_path):
    run = run_of(tmp_path, precision="fp16", loss=[{"name": "ce"}])
    setup = set_up(run, member_of(run), CPU)
    setup.state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = copy.deepcopy(setup.state.network.state_dict())
    steps_of(setup, 1)
    for name, value in setup.state.network.named_parameters():
        assert torch.equal(value, before[name]), name
    assert setup.state.scaler.get_scale() == 2.0**39


def test_a_loss_that_is_not_finite_leaves_the_weights_alone(tmp_path, monkeypatch):
    run = run_of(tmp_path)
    setup = set_up(run, member_of(run), CPU)
    before = copy.deepcopy(dict(setup.state.network.named_parameters()))
    monkeypatch.setattr(Objective, "loss_of", lambda objective, logits_NCHW, batch: logits_NCHW.sum() * torch.inf)
    with pytest.raises(UserError, match="no step was taken with it"):
        steps_of(setup, 1)
    for name, value in setup.state.network.named_parameters():
        assert torch.equal(value, before[name]), name


def test_bf16_and_fp32_are_what_they_say(tmp_path):
    dtypes = {}
    for precision in ("bf16", "fp32"):
        run = run_of(tmp_path, precision, precision=precision)
        setup = set_up(run, member_of(run), CPU)
        seen = []
        first = next(m for m in setup.state.network.modules() if isinstance(m, torch.nn.Conv2d))
        first.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output.dtype))
        steps_of(setup, 1)
        dtypes[precision] = seen
        assert {weight.dtype for weight in setup.state.network.parameters()} == {torch.float32}
        assert first.weight.is_contiguous(memory_format=torch.channels_last)
        assert not setup.state.scaler.is_enabled()
    assert dtypes == {"bf16": [torch.bfloat16], "fp32": [torch.float32]}


def test_a_compiled_network_is_trained_and_its_weights_have_the_same_names(tmp_path, monkeypatch):
    asked = []
    compiler = torch.compile

    def compiled(network):
        asked.append(network)
        return compiler(network, backend="eager")  # traced, but not handed to a C++ compiler, which takes minutes

    monkeypatch.setattr(train.torch, "compile", compiled)
    plain = load_file(trained(run_of(tmp_path, "plain")) / "weights" / "last.safetensors")
    assert not asked
    ours = load_file(trained(run_of(tmp_path, "compiled", compile=True)) / "weights" / "last.safetensors")
    assert len(asked) == 1
    assert ours.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4)


def test_a_network_that_cannot_be_compiled_is_the_users_to_mend(tmp_path, monkeypatch):
    def no_compiler(graph, example_inputs):
        raise FileNotFoundError("no C++ compiler")

    compiler = torch.compile
    monkeypatch.setattr(train.torch, "compile", lambda network: compiler(network, backend=no_compiler))
    run = run_of(tmp_path, compile=True)
    with pytest.raises(UserError, match=r"cannot be compiled here: .*no C\+\+ compiler.*set train.compile to false"):
        trained(run)
    assert not list(run.member_dir(member_of(run)).rglob("*.safetensors"))


@pytest.mark.parametrize("arch", ["UPerNet", "UnetPlusPlus"])
def test_averages_are_finished_on_tiles_whose_side_fits_no_network(tmp_path, arch):
    values = tiny_values(write_tiny(tmp_path / "data", px=40), tmp_path)
    values["models"] = [{"name": "net", "arch": arch, "encoder": "resnet18"}]
    values["train"] |= {"ema": {"decay": 0.9}, "epochs": 1}
    run = open_run(load_experiment(write_config(tmp_path / "tiny.yaml", values)))
    make_folds(run)
    assert (trained(run) / "weights" / "ema.safetensors").exists()


@pytest.mark.parametrize("arch", ["DeepLabV3Plus", "Unet"])  # of a mean over the image; of 32 px in the deepest layer
def test_one_tile_at_a_time_is_the_users_to_mend(tmp_path, arch):
    values = tiny_values(write_tiny(tmp_path / "data"), tmp_path)
    values["models"] = [{"name": "net", "arch": arch, "encoder": "resnet18"}]
    values["train"] |= {"batch": 1}
    run = open_run(load_experiment(write_config(tmp_path / "tiny.yaml", values)))
    make_folds(run)
    said = f"{arch} with resnet18 has a layer of one pixel per image.*train.batch.*they are 1 and 1"
    with pytest.raises(UserError, match=said):
        trained(run)
    with pytest.raises(UserError, match=said):
        find_lr(run, member_of(run), CPU, np.geomspace(1e-6, 1.0, 10))


@pytest.mark.parametrize(("tiles", "parts"), [(10, 4), (7, 3), (16, 6), (5, 8), (2, 2), (1, 3), (8, 1)])
def test_parts_of_a_batch_differ_by_one_tile_and_none_is_of_one(tiles, parts):
    pixels = torch.arange(tiles * 3).reshape(tiles, 1, 1, 3)
    batch = Batch([(0, n, 0) for n in range(tiles)], pixels, pixels[..., 0], pixels[..., 1], torch.ones(tiles))
    found = batch.split(parts)
    sizes = [len(part.keys) for part in found]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= min(2, tiles)
    assert len(found) == max(1, min(parts, tiles // 2))
    assert torch.equal(torch.cat([part.pixels_NHWB for part in found]), pixels)
    assert [key for part in found for key in part.keys] == batch.keys


def test_a_checkpoint_without_a_scale_goes_on_in_fp16(tmp_path):
    """Saved in bf16, which has no scaler, and taken up by a GPU that has no bf16."""
    run = run_of(tmp_path)
    setup = set_up(run, member_of(run), CPU)
    setup.state.save(tmp_path / "last.pt", {})
    setup.state.scaler = torch.amp.GradScaler("cpu", enabled=True, init_scale=8.0)
    setup.state.load(tmp_path / "last.pt", {}, CPU)
    assert setup.state.scaler.get_scale() == 8.0


def test_another_programs_file_is_no_checkpoint(tmp_path):
    run = run_of(tmp_path)
    torch.save({"model": {}}, tmp_path / "last.pt")
    with pytest.raises(UserError, match="not a checkpoint of ours"):
        set_up(run, member_of(run), CPU).state.load(tmp_path / "last.pt", {}, CPU)


KINDS = {
    "last": {},
    "ema": {"ema": {"decay": 0.5}},
    "swa": {"swa": {"start_epoch": 0, "lr": 1e-3}},
    "best": {"validate_every": 1},
}


@pytest.mark.parametrize("kind", KINDS)
def test_weights_predict_with_the_statistics_of_the_training_tiles_as_they_are(tmp_path, kind):
    run = run_of(tmp_path, augment=[{"name": "band_gain", "p": 1.0, "params": {"gain": 0.5}}], **KINDS[kind])
    setup, written = set_up(run, member_of(run), CPU), load_file(trained(run) / "weights" / f"{kind}.safetensors")
    network = setup.state.network
    network.load_state_dict(written)
    update_batch_statistics(network, plain_images(setup, StopRequest()))
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, written[name], rtol=1e-4, atol=1e-5, msg=name)


def test_running_statistics_are_torchs_of_the_last_weights_and_no_average_s(tmp_path):
    weights = {}
    for which in ("estimated", "running"):
        run = run_of(tmp_path, which, batch_statistics=which, ema={"decay": 0.5}, validate_every=1)
        weights[which] = {
            kind: load_file(trained(run) / "weights" / f"{kind}.safetensors") for kind in ("last", "ema", "best")
        }
    for kind, estimated in weights["estimated"].items():
        differing = {
            name for name, value in estimated.items() if not torch.equal(value, weights["running"][kind][name])
        }
        assert bool(differing) == (kind != "ema")
        assert {name.rpartition(".")[2] for name in differing} <= {"running_mean", "running_var", "num_batches_tracked"}


def test_statistics_are_of_every_training_tile_once_and_as_it_is(tmp_path, monkeypatch):
    run = run_of(tmp_path, augment=[{"name": "band_gain", "p": 1.0, "params": {"gain": 0.5}}])
    setup = set_up(run, member_of(run), CPU)
    tiles = setup.objective.preparation(torch.from_numpy(setup.pack.train_image_NHWB[setup.train_N]))
    read, rows = forward.read_rows, []
    monkeypatch.setattr(forward, "read_rows", lambda *args: rows.extend(args[1]) or read(*args))  # not through the map
    monkeypatch.setattr(batch_norms, "BATCH", 2)
    batches = list(plain_images(setup, StopRequest()))
    assert sorted(rows) == setup.train_N.tolist()
    assert [len(batch) for batch in batches] == [2, 2, 2]
    place_of = [[n for n in range(len(tiles)) if torch.equal(tile, tiles[n])] for tile in torch.cat(batches)]
    assert sorted(place_of) == [[n] for n in range(6)]
    assert place_of != sorted(place_of)  # by name a batch would be of one scene


@pytest.mark.parametrize("channels_last", [True, False])
def test_images_weights_and_all_between_have_the_layout_that_was_asked_for(tmp_path, channels_last):
    run = run_of(tmp_path, channels_last=channels_last)
    setup = set_up(run, member_of(run), CPU)
    seen = []
    for layer in setup.state.network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(lambda layer, given, output: seen.extend([*given, output]))
    seen += list(plain_images(setup, StopRequest()))
    seen += [weight for weight in setup.state.network.parameters() if weight.ndim == 4 and weight.shape[-1] > 1]
    setup.objective.loss(collate([setup.loader.dataset[(0, int(tile), 0)] for tile in setup.train_N[:3]]))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert len(seen) > 20
    assert all(each.is_contiguous(memory_format=layout) for each in seen)
