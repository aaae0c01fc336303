"""The grid of an experiment: which members are to be made, by which jobs, in about what time, on how much disk."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table

from base.errors import UserError, counted, listed
from base.screen import text_table
from config import Experiment, Member, Run
from config.training import Model
from pipeline.costs import (
    GIB,
    Cost,
    TileCounts,
    checkpoint_bytes,
    expected_s,
    makespan_s,
    pace_of,
    store_bytes,
    weight_bytes,
)
from pipeline.finished import mean_is_finished, steps_left
from pipeline.job_state import Job, JobState
from pipeline.wording import clock

MEAN_S = 2.0  # of the mean over a model's members; mostly starting
MOST_ROWS = 40  # of a printed grid


@dataclass(frozen=True)
class Task:
    """What is left of a member, or a model's mean over them."""

    job: Job
    steps: list[str]


@dataclass(frozen=True)
class Grid:
    tasks: list[Task] = field(default_factory=list)
    finished: int = 0
    """Members of which nothing is left."""
    peak_bytes: int = 0
    """Disk that is needed while it runs, at most; 0: unknown."""
    kept_bytes: int = 0
    """Disk that stays in use, at most."""

    @property
    def jobs(self) -> list[Job]:
        return [task.job for task in self.tasks]


def chosen_members(run: Run, only: str | None) -> list[Member]:
    """All members, or those that `--only model=unet,fold=0` names; of a key that is given twice, either value.

    Raises:
        UserError: a key or value that the experiment does not have.
    """
    wanted = _parse_only(only, run.experiment) if only else {}
    members = []
    for member in run.members():
        has = {
            "model": member.model.name,
            "fold": member.fold_name,
            "seed": member.seed,
            "target": member.model.target,
        }
        if all(str(has[key]) in values for key, values in wanted.items()):
            members.append(member)
    if not members:
        raise UserError(f"--only {only}: no member is all of that at once")
    return members


def make_grid(
    run: Run,
    members: Sequence[Member],
    counts: TileCounts,
    known: dict[str, Cost],
    states: dict[str, JobState],
    arguments: Sequence[str],
    slots: int,
) -> Grid:
    """The jobs that are left of some members.

    Args:
        known: what is known of the networks' costs, by model name.
        states: of earlier sessions, by job name; they say how far off the costs were.
        arguments: `--config FILE key=value...`, for the jobs' command lines.
        slots: jobs that run side by side.
    """
    tasks, left_of = [], {}
    for member in members:
        if left := steps_left(run, member, has_test=counts.test > 0):
            left_of[member] = left
            tasks.append(_member_task(run, member, left, counts, known.get(member.model.name), states, arguments))
    if counts.test:
        models = {member.model.name: member.model for member in members}.values()
        tasks += [task for model in models for task in _mean_tasks(run, model, left_of, arguments)]
    costs_known = known.keys() >= {member.model.name for member in left_of}
    peak, kept = _disk(run, left_of, counts, known, slots) if costs_known else (0, 0)
    return Grid(tasks, len(members) - len(left_of), peak, kept)


def grid_table(grid: Grid) -> Table:
    """A row per job, the longest first, as they will start."""
    ordered = sorted(grid.tasks, key=lambda task: (bool(task.job.after), -task.job.cost_s))
    rows = [
        (task.job.name, ", ".join(task.steps), clock(task.job.cost_s) if task.job.cost_s else "")
        for task in ordered[:MOST_ROWS]
    ]
    if len(ordered) > MOST_ROWS:
        rows.append((f"and {len(ordered) - MOST_ROWS} more",))
    columns = ("job", "steps", "about")
    return text_table("", columns, rows, left=columns[:2], no_wrap=True, box=None, pad_edge=False)


def grid_summary(grid: Grid, run: Run, slots: int) -> str:
    """Time and disk of the whole grid, in a few lines."""
    lines = [_jobs_line(grid, slots)]
    if grid.tasks and all(job.cost_s for job in grid.jobs):
        seconds = makespan_s([job.cost_s for job in grid.jobs], slots)
        lines.append(f"about {clock(seconds)}, where all slots are of this machine's kind and free")
    if grid.peak_bytes:
        free = shutil.disk_usage(existing_parent(run.dir)).free
        lines.append(
            f"disk: at most {grid.peak_bytes / GIB:.2f} GiB while it runs, {grid.kept_bytes / GIB:.2f} GiB of it stay; "
            f"{free / GIB:.0f} GiB are free" + (": NOT ENOUGH if little compresses" if free < grid.peak_bytes else "")
        )
    return "\n".join(lines)


