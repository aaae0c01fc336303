"""What the grid plans: which members, what is left of each, in which order; and that a plan changes nothing."""

import shutil
import subprocess
from pathlib import Path

import pytest

from base.errors import UserError
from base.files import hash_file, write_json
from base.locks import held
from config import Run, load_experiment
from config.ensemble import Predict
from folds.assign import read_folds
from folds.tiles import read_tiles
from pipeline import cv, mean, predict
from pipeline.costs import (
    Cost,
    TileCounts,
    as_entry,
    cost_key,
    costs_path,
    makespan_s,
    measure_costs,
    pace_of,
    passes_per_tile,
)
from pipeline.grid import chosen_members, grid_summary, make_grid
from pipeline.job_state import Attempt, JobState
from tests.spoiled import write_clean


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    """Two models of three folds, all predicted; the mean of the second is still to come."""
    return write_clean(tmp_path_factory.mktemp("grid"))


@pytest.fixture
def run(clean, tmp_path) -> Run:
    """A copy that a test may change."""
    shutil.copytree(clean.parent / "runs", tmp_path / "runs")
    return Run(load_experiment(clean, [f"runs_dir={tmp_path / 'runs'}"]))


def counts_of(run: Run) -> TileCounts:
    return TileCounts.of(read_tiles(run.tiles_csv), read_folds(run.folds_csv), 3)


def planned(run: Run, only: str | None = None, known: dict[str, Cost] | None = None, states=None) -> dict:
    """Job name -> (steps, names of the jobs that it needs)."""
    grid = make_grid(run, chosen_members(run, only), counts_of(run), known or {}, states or {}, ("--config", "x"), 2)
    return {task.job.name: (task.steps, task.job.after) for task in grid.tasks}


@pytest.mark.parametrize(
    ("only", "names"),
    [
        (None, [f"{model}/fold{k}-seed0" for model in ("unet", "bare_unet") for k in range(3)]),
        ("model=unet", [f"unet/fold{k}-seed0" for k in range(3)]),
        ("target=bare,fold=1", ["bare_unet/fold1-seed0"]),
        ("fold=0, fold=2,model=unet,seed=0", ["unet/fold0-seed0", "unet/fold2-seed0"]),
    ],
)
def test_only_names_members_and_a_key_given_twice_means_either(run, only, names):
    assert list(map(str, chosen_members(run, only))) == names


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("modle=unet", "unknown modle; known are model, fold, seed, target"),
        ("model=unet,fold=3", "no fold '3'; it has 0, 1, 2"),
        ("model", "no model ''"),
        ("model=unet,target=bare", "no member is all of that at once"),
    ],
)
def test_only_refuses_what_the_experiment_does_not_have(run, only, message):
    with pytest.raises(UserError, match=message):
        chosen_members(run, only)


def test_what_is_finished_is_skipped_and_what_is_left_is_done(run):
    unet = run.experiment.models[0]
    assert planned(run) == {"bare_unet/mean": (["mean"], ())}
    first, second, third = run.members(unet)
    shutil.rmtree(run.oof_store(first))
    assert planned(run)["unet/fold0-seed0"] == (["oof"], ())
    assert planned(run, "model=unet,fold=1") == {}
    # A member that is trained anew makes another mean, whose other parts are gone; a few members are no mean.
    shutil.rmtree(run.member_dir(second))
    everyone = ("unet/fold0-seed0", "unet/fold1-seed0", "unet/fold2-seed0")
    assert planned(run) == {
        "unet/fold0-seed0": (["oof", "test"], ()),
        "unet/fold1-seed0": (["train", "oof", "test"], ()),
        "unet/fold2-seed0": (["test"], ()),
        "unet/mean": (["mean"], everyone),
        "bare_unet/mean": (["mean"], ()),
    }
    assert planned(run, "model=unet,fold=2") == {str(third): (["test"], ())}


def test_the_summary_tells_training_from_predicting_and_averaging(run, clean):
    def told(slots: int) -> str:
        grid = make_grid(run, chosen_members(run, None), counts_of(run), {}, {}, ("--config", "x"), slots)
        return grid_summary(grid, run, slots).splitlines()[0]

    _, second, _ = run.members(run.experiment.models[0])
    assert told(1) == "1 job on 1 slot: 0 to train, 1 mean; 6 members finished"
    mean.main(["--config", str(clean), f"runs_dir={run.experiment.runs_dir}", "--model", "bare_unet"])
    assert told(2) == "nothing to do: 6 members finished"
    shutil.rmtree(run.test_store(run.experiment.models[0]))  # as for other test tiles, whose mean is still to come
    assert told(2) == "4 jobs on 2 slots: 0 to train, 3 to predict, 1 mean; 3 members finished"
    shutil.rmtree(run.member_dir(second))
    assert told(2) == "4 jobs on 2 slots: 1 to train, 2 to predict, 1 mean; 3 members finished"


def test_a_job_knows_how_far_its_batches_can_be_split(run, clean):
    """Two tiles train at once at least, where one image is predicted."""
    shutil.rmtree(run.dir / "members" / "unet" / "fold0-seed0")
    for words, parts in ((["predict.batch=4", "train.batch=20"], 10), (["predict.batch=7", "train.batch=3"], 7)):
        changed = Run(load_experiment(clean, [f"runs_dir={run.experiment.runs_dir}", *words]))
        (job,) = make_grid(changed, chosen_members(changed, "fold=0,model=unet"), counts_of(run), {}, {}, (), 2).jobs
        assert job.most_parts == parts


