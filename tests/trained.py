"""A tiny run whose members are trained, and the two things that are asked of it all the time."""

from pathlib import Path

import torch

from config import Member, Run, load_experiment, open_run
from folds.assign import make_folds
from pipeline.stopping import StopRequest
from pipeline.train import train_member
from tests.tiny import write_config

CPU, GO_ON = torch.device("cpu"), StopRequest()


def train_all(path: Path, values: dict) -> Path:
    """The YAML of an experiment all of whose members are trained, in float32."""
    values["train"]["precision"] = "fp32"
    write_config(path, values)
    run = run_of(path)
    make_folds(run)
    for member in run.members():
        train_member(run, member, CPU, GO_ON)
    return path


def run_of(config: Path, *overrides: str) -> Run:
    return open_run(load_experiment(config, list(overrides)))


def member_of(run: Run, fold: int = 0) -> Member:
    """Of the first model and seed 0."""
    return Member(run.experiment.models[0], fold, 0)
