"""A member's training: the same bits however often it is stopped, killed or loaded by how many workers."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from base.errors import UserError
from base.files import hash_file
from config import Member, Run, load_experiment, open_run
from folds.assign import make_folds, read_folds
from folds.metrics import confusion
from models import batch_statistics
from models.averaging import Averages
from models.losses import build_loss
from models.zoo import build_model
from pipeline import loop, train
from pipeline.checkpoint import TrainState
from pipeline.costs import Cost, checkpoint_bytes
from pipeline.data import Batch
from pipeline.finished import steps_left
from pipeline.mean import mean_test
from pipeline.members import add_member_options, load_member, load_network, member_is_finished
from pipeline.members import member_of as named_member
from pipeline.objective import Objective
from pipeline.predict import predict_oof, predict_test
from pipeline.prepare import Preparation
from pipeline.record import LOG_COLUMNS, MemberRecord, read_log, weights_path, write_log
from pipeline.schedule import Plateau, build_optimizer
from pipeline.stopping import Stopped, StopRequest
from pipeline.store import open_store
from pipeline.train import train_member
from tests.stored import read_many
from tests.tiny import tiny_values, write_config, write_tiny

CPU = torch.device("cpu")
ROOT = Path(__file__).parent.parent


class StopAfter(StopRequest):
    """Asks for an end after a number of steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def __bool__(self) -> bool:
        self.left -= 1
        return self.left < 0


def run_of(tmp_path: Path, name: str = "tiny", **train) -> Run:
    if not (tmp_path / "data").exists():
        write_tiny(tmp_path / "data")
    values = tiny_values(tmp_path / "data", tmp_path)
    values["train"] |= {"precision": "fp32", **train}
    values["name"] = name
    config = write_config(tmp_path / f"{name}.yaml", values)
    run = open_run(load_experiment(config))
    make_folds(run)
    return run


def member_of(run: Run, fold: int = 0) -> Member:
    return Member(run.experiment.models[0], fold, run.experiment.seeds[0])


def bits(run: Run, member: Member) -> dict[str, str]:
    """Hashes of all that training leaves: each kind of weights, and the log."""
    folder = run.member_dir(member)
    return {path.name: hash_file(path) for path in [*folder.glob("weights/*"), folder / "log.csv"]}