def test_damaged_stores_are_made_again(run):
    member = next(run.members())
    manifest = run.oof_store(member) / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-30])
    assert planned(run)[str(member)] == (["oof"], ())


def test_costs_order_the_jobs_and_past_jobs_correct_them(run):
    for model in run.experiment.models:
        shutil.rmtree(run.dir / "members" / model.name)
    known = {"unet": Cost(0.1, 0.01, 1000), "bare_unet": Cost(0.3, 0.01, 1000)}
    grid = make_grid(run, chosen_members(run, None), counts_of(run), known, {}, ("--config", "x"), 2)
    seconds = {task.job.name: task.job.cost_s for task in grid.tasks}
    # 6 s to start, 2 epochs of 6 tiles, 4 views of 3 held-out and of 4 test tiles
    assert seconds["unet/fold0-seed0"] == pytest.approx(6 + 12 * 0.1 + 4 * 7 * 0.01)
    assert seconds["bare_unet/fold0-seed0"] == pytest.approx(6 + 12 * 0.3 + 4 * 7 * 0.01)
    assert grid.peak_bytes > grid.kept_bytes > 0
    state = JobState("unet/fold0-seed0", "done", probe_s=10)
    state.attempts = [Attempt("unet/fold0-seed0", 1, "box", "cpu", "2021-03-01 12:00:00", 0, 30.0, 100.0)]
    assert pace_of([state]) == 3
    grid = make_grid(run, chosen_members(run, None), counts_of(run), known, {state.job: state}, ("--config", "x"), 2)
    slower = {task.job.name: task.job.cost_s for task in grid.tasks}
    assert slower["unet/fold0-seed0"] == pytest.approx(3 * seconds["unet/fold0-seed0"])
    assert slower["bare_unet/fold0-seed0"] == seconds["bare_unet/fold0-seed0"]


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        ({"tta": "none"}, 1),
        ({"tta": "flips", "scales": [2.0]}, 4 * 5),
        ({"tta": "none", "stretch": [1.0, 2.0], "weights": ["last", "ema"]}, 3 * 2),
    ],
)
def test_a_tile_takes_a_pass_for_each_view_picture_and_kind_of_weights(settings, passes):
    assert passes_per_tile(Predict(**settings)) == passes


def test_the_longest_jobs_first_on_the_slot_that_is_free_first():
    assert makespan_s([1, 1, 1, 1, 4], slots=2) == 4
    assert makespan_s([3, 3, 2, 2, 2], slots=2) == 7
    assert makespan_s([5], slots=3) == 5


def files_of(folder: Path) -> dict[str, str]:
    return {str(path): hash_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(run, clean, capsys):
    shutil.rmtree(run.oof_store(next(run.members())))
    words = ["--config", str(clean), f"runs_dir={run.experiment.runs_dir}", "jobs.devices=cpu", "redo=stale"]
    costs = {}
    for model in run.experiment.models:  # known already, so that nothing has to be timed
        here = Run(load_experiment(clean, words[2:]))
        costs[cost_key(here, model, counts_of(run))] = as_entry(Cost(0.1, 0.01, 1000), model, "cpu")
    write_json(costs_path(run), costs)
    before = files_of(run.dir.parent)
    assert cv.main([*words, "--dry-run", "--only", "model=unet"]) == 0
    told = capsys.readouterr().out
    for part in ("unet/fold0-seed0  oof", "unet/mean", "0 to train, 1 to predict, 1 mean", "about", "GiB"):
        assert part in told
    assert "a job: python -m pipeline.member --model unet --fold 0 --seed 0 --config" in told
    assert "redo=stale" not in told  # thrown away by the grid alone, not by each of its jobs
    assert files_of(run.dir.parent) == before


def test_a_member_and_a_mean_are_worked_on_by_one_process_at_a_time(run, clean):
    words = ["--config", str(clean), f"runs_dir={run.experiment.runs_dir}", "--model", "bare_unet"]
    model, member = run.experiment.models[1], next(run.members(run.experiment.models[1]))
    with (
        held(run.member_lock(member), "member"),
        pytest.raises(UserError, match="member bare_unet/fold0-seed0 is being worked on by process"),
    ):
        predict.main([*words, "--fold", "0"])
    with (
        held(run.mean_lock(model), "mean"),
        pytest.raises(UserError, match="the mean of model bare_unet is being worked on by process"),
    ):
        mean.main(words)
    mean.main(words)
    assert run.test_store(model).exists()


def test_networks_that_cannot_be_timed_leave_the_grid_without_costs(run, monkeypatch, capsys):
    """As when another run fills the GPU: costs order jobs, and every run goes without them."""
    answer = subprocess.CompletedProcess([], 1, "", "Traceback ...\ntorch.OutOfMemoryError: CUDA out of memory\n")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **keywords: answer)
    assert measure_costs(run, counts_of(run), ["--config", "x"]) == {}
    said = capsys.readouterr().err
    assert said.startswith("networks could not be timed")
    assert "torch.OutOfMemoryError: CUDA out of memory" in said
