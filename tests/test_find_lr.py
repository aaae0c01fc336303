import numpy as np
import pandas as pd
import pytest

from base.errors import UserError
from config import load_experiment, open_run
from folds.assign import make_folds
from pipeline.find_lr import RangeTest, main
from tests.tiny import tiny_values, write_config, write_tiny


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("find_lr")
    write_tiny(tmp_path / "data")
    path = write_config(tmp_path / "tiny.yaml", tiny_values(tmp_path / "data", tmp_path))
    make_folds(open_run(load_experiment(path)))
    return path


def command(config, *more):
    main(["--config", str(config), "--model", "unet", "--fold", "0", *more])


def test_a_plot_a_csv_and_a_rate(config, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then draws bars on anything, had they not their own console
    command(config, "--steps", "25", "train.accumulate.steps=2")
    folder = config.parent / "runs" / "tiny" / "find_lr"
    assert (folder / "unet.png").read_bytes().startswith(b"\x89PNG")
    table = pd.read_csv(folder / "unet.csv")
    assert 10 <= len(table) <= 25
    steps = table.lr.to_numpy()
    assert steps[1:] / steps[:-1] == pytest.approx(np.full(len(steps) - 1, 1e6 ** (1 / 24)))
    assert table.loss.notna().all()
    said = capsys.readouterr().out
    assert said.startswith("unet/fold0-seed0: the loss falls fastest at lr")


def test_the_test_itself_is_repeatable_and_leaves_no_member(config):
    tables = []
    for _ in range(2):
        command(config, "--steps", "12")
        tables.append((config.parent / "runs/tiny/find_lr/unet.csv").read_text())
    assert tables[0] == tables[1]
    assert not (config.parent / "runs/tiny/members").exists()


def test_the_steepest_fall_of_a_known_curve():
    lr = np.geomspace(1e-6, 1, 200)
    loss = 2 - 1.5 / (1 + (1e-3 / lr) ** 2) + (lr > 0.1) * 40 * (lr - 0.1)
    test = RangeTest(lr, loss)
    assert test.steepest == pytest.approx(1e-3, rel=0.1)
    noisy = RangeTest(lr, loss + np.random.default_rng(0).normal(0, 0.1, 200))
    assert noisy.steepest == pytest.approx(1e-3, rel=1)


def test_a_loss_that_only_rises_is_refused():
    with pytest.raises(UserError, match="begin lower"):
        _ = RangeTest(np.geomspace(0.1, 10, 20), np.linspace(1, 9, 20)).steepest


@pytest.mark.parametrize("wrong", [["--from", "1", "--to", "0.1"], ["--steps", "3"], ["--from", "0"]])
def test_a_test_that_cannot_be_is_refused(config, wrong):
    with pytest.raises(UserError, match="rates rise"):
        command(config, *wrong)
