"""What a person sees of a grid, on a terminal, in a log file, from another shell."""

import io
import time

import pytest
from rich.console import Console

from base.errors import UserError
from base.files import write_json
from base.locks import held
from pipeline.job_state import Attempt, Job, JobState, log_path
from pipeline.progress import TrainProgress
from pipeline.status import show_status
from pipeline.watch import GridView, seconds_left
from pipeline.wording import clock, figures_in


def attempt_of(job: str, wall_s: float, exit_code: int = 0, note: str = "") -> Attempt:
    return Attempt(job, 1, "box", "cuda:1", "2021-03-01 12:00:00", exit_code, wall_s, 900.0, note)


@pytest.fixture
def states(tmp_path) -> dict[str, JobState]:
    log = log_path(tmp_path, "unet/fold1")
    log.parent.mkdir(parents=True)
    log.write_text("# attempt 1: today\nunet/fold1: epoch 3/9  loss 0.5  lr 1e-03  val mIoU 0.4321  77 img/s\n")
    return {
        "unet/fold0": JobState("unet/fold0", "done", attempts=[attempt_of("unet/fold0", 100)]),
        "unet/fold1": JobState("unet/fold1", "running", host="box", device="cuda:1", since=time.time() - 40),
        "unet/fold2": JobState("unet/fold2", "waiting"),
        "fpn/fold0": JobState("fpn/fold0", "failed", attempts=[attempt_of("fpn/fold0", 5, 1, "crashed; see its log")]),
    }


JOBS = [Job("unet/fold0", (), 50), Job("unet/fold1", (), 50), Job("unet/fold2", (), 50), Job("fpn/fold0", (), 20)]


def shown(tmp_path, states, terminal: bool) -> str:
    out = io.StringIO()
    with GridView(JOBS, tmp_path, Console(file=out, force_terminal=terminal, width=100)) as view:
        view(states)
        view(states)
    return out.getvalue()


def test_a_terminal_shows_a_table_within_100_columns(tmp_path, states):
    text = shown(tmp_path, states, terminal=True)
    for expected in ("unet/fold1", "3/9", "77", "0.4321", "cuda:1", "1 of 4 done", "1 failed", "so far"):
        assert expected in text


def test_a_log_file_gets_one_line_per_event(tmp_path, states):
    lines = shown(tmp_path, states, terminal=False).splitlines()
    assert [line.split(maxsplit=1)[1] for line in lines] == [
        "unet/fold0 done after 2 min on cuda:1; 1 of 4 done, 1 running, 1 waiting, 1 failed, about 3 min left",
        "unet/fold1 running on cuda:1 of box",
        "fpn/fold0 failed after 5 s on cuda:1: crashed; see its log; "
        "1 of 4 done, 1 running, 1 waiting, 1 failed, about 3 min left",
    ]


def test_the_time_left_follows_what_jobs_really_took(states):
    # Twice as long as expected: 60 s of the running job are left, and 100 s of the waiting one, one after the other.
    assert seconds_left(JOBS, states) == pytest.approx(160, abs=1)
    unknown = [Job(job.name, ()) for job in JOBS]
    assert seconds_left(unknown, states) == pytest.approx(160, abs=1)
    del states["unet/fold0"]
    assert seconds_left(unknown, states) == 0


def test_figures_are_found_in_the_lines_that_training_prints(capsys):
    with TrainProgress("unet/fold1-seed0", epochs=9, first_epoch=0) as progress:
        progress.step(0, 1, 2, loss=0.7, lr=1e-3, tiles=500)
        progress.epoch({"epoch": 1, "loss": 0.9, "lr": 1e-3, "val_miou": 0.25})
        progress.epoch({"epoch": 2, "loss": 0.8, "lr": 1e-3, "val_miou": 0.5})
    figures = figures_in(capsys.readouterr().out.splitlines())
    assert figures["epoch"] == "2/9"
    assert figures["mIoU"] == "0.5000"
    assert int(figures["img/s"]) > 0


def test_status_from_another_shell(tmp_path, states):
    folder = tmp_path / "jobs"
    write_json(folder / "grid.json", {"session": "s", "jobs": [{"name": j.name, "cost_s": j.cost_s} for j in JOBS]})
    for state in states.values():
        state.session = "s"
        state.write(folder)
    log_path(folder, "unet/fold1").parent.mkdir(parents=True)
    log_path(folder, "unet/fold1").write_text("starting\n")

    def status() -> str:
        out = io.StringIO()
        show_status(tmp_path, Console(file=out, width=100))
        return out.getvalue()

    with held(folder / "run.lock", "run"):
        assert "is working on it; 1 of 4 done, 1 running" in status()
    assert "nobody is working on it; 1 of 4 done, 1 failed, 2 stopped" in status()
    with pytest.raises(UserError, match="no jobs were ever started"):
        show_status(tmp_path / "elsewhere", Console())


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (600, "10 min"), (12600, "3.5 h")])
def test_clock(seconds, text):
    assert clock(seconds) == text