LATE_SWA = {"start_epoch": 1, "lr": 1e-4}
EVERYTHING = {
    "epochs": 3,
    "batch": 2,
    "validate_every": 1,
    "accumulate": {"steps": 2},
    "ema": {"decay": 0.9},
    "swa": LATE_SWA,
    "augment": [{"name": "d4", "p": 1.0}, {"name": "band_gain", "p": 0.5}],
    "sampler": {"name": "repeat_factor", "threshold": 0.9},
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    tmp_path = tmp_path_factory.mktemp("undisturbed")
    run = run_of(tmp_path, "undisturbed", **EVERYTHING)
    train_member(run, member_of(run), CPU, StopRequest())
    return tmp_path, bits(run, member_of(run))


def test_training_leaves_every_kind_of_weights_a_log_and_a_record(undisturbed):
    tmp_path, hashes = undisturbed
    assert set(hashes) == {"last.safetensors", "best.safetensors", "ema.safetensors", "swa.safetensors", "log.csv"}
    assert len(set(hashes.values())) >= 4  # the best epoch may be the last
    run = run_of(tmp_path, "undisturbed", **EVERYTHING)
    member = member_of(run)
    assert member_is_finished(run, member)
    log = pd.read_csv(run.member_dir(member) / "log.csv")
    assert log.epoch.tolist() == [1, 2, 3]
    assert log[["lr", "loss", "val_miou"]].notna().all(axis=None)
    record, folds = MemberRecord.read(run.member_dir(member)), read_folds(run.folds_csv)
    assert record.held_out == folds.name[folds.fold == 0].tolist()
    assert record.train_tiles == folds.name[folds.fold != 0].tolist()


def test_the_log_is_read_as_it_was_written(tmp_path):
    assert read_log(tmp_path) is None
    write_log(tmp_path, [])
    assert read_log(tmp_path) is None
    rows = [{"epoch": 1, "lr": 0.1 + 0.2, "loss": 1.75, "val_miou": None},
            {"epoch": 2, "lr": 1e-9, "loss": 0.5, "val_miou": 1 / 3}]  # fmt: skip
    write_log(tmp_path, rows)
    read = read_log(tmp_path)
    pd.testing.assert_frame_equal(read, pd.DataFrame(rows), check_exact=False, rtol=1e-15)
    assert list(read) == LOG_COLUMNS


@pytest.mark.parametrize("stops", [[0], [1], [2, 1], [3, 0, 0]])
def test_a_stopped_run_ends_with_the_bits_of_an_undisturbed_one(undisturbed, stops):
    tmp_path, expected = undisturbed
    name = f"stopped-{'-'.join(map(str, stops))}"
    run = run_of(tmp_path, name, **EVERYTHING)
    for steps in stops:
        with pytest.raises(Stopped):
            train_member(run, member_of(run), CPU, StopAfter(steps))
        torch.rand(7)  # what else the process draws must not matter
    train_member(run, member_of(run), CPU, StopRequest())
    assert bits(run, member_of(run)) == expected


def test_dropout_the_plateau_and_the_best_epoch_survive_a_stop(tmp_path, monkeypatch):
    def trained(name: str, stops: list[int]) -> tuple[dict[str, str], list[float]]:
        write_tiny(tmp_path / "data")
        values = tiny_values(tmp_path / "data", tmp_path) | {"name": name}
        small = {"decoder_pyramid_channels": 16, "decoder_segmentation_channels": 32, "decoder_dropout": 0.5}
        values["models"] = [{"name": "fpn", "arch": "FPN", "encoder": "resnet18", "params": small}]
        values["train"] = {"epochs": 4, "batch": 2, "precision": "fp32", "validate_every": 1, "clip_grad_norm": None,
                           "schedule": {"name": "plateau", "patience": 1, "factor": 0.1}}  # fmt: skip
        run = open_run(load_experiment(write_config(tmp_path / f"{name}.yaml", values)))
        make_folds(run)
        scores = iter([0.9, 0.5, 0.4, 0.3])  # the first epoch is the best, and the rate falls after the third
        monkeypatch.setattr("pipeline.train.mean_iou", lambda conf_CC: next(scores))
        for steps in stops:
            with pytest.raises(Stopped):
                train_member(run, member_of(run), CPU, StopAfter(steps))
            torch.rand(7)
        train_member(run, member_of(run), CPU, StopRequest())
        return bits(run, member_of(run)), pd.read_csv(run.member_dir(member_of(run)) / "log.csv").lr.tolist()

    undisturbed, rates = trained("undisturbed", [])
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 1e-4])
    assert undisturbed["best.safetensors"] != undisturbed["last.safetensors"]
    assert trained("stopped", [4, 3])[0] == undisturbed


class Killed(BaseException):
    """As a SIGKILL it is caught by nobody."""


def tile_by_tile(run: Run) -> Run:
    """The run, with held-out tiles scored one at a time."""
    predict = run.experiment.predict.model_copy(update={"batch": 1})
    return Run(run.experiment.model_copy(update={"predict": predict}))


def place_of(run: Run) -> tuple[int, int]:
    """Epochs and micro-batches that a checkpoint holds."""
    saved = torch.load(run.member_dir(member_of(run)) / "last.pt", weights_only=True)
    return saved["epoch"], saved["micro_step"]


