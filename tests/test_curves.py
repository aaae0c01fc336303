import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from base.errors import UserError
from config import Member, load_experiment, open_run
from folds.assign import make_folds
from pipeline.curves import Curves
from pipeline.stopping import StopRequest
from pipeline.train import train_member
from tests.tiny import tiny_values, write_config, write_tiny


def scalars(folder):
    """{name: [(step, value)]} of all event files of a folder."""
    events = EventAccumulator(str(folder)).Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def row(epoch, miou):
    return {"epoch": epoch, "lr": 0.5 / epoch, "loss": 1.0 / epoch, "val_miou": miou}


def test_every_value_stands_at_its_epoch_and_a_missing_one_nowhere(tmp_path):
    with Curves(tmp_path, []) as curves:
        curves.epoch(row(1, None))
        curves.epoch(row(2, 0.25))
    assert scalars(tmp_path) == {"lr": [(1, 0.5), (2, 0.25)], "loss": [(1, 1.0), (2, 0.5)], "val_miou": [(2, 0.25)]}


def test_a_resumed_run_has_each_epoch_once(tmp_path):
    with Curves(tmp_path, []) as curves:
        for epoch in (1, 2):  # the checkpoint is from after epoch 1
            curves.epoch(row(epoch, 0.125))
    with Curves(tmp_path, [row(1, 0.125)]) as curves:
        curves.epoch(row(2, 0.75))
    assert scalars(tmp_path)["val_miou"] == [(1, 0.125), (2, 0.75)]


def test_training_writes_what_its_log_says(tmp_path):
    write_tiny(tmp_path / "data")
    values = tiny_values(tmp_path / "data", tmp_path)
    values["train"] |= {"tensorboard": True, "precision": "fp32"}
    run = open_run(load_experiment(write_config(tmp_path / "tiny.yaml", values)))
    make_folds(run)
    member = Member(run.experiment.models[0], 0, 0)
    folder = train_member(run, member, torch.device("cpu"), StopRequest())
    assert [step for step, _ in scalars(folder / "tensorboard")["loss"]] == [1, 2]


def test_without_the_package_the_experiment_is_refused(tmp_path, monkeypatch):
    values = tiny_values(tmp_path, tmp_path)
    values["train"]["tensorboard"] = True
    path = write_config(tmp_path / "tiny.yaml", values)
    assert load_experiment(path).train.tensorboard
    monkeypatch.setattr("config.training.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        load_experiment(path)
