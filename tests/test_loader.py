"""The loader's processes hand their batches over in shared memory, which containers have little of."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from base.errors import UserError
from config import Member, Run, load_experiment, open_run
from folds.assign import make_folds
from pipeline import data
from pipeline.setup import set_up
from pipeline.stopping import StopRequest
from pipeline.train import train_member
from tests.tiny import tiny_values, write_config, write_tiny

CPU = torch.device("cpu")
BATCH_BYTES = 2 * 32 * 32 * (4 + 2)  # of tiles of 32 px, four bands of a byte and two targets


def run_of(tmp_path: Path, workers: int) -> Run:
    values = tiny_values(write_tiny(tmp_path / "data"), tmp_path)
    values["train"] |= {"precision": "fp32", "batch": 2}
    values["jobs"] = {"loader_workers": workers, "devices": "cpu"}
    run = open_run(load_experiment(write_config(tmp_path / "tiny.yaml", values)))
    make_folds(run)
    return run


def member_of(run: Run) -> Member:
    return Member(run.experiment.models[0], 0, 0)


@pytest.fixture
def free(monkeypatch, tmp_path):
    """Sets the bytes of shared memory that are free."""
    monkeypatch.setattr(data, "SHARED", tmp_path)

    def set_free(count: int) -> None:
        monkeypatch.setattr(data.os, "statvfs", lambda path: SimpleNamespace(f_bavail=count, f_frsize=1))

    return set_free


@pytest.mark.parametrize(("batches", "ahead"), [(3, 1), (7, 1), (8, 2), (12, 3), (15, 3), (16, 4), (1000, 4)])
def test_two_processes_load_as_far_ahead_as_half_of_the_free_memory_holds(free, tmp_path, batches, ahead):
    run = run_of(tmp_path, workers=2)
    free(batches * BATCH_BYTES)
    assert set_up(run, member_of(run), CPU).loader.prefetch_factor == ahead


def test_where_a_batch_of_each_process_and_the_one_in_use_do_not_fit_training_does_not_begin(free, tmp_path):
    run = run_of(tmp_path, workers=2)
    free(3 * BATCH_BYTES - 1)
    with pytest.raises(
        UserError, match=r"0\.0 MiB free; 2 loader processes .* Set jobs\.loader_workers=0, or .*--shm-"
    ):
        set_up(run, member_of(run), CPU)
    (tmp_path / "none").mkdir()
    assert set_up(run_of(tmp_path / "none", workers=0), member_of(run), CPU).loader.prefetch_factor is None


def test_what_has_no_shared_memory_of_a_size_loads_as_ever(monkeypatch, tmp_path):
    monkeypatch.setattr(data, "SHARED", tmp_path / "not-there")
    assert data.prefetch_factor(2, 2**40) == data.PREFETCH


def test_a_batch_that_was_lost_is_a_crash_that_says_so_and_no_wait_for_ever(monkeypatch, tmp_path):
    """What a process cannot hand over, for want of memory or, as here, since it cannot be pickled, it drops."""
    run = run_of(tmp_path, workers=2)
    monkeypatch.setattr(data, "collate", lambda items: lambda: items)
    monkeypatch.setattr(data, "TIMEOUT_S", 1.0)
    with pytest.raises(
        RuntimeError, match=r"unet/fold0-seed0: DataLoader timed out after 1.0 seconds: .* /dev/shm is full"
    ):
        train_member(run, member_of(run), CPU, StopRequest())