def _jobs_line(grid: Grid, slots: int) -> str:
    """ "4 jobs on 2 slots: 0 to train, 3 to predict, 1 mean; 2 members finished". Other test tiles train nothing, and
    yet no member is finished: hence what the jobs are."""
    finished = f"{counted(grid.finished, 'member')} finished"
    if not grid.tasks:
        return f"nothing to do: {finished}"
    train = sum("train" in task.steps for task in grid.tasks)
    means = sum("mean" in task.steps for task in grid.tasks)
    predict = len(grid.tasks) - train - means  # who trains predicts as well, without a word
    parts = [f"{train} to train", f"{predict} to predict" if predict else "", counted(means, "mean") if means else ""]
    work = ", ".join(filter(None, parts))
    return f"{counted(len(grid.tasks), 'job')} on {counted(slots, 'slot')}: {work}; {finished}"


def existing_parent(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.absolute()
    return path if path.exists() else existing_parent(path.parent)


def _parse_only(text: str, experiment: Experiment) -> dict[str, set[str]]:
    """`model=unet,fold=0,fold=1` as a dict of sets, its values checked against the experiment."""
    wanted: dict[str, set[str]] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        wanted.setdefault(key.strip(), set()).add(value.strip())
    known = {
        "model": [model.name for model in experiment.models],
        "fold": [*map(str, range(experiment.folds.k)), "all"],
        "seed": [str(seed) for seed in experiment.seeds],
        "target": sorted({model.target for model in experiment.models}),
    }
    wrong = [key for key in wanted if key not in known]
    if wrong:
        raise UserError(f"--only {text}: unknown {listed(wrong)}; known are {listed(known)}")
    for key, values in wanted.items():
        if strange := sorted(values - {*known[key]}):
            raise UserError(f"--only {text}: this experiment has no {key} {strange[0]!r}; it has {listed(known[key])}")
    return wanted


def _member_task(
    run: Run,
    member: Member,
    left: list[str],
    counts: TileCounts,
    cost: Cost | None,
    states: dict[str, JobState],
    arguments: Sequence[str],
) -> Task:
    """Training and both predictions in one process, which imports torch once."""
    which = ("--model", member.model.name, "--fold", member.fold_name, "--seed", str(member.seed))
    probe_s = expected_s(run, member, left, cost, counts) if cost else 0.0
    pace = pace_of([state for name, state in states.items() if name.startswith(f"{member.model.name}/")])
    command = ("python", "-m", "pipeline.member", *which, *arguments)
    lock, most_parts = run.member_lock(member).absolute(), _most_parts(run, member.model)
    return Task(Job(str(member), command, probe_s * pace, probe_s, lock=lock, most_parts=most_parts), left)


def _most_parts(run: Run, model: Model) -> int:
    """Parts of a batch beyond which none is smaller: two tiles train at once, and one image is predicted."""
    return max(run.experiment.train_of(model).batch // 2, run.experiment.predict.batch)


def _mean_tasks(run: Run, model: Model, left_of: dict[Member, list[str]], arguments: Sequence[str]) -> list[Task]:
    """The mean over a model's test predictions, unless it is there, or needs members that are not of this grid."""
    of_model = list(run.members(model))
    chosen = [member for member in of_model if member in left_of]
    missing = [member for member in of_model if member not in left_of and steps_left(run, member, has_test=True)]
    if missing or (not chosen and mean_is_finished(run, model)):
        return []
    command = ("python", "-m", "pipeline.mean", "--model", model.name, *arguments)
    lock, after = run.mean_lock(model).absolute(), tuple(map(str, chosen))
    return [Task(Job(f"{model.name}/mean", command, cost_s=MEAN_S, after=after, lock=lock), ["mean"])]


def _disk(
    run: Run, left_of: dict[Member, list[str]], counts: TileCounts, known: dict[str, Cost], slots: int
) -> tuple[int, int]:
    """Bytes at most while it runs, and of these, what stays."""
    kept, parts, checkpoints = 0, 0, [0]
    for member, left in left_of.items():
        model, cost = member.model, known[member.model.name]
        if "train" in left:
            kept += weight_bytes(run, model, cost)
            checkpoints.append(checkpoint_bytes(run, model, cost))
        if "oof" in left:
            kept += store_bytes(run, model, counts.held_out(member), counts)
        if "test" in left:
            parts += store_bytes(run, model, counts.test, counts)
    models = {member.model.name: member.model for member in left_of}.values()
    kept += sum(store_bytes(run, model, counts.test, counts) for model in models)
    return kept + parts + sum(sorted(checkpoints, reverse=True)[:slots]), kept