def test_a_run_that_is_killed_while_it_is_scored_has_lost_no_step_that_was_due_to_be_saved(undisturbed, monkeypatch):
    tmp_path, expected = undisturbed
    run = tile_by_tile(run_of(tmp_path, "killed-scoring", **EVERYTHING))
    now, scored = [0.0], []

    def slow(pred_NHW, truth_NHW, num_classes):
        now[0] += 100.0  # longer than jobs.checkpoint_s
        scored.append(len(pred_NHW))
        if len(scored) == 5:  # in the second epoch
            raise Killed
        return confusion(pred_NHW, truth_NHW, num_classes)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))
        patched.setattr(train, "confusion", slow)
        with pytest.raises(Killed):
            train_member(run, member_of(run), CPU, StopRequest())
    assert scored == [1] * 5
    assert place_of(run) == (1, 3)
    torch.rand(7)
    train_member(run, member_of(run), CPU, StopRequest())
    assert bits(run, member_of(run)) == expected


def test_a_stop_is_heard_while_tiles_are_scored_and_while_statistics_are_estimated(undisturbed, monkeypatch):
    tmp_path, expected = undisturbed
    run = tile_by_tile(run_of(tmp_path, "stopped-between", **EVERYTHING))
    stop, seen = StopAfter(10**9), []

    def then_stop(work, place):
        def done(*args):
            seen.append(place)
            stop.left = 0
            return work(*args)

        return done

    for module, place, at in ((train, "confusion", (0, 3)), (batch_statistics, "padded_logits", (3, 0))):
        with monkeypatch.context() as patched:
            patched.setattr(module, place, then_stop(getattr(module, place), place))
            with pytest.raises(Stopped):
                train_member(run, member_of(run), CPU, stop)
        stop.left = 10**9
        assert place_of(run) == at
        torch.rand(7)
    assert seen == ["confusion", "padded_logits"]  # after one tile, and after one batch
    train_member(run, member_of(run), CPU, StopRequest())
    assert bits(run, member_of(run)) == expected


def test_loader_workers_change_no_bit(undisturbed):
    tmp_path, expected = undisturbed
    run = run_of(tmp_path, "workers", **EVERYTHING)
    experiment = run.experiment.model_copy(
        update={"jobs": run.experiment.jobs.model_copy(update={"loader_workers": 2})}
    )
    train_member(Run(experiment), member_of(run), CPU, StopRequest())
    assert bits(run, member_of(run)) == expected


def test_a_killed_process_ends_with_the_bits_of_an_undisturbed_one(undisturbed):
    tmp_path, expected = undisturbed
    run = run_of(tmp_path, "killed", **EVERYTHING)
    config = str(tmp_path / "killed.yaml")
    command = [sys.executable, "-m", "pipeline.train", "--config", config, "--model", "unet", "--fold", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = run.member_dir(member_of(run))
    while process.poll() is None and not (folder / "stamp.json").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True).returncode == 0
    assert bits(run, member_of(run)) == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_is_obeyed_by_the_main_one_alone(tmp_path, number):
    """As a batch system tells a job, or a terminal its foreground: loaders too are told."""
    run = run_of(tmp_path, "told", epochs=4000)
    folder = run.member_dir(member_of(run))
    command = [sys.executable, "-m", "pipeline.train", "--config", str(tmp_path / "told.yaml"), "--model", "unet",
               "--fold", "0", "jobs.loader_workers=2", "jobs.devices=cpu", "jobs.checkpoint_s=0"]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while process.poll() is None and not (folder / "last.pt").exists():
        time.sleep(0.02)
    saved_at = (folder / "last.pt").stat().st_mtime_ns
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert said.count("stopping at the next step") == 1
    assert "Traceback" not in said
    assert (folder / "last.pt").stat().st_mtime_ns >= saved_at


def test_a_crash_leaves_no_loader_behind(tmp_path):
    """Python ends its children with SIGTERM and waits for them, which would be for ever if they heeded none."""
    words = ["from torch.utils.data import DataLoader", "from pipeline.stopping import leave_stopping_to_main",
             "loader = DataLoader(range(99), num_workers=2, persistent_workers=True, multiprocessing_context='fork',",
             "                    worker_init_fn=leave_stopping_to_main)",
             "batches = iter(loader)", "next(batches)", "raise KeyError('of a crash')"]  # fmt: skip
    crashed = subprocess.run([sys.executable, "-c", "\n".join(words)], cwd=ROOT, capture_output=True, timeout=60)
    assert crashed.returncode == 1


