"""One epoch of every experiment that comes along: its losses, schedule, sampler and augmentation at a reduced size."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from config import Experiment, Member, load_experiment, open_run
from folds.assign import make_folds
from pipeline.stopping import StopRequest
from pipeline.train import train_member
from tests.tiny import draw_image, write_mask, write_tif

CONFIGS = sorted(Path("configs").glob("*.yaml"))
PX = 32
SMALL = {
    "UnetPlusPlus": {"decoder_channels": [8, 8, 8, 8, 8]},
    "Unet": {"decoder_channels": [8, 8, 8, 8, 8]},
    "UPerNet": {"decoder_channels": 8},
}


def write_tiles(root: Path, labels: list[int], bands: int) -> None:
    """Four train tiles, each with every class."""
    rng = np.random.default_rng(0)
    for i in range(4):
        mask_HW = np.resize(np.repeat(rng.permutation(labels), PX // 2), (PX, PX)).astype(np.uint8)
        write_tif(root / "train" / f"{i}.tif", draw_image(rng, mask_HW, bands))
        write_mask(root / "train" / f"{i}.png", mask_HW)


def reduced(path: Path, tmp_path: Path) -> Experiment:
    """The experiment with small networks, four tiles, and its whole schedule squeezed into one epoch."""
    values = load_experiment(path).dump()
    write_tiles(tmp_path / "data", [spec["label"] for spec in values["data"]["classes"]], len(values["data"]["bands"]))
    values["data"] |= {"root": str(tmp_path / "data"), "generate": None, "test_images": None}
    values["runs_dir"] = str(tmp_path / "runs")
    values["folds"] |= {"k": 2, "groups": "none"}  # four random tiles have no borders in common
    train = values["train"]
    squeezed = 1 / train["epochs"]
    for key in ("warmup_epochs", "t_0"):
        if key in train["schedule"]:
            train["schedule"][key] *= squeezed
    if "milestones" in train["schedule"]:
        train["schedule"]["milestones"] = [epoch * squeezed for epoch in train["schedule"]["milestones"]]
    if train["swa"]:
        train["swa"]["start_epoch"] = 0
    train |= {"epochs": 1, "batch": 2}
    for model in values["models"]:
        model["train"].pop("epochs", None)
        model |= {"encoder": "resnet18", "encoder_weights": None, "params": SMALL.get(model["arch"], {})}
    return Experiment.model_validate(values)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_one_epoch_of_every_experiment(path, tmp_path):
    experiment = reduced(path, tmp_path)
    run = open_run(experiment)
    make_folds(run)
    of_kind = {(model.arch, model.target == "all"): model for model in experiment.models}
    for model in of_kind.values():
        member = Member(model, 0, experiment.seeds[0])
        train_member(run, member, torch.device("cpu"), StopRequest())
        log = pd.read_csv(run.member_dir(member) / "log.csv")
        assert len(log) == 1
        assert np.isfinite(log.loss).all()
        weights = {weights.stem for weights in (run.member_dir(member) / "weights").iterdir()}
        assert experiment.predict.weights in weights
