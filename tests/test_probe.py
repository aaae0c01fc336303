"""What pipeline.probe times is what a run will do."""

from types import SimpleNamespace

import pytest
import torch

from config import load_experiment
from pipeline import probe
from pipeline.probe import batch_sizes, measure
from tests.tiny import tiny_values, write_config

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


def experiment_of(tmp_path, batch: int, at_once: int, split: int = 1):
    values = tiny_values(tmp_path / "data", tmp_path) | {"predict": {"batch": at_once}}
    values["train"]["batch"] = batch
    values["jobs"] = {"split_batch": split}
    return load_experiment(write_config(tmp_path / "tiny.yaml", values))


@pytest.mark.parametrize(
    ("batch", "at_once", "split", "on_gpu", "on_cpu"),
    [(32, 64, 1, (32, 64), (4, 4)), (32, 64, 4, (8, 16), (4, 4)), (3, 1, 1, (3, 2), (3, 3)), (2, 9, 2, (2, 4), (2, 2))],
)
def test_on_a_gpu_the_runs_own_batches_are_timed(tmp_path, batch, at_once, split, on_gpu, on_cpu):
    experiment = experiment_of(tmp_path, batch, at_once, split)
    assert batch_sizes(experiment, experiment.models[0], GPU) == on_gpu
    assert batch_sizes(experiment, experiment.models[0], CPU) == on_cpu


def test_seconds_are_those_of_one_image(tmp_path, monkeypatch):
    experiment = experiment_of(tmp_path, 4, 4)
    times, seen = iter([6.0, 10.0]), []
    monkeypatch.setattr(probe, "seconds", lambda work, device: work() or next(times))
    monkeypatch.setattr(probe, "batch_sizes", lambda *_: (2, 5))
    monkeypatch.setattr(probe, "padded_logits", lambda network, image: seen.append(len(image)) or network(image))
    cost = measure(SimpleNamespace(experiment=experiment), experiment.models[0], 32, 64, CPU)
    assert (cost.train_s, cost.forward_s) == (3.0, 2.0)
    assert seen == [2, 5]