def test_what_a_killed_run_was_writing_is_removed(tmp_path):
    run = run_of(tmp_path, epochs=1, schedule={"warmup_epochs": 0.5})
    folder = run.member_dir(member_of(run))
    left = [folder / ".last.pt.12-0a1b2c3d.part", folder / "weights" / ".ema.safetensors.12-0a1b2c3d.part"]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half of it")
    train_member(run, member_of(run), CPU, StopRequest())
    assert not any(path.exists() for path in left)
    (folder / "last.pt").write_bytes(b"of a run that was killed after its end")
    train_member(run, member_of(run), CPU, StopRequest())
    assert {path.name for path in folder.iterdir()} == {"weights", "log.csv", "member.json", "stamp.json"}


@pytest.mark.parametrize(
    "settings",
    [{}, {"optimizer": {"name": "lion"}}, {"optimizer": {"name": "sgd"}, "ema": {}}, {"ema": {}, "swa": LATE_SWA}],
)
def test_the_plan_knows_what_checkpoints_take_while_one_is_replaced(tmp_path, monkeypatch, settings):
    seen, replace = [], os.replace

    def measured(aside, path):
        if Path(path).name == "last.pt":
            files = [each for each in Path(path).parent.iterdir() if "last.pt" in each.name]
            seen.append(sum(each.stat().st_size for each in files))
        replace(aside, path)

    monkeypatch.setattr("os.replace", measured)
    run = run_of(tmp_path, batch=2, **settings)
    small = {"encoder": "tu-mobilenetv3_small_100", "params": {"decoder_channels": [64, 32, 16, 16, 8]}}
    model = run.experiment.models[0].model_copy(update=small)  # whose every weight has a gradient
    jobs = run.experiment.jobs.model_copy(update={"checkpoint_s": 0.0})
    run = Run(run.experiment.model_copy(update={"jobs": jobs, "models": [model]}))
    train_member(run, member_of(run), CPU, StopRequest())
    cost = Cost(0.0, 0.0, sum(each.numel() for each in build_model(model, 4, 3).parameters()))
    assert max(seen) == pytest.approx(checkpoint_bytes(run, model, cost), rel=0.05)


def test_a_finished_member_is_left_alone(undisturbed):
    tmp_path, _ = undisturbed
    run = run_of(tmp_path, "undisturbed", **EVERYTHING)
    path = weights_path(run.member_dir(member_of(run)), "last")
    before = path.stat().st_mtime_ns
    train_member(run, member_of(run), CPU, StopRequest())
    assert path.stat().st_mtime_ns == before


def test_a_checkpoint_of_another_experiment_is_refused_with_the_difference(tmp_path):
    run = run_of(tmp_path, batch=2)
    member = member_of(run)
    with pytest.raises(Stopped):
        train_member(run, member, CPU, StopAfter(1))
    (run.member_dir(member) / "stamp.json").unlink()  # as if somebody had copied a last.pt here
    other = run_of(tmp_path, batch=2, lr=0.5)
    with pytest.raises(UserError, match=r"another experiment: train\.lr 0\.001 -> 0\.5\. Delete the member's folder"):
        train_member(other, member_of(other), CPU, StopRequest())
    shutil.rmtree(run.member_dir(member))
    train_member(other, member_of(other), CPU, StopRequest())


def test_a_damaged_checkpoint_is_refused(tmp_path):
    run = run_of(tmp_path)
    path = run.member_dir(member_of(run)) / "last.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half of somethi")
    with pytest.raises(UserError, match="not a checkpoint of ours"):
        train_member(run, member_of(run), CPU, StopRequest())


