"""Make all members of an experiment on every device: train, predict OOF, predict test; then the models' test means."""

import shlex
from collections.abc import Sequence

from base.command import run as run_command
from base.command import stage_parser
from base.locks import held
from base.screen import screen
from config import Experiment, Member, Run, load_experiment, open_run, stale_members
from folds.folds_csv import folds_of
from folds.tiles import tiles_of
from pipeline.costs import TileCounts, measure_costs, read_costs
from pipeline.finished import member_is_finished
from pipeline.grid import Grid, chosen_members, grid_summary, grid_table, make_grid
from pipeline.job_state import JobState
from pipeline.jobs import run_jobs, write_attempts
from pipeline.pack import open_pack
from pipeline.slots import place_here
from pipeline.watch import GridView, report

PROBE_FROM = 50_000  # tiles seen in training; below, timing the networks takes longer than a better order saves


def main(argv: list[str] | None = None) -> int:
    parser = stage_parser("pipeline.cv", __doc__)
    parser.add_argument(
        "--only", metavar="KEY=VALUE,...", help="some members: model=unet,fold=0,fold=1; also seed=, target="
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done, and time and disk")
    args = parser.parse_intermixed_args(argv)
    experiment = load_experiment(args.config, args.overrides)
    # What is stale is thrown away here, not by the jobs.
    arguments = ["--config", args.config, *(text for text in args.overrides if not text.startswith("redo="))]
    if args.dry_run:
        print_grid(Run(experiment), args.only, arguments)
        return 0
    with held(Run(experiment).run_lock, f"run {experiment.name!r}"):
        return run_grid(open_run(experiment), args.only, arguments)


def run_grid(run: Run, only: str | None, arguments: Sequence[str]) -> int:
    """Make what is left of the chosen members; the exit code. The caller holds the run's lock."""
    slots = slots_here(run.experiment)
    grid = grid_of(run, chosen_members(run, only), arguments, slots, measure=False)
    print(grid_summary(grid, run, slots), flush=True)
    if not grid.tasks:
        return 0
    open_pack(run, tiles_of(run))  # once, before all jobs want it
    folder = run.jobs_dir
    with GridView(grid.jobs, folder) as view:

        def watch(states: dict[str, JobState]) -> None:
            view(states)
            write_attempts(run.jobs_csv, folder)

        outcome = run_jobs(grid.jobs, folder, run.experiment.jobs, run.experiment.member_count, watch)
    return report(outcome, folder)


def print_grid(run: Run, only: str | None, arguments: Sequence[str]) -> None:
    """What `run_grid` would do; nothing is changed, except that networks never seen on this machine are timed."""
    slots = slots_here(run.experiment)
    grid = grid_of(run, chosen_members(run, only), arguments, slots, measure=True)
    if grid.tasks:
        screen(width=None).print(grid_table(grid))
    print(grid_summary(grid, run, slots))
    if stale := stale_members(run):
        print(f"{len(stale)} members were made from something else: without redo=stale they stop the run")
    if grid.tasks:
        print(f"a job: {shlex.join(grid.jobs[0].command)}")


def slots_here(experiment: Experiment) -> int:
    """Jobs side by side; on a cluster as many as would be on this machine, since its workers come and go."""
    return len(place_here(on_this_machine(experiment).jobs, experiment.member_count).slots)


def on_this_machine(experiment: Experiment) -> Experiment:
    """The experiment as this machine would run it: devices of a cluster's workers need not be here."""
    if not experiment.jobs.dask:
        return experiment
    return experiment.model_copy(update={"jobs": experiment.jobs.model_copy(update={"devices": "auto"})})


def grid_of(run: Run, members: Sequence[Member], arguments: Sequence[str], slots: int, measure: bool) -> Grid:
    """What is left of some members.

    Args:
        measure: time networks whose costs are not known; otherwise only where a better order of jobs is worth it.
    """
    tiles = tiles_of(run)
    counts = TileCounts.of(tiles, folds_of(run), run.experiment.folds.k)
    here = Run(on_this_machine(run.experiment))
    untrained = [member for member in members if not member_is_finished(run, member)]
    models_differ = len({member.model.name for member in untrained}) > 1 and len(untrained) > slots
    passes = sum(run.experiment.train_of(member.model).epochs for member in untrained) * sum(counts.in_fold)
    if measure or (models_differ and passes > PROBE_FROM):
        known = measure_costs(here, counts, [*arguments, f"jobs.devices={here.experiment.jobs.device}"])
    else:
        known = read_costs(here, counts)
    states = {str(member): JobState.read(run.jobs_dir, str(member)) for member in run.members()}
    return make_grid(run, members, counts, known, states, arguments, slots)


if __name__ == "__main__":
    run_command(main)