def test_a_member_that_is_not_trained_says_what_to_run(tmp_path):
    """Of a member of all folds too, the command is one that can be run."""
    run_of(tmp_path, "asked")
    config = str(tmp_path / "asked.yaml")
    values = yaml.safe_load(Path(config).read_text())
    values["models"][0]["folds"] = "each+all"
    run = open_run(load_experiment(write_config(Path(config), values)))
    for member in run.members():
        with pytest.raises(UserError, match="is not trained yet") as refused:
            load_member(run, member, CPU)
        words = str(refused.value).partition("pipeline.train ")[2].replace("FILE", config).split()
        with pytest.raises(Stopped):
            train_member(run, named_by(run, words), CPU, StopAfter(0))
        assert (run.member_dir(member) / "last.pt").exists()


def named_by(run: Run, words: list[str]) -> Member:
    """The member that a command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config")
    add_member_options(parser)
    return named_member(run, parser.parse_args(words))


def test_edited_weights_are_refused(undisturbed):
    tmp_path, _ = undisturbed
    run = run_of(tmp_path, "undisturbed", **EVERYTHING)
    member = member_of(run)
    path = weights_path(run.member_dir(member), "last")
    network = load_network(run, member, "last")
    for key, value in load_file(path).items():
        torch.testing.assert_close(network.state_dict()[key], value, rtol=0, atol=0)
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-4] + b"\1\2\3\4")
        with pytest.raises(UserError, match="changed since"):
            load_member(run, member, CPU)
    finally:
        path.write_bytes(whole)


def test_folds_and_seeds_begin_and_see_other_things(tmp_path):
    run = run_of(tmp_path, epochs=1, schedule={"warmup_epochs": 0.5})
    for fold in (0, 1):
        train_member(run, member_of(run, fold), CPU, StopRequest())
    first, second = (bits(run, member_of(run, fold)) for fold in (0, 1))
    assert first["last.safetensors"] != second["last.safetensors"]


class Flat(torch.nn.Module):
    """A network without batch statistics: per-pixel linear."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = torch.nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, image):
        return self.layer(image)


class Rooted(Flat):
    """The loss is finite, but not the gradient: the square root's slope at 0 is not."""

    steep = True

    def forward(self, image):
        bias = self.layer.bias[0]
        return super().forward(image) + (torch.sqrt(bias - bias.detach()) if self.steep else 0)


def state_of(network: torch.nn.Module, train, scaled: bool = False) -> TrainState:
    scaler = torch.amp.GradScaler("cpu", enabled=scaled)
    return TrainState(network, build_optimizer(network, train), scaler, Averages(network, train), Plateau(train))


def step(state: TrainState, batches: list[Batch], train, split_batch: int = 1) -> None:
    plan = loop.Plan("flat", train, 0, 0, ["a", "b", "c", "d"], split_batch)
    preparation = Preparation(["a", "b", "c", "d"], [], "dataset", [0.1] * 4, [0.5] * 4)
    objective = Objective(state.network, preparation, build_loss(train.loss, 3, None, False), CPU, None)
    loop.optimizer_step(plan, state, objective, batches, 1e-3)


def gradient_of(batches: list[Batch], train, split_batch: int = 1) -> torch.Tensor:
    network = Flat()
    step(state_of(network, train), batches, train, split_batch)
    return network.layer.weight.grad.clone()


def batch_of(rng: np.random.Generator, tiles: int, ignored: int) -> Batch:
    target = rng.integers(0, 3, (tiles, 8, 8), dtype=np.uint8)
    target.reshape(-1)[:ignored] = 255
    pixels = torch.from_numpy(rng.integers(1, 255, (tiles, 8, 8, 4), dtype=np.uint8))
    valid_N = [float(valid) for valid in (target != 255).sum((1, 2))]
    return Batch([(0, i, 0) for i in range(tiles)], pixels, torch.from_numpy(target), valid_N)


def joined(batches: list[Batch]) -> Batch:
    tensors = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("pixels_NHWB", "target_NHW"))
    lists = ([each for batch in batches for each in getattr(batch, name)] for name in ("keys", "valid_N"))
    (pixels, target), (keys, valid_N) = tensors, lists
    return Batch(keys, pixels, target, valid_N)


def test_accumulated_mean_is_the_large_batch_and_sum_is_the_sum(tmp_path):
    rng = np.random.default_rng(0)
    batches = [batch_of(rng, 2, ignored=100), batch_of(rng, 2, ignored=3)]  # unequal numbers of valid pixels
    plain = {"loss": [{"name": "ce"}], "clip_grad_norm": None, "precision": "fp32"}
    mean = run_of(tmp_path, "mean", **plain, accumulate={"steps": 2, "reduce": "mean"}).experiment.train
    total = run_of(tmp_path, "sum", **plain, accumulate={"steps": 2, "reduce": "sum"}).experiment.train
    one = run_of(tmp_path, "one", **plain).experiment.train
    large = gradient_of([joined(batches)], one)
    torch.testing.assert_close(gradient_of(batches, mean), large, atol=1e-6, rtol=1e-6)
    separate = [gradient_of([batch], one) for batch in batches]
    torch.testing.assert_close(gradient_of(batches, total), sum(separate), atol=1e-6, rtol=1e-6)
    assert (gradient_of(batches, total) - large).abs().max() > 1e-3


@pytest.mark.parametrize("clip", [5.0, None])
def test_a_gradient_that_is_not_finite_ends_training_with_its_tiles(tmp_path, clip):
    train = run_of(tmp_path, loss=[{"name": "ce"}], precision="fp32", clip_grad_norm=clip).experiment.train
    batch = batch_of(np.random.default_rng(0), 2, ignored=3)
    with pytest.raises(UserError, match=r"is not finite in epoch 1 of 2 at lr 1\.00e-03, tiles a, b; its step"):
        step(state_of(Rooted(), train), [batch], train)


@pytest.mark.parametrize("clip", [5.0, None])
def test_in_fp16_such_steps_are_left_out_until_they_are_too_many_in_a_row(tmp_path, clip):
    train = run_of(tmp_path, loss=[{"name": "ce"}], clip_grad_norm=clip).experiment.train
    network, batch = Rooted(), batch_of(np.random.default_rng(0), 2, ignored=3)
    state = state_of(network, train, scaled=True)
    before = network.layer.weight.detach().clone()
    for _ in range(loop.MOST_SKIPPED - 1):
        step(state, [batch], train)
    assert torch.equal(network.layer.weight, before)
    network.steep = False
    step(state, [batch], train)
    assert not torch.equal(network.layer.weight, before)
    network.steep = True
    for _ in range(loop.MOST_SKIPPED - 1):
        step(state, [batch], train)
    with pytest.raises(UserError, match=r"the gradients of 20 steps in a row are not finite in epoch 1 of 2"):
        step(state, [batch], train)


@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize("parts", [2, 3, 9])
def test_a_split_batch_has_the_gradient_of_the_whole(tmp_path, reduce, parts):
    rng = np.random.default_rng(0)
    batches = [batch_of(rng, 4, ignored=100), batch_of(rng, 3, ignored=3)]
    accumulate = {"steps": 2, "reduce": reduce}
    train = run_of(
        tmp_path, "split", loss=[{"name": "ce"}], clip_grad_norm=None, precision="fp32", accumulate=accumulate
    ).experiment.train
    whole = gradient_of(batches, train)
    torch.testing.assert_close(gradient_of(batches, train, parts), whole, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("device", "calls"), [("cpu", ["best"]), ("cuda", ["best", "checkpoint"])])
def test_on_a_gpu_a_checkpoint_knows_of_the_best_weights_at_once(tmp_path, device, calls):
    """A run that was killed since would replay the epoch, there not to the same bits, and not find it the best."""
    train = run_of(tmp_path, validate_every=1).experiment.train
    state, seen = state_of(Flat(), train), []
    for miou in (0.5, 0.4):  # the second epoch is no better
        hooks = loop.Hooks(
            save=lambda state: seen.append("checkpoint"),
            save_best=lambda state: seen.append("best"),
            stop=StopRequest(),
            progress=None,
        )
        row = {"lr": 1e-3, "loss": 2.5, "val_miou": miou}
        loop.finish_epoch(state, row, torch.device(device), hooks)
    assert seen == calls
    assert state.best_miou == 0.5


@pytest.mark.parametrize(("split", "images"), [(1, {6}), (2, {3}), (3, {2}), (64, {2})])
def test_batch_statistics_are_of_batches_that_fit_where_training_fits(tmp_path, monkeypatch, split, images):
    run = run_of(tmp_path, f"split{split}", epochs=1, batch=6, schedule={"warmup_epochs": 0.5}, ema={"decay": 0.5})
    jobs = run.experiment.jobs.model_copy(update={"split_batch": split})
    seen = set()
    monkeypatch.setattr("pipeline.batch_norms.BATCH", 2)
    monkeypatch.setattr(
        "pipeline.train.update_batch_statistics", lambda network, batches: seen.update(len(each) for each in batches)
    )
    train_member(Run(run.experiment.model_copy(update={"jobs": jobs})), member_of(run), CPU, StopRequest())
    assert seen == images


def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path):
    train = run_of(tmp_path, loss=[{"name": "ce"}]).experiment.train
    batch = batch_of(np.random.default_rng(0), 2, 0)
    batch.pixels_NHWB = torch.full((2, 8, 8, 4), float("nan"))
    with pytest.raises(UserError) as refused:
        gradient_of([batch], train)
    for part in ("member flat", "epoch 1 of 2", "lr 1.00e-03", "tiles a, b", "nan"):
        assert part in str(refused.value)


def test_a_member_of_all_folds_sees_every_tile_has_no_oof_and_joins_the_test_mean(tmp_path):
    values = tiny_values(write_tiny(tmp_path / "data"), tmp_path)
    values["models"][0]["folds"] = "each+all"
    values["train"] |= {"epochs": 1, "validate_every": 1}
    run = open_run(load_experiment(write_config(tmp_path / "all.yaml", values)))
    make_folds(run)
    members = list(run.members())
    assert [str(member) for member in members] == [*(f"unet/fold{k}-seed0" for k in range(3)), "unet/all-seed0"]
    assert steps_left(run, members[-1], has_test=True) == ["train", "test"]
    for member in members:
        train_member(run, member, CPU, StopRequest())
        predict_test(run, member, CPU, StopRequest())
    with pytest.raises(UserError, match="no held-out fold"):
        predict_oof(run, members[-1], CPU, StopRequest())
    record = MemberRecord.read(run.member_dir(members[-1]))
    assert (len(record.train_tiles), record.held_out, record.fold) == (9, [], None)
    assert pd.read_csv(run.member_dir(members[-1]) / "log.csv").val_miou.isna().all()

    parts = [read_many(open_store(run.test_part(member)), range(4)) for member in members]
    mean = open_store(mean_test(run, run.experiment.models[0]))
    assert list(mean.manifest["members"]) == [str(member) for member in members]
    np.testing.assert_allclose(read_many(mean, range(4)), np.mean(parts, axis=0), atol=1.5 / 255)
    assert np.abs(parts[-1] - parts[0]).max() > 0.01


@pytest.mark.parametrize(
    "changes", [{"train.schedule": "{name: plateau}", "train.validate_every": "1"}, {"predict.weights": "best"}]
)
def test_a_member_of_all_folds_has_no_score_to_choose_by(tmp_path, changes):
    values = tiny_values(tmp_path / "data", tmp_path)
    values["models"][0]["folds"] = "each+all"
    values["train"]["validate_every"] = 1
    overrides = [f"{key}={value}" for key, value in changes.items()]
    with pytest.raises(UserError, match="no held-out score"):
        load_experiment(write_config(tmp_path / "all.yaml", values), overrides)
