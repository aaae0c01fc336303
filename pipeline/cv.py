"""Make all members of an experiment, on every device: train, predict OOF, predict test; then the models' test means."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from base.command import run as run_command
from base.command import stage_parser
from base.errors import UserError, listed
from base.locks import held
from config import Experiment, Member, Run, load_experiment, open_run
from pipeline.jobs import Outcome, run_jobs, write_attempts
from pipeline.slots import place_here
from pipeline.supervise import Job, JobState, log_path
from pipeline.watch import GridView, clock

ONLY_KEYS = ("model", "fold", "seed", "target")
FAILED = 3  # exit code: some jobs failed


def main(argv: list[str] | None = None) -> int:
    parser = stage_parser("pipeline.cv", __doc__)
    parser.add_argument("--only", metavar="KEY=VALUE,...", help="some members: model=unet,fold=0 (or seed=, target=)")
    args = parser.parse_intermixed_args(argv)
    experiment = load_experiment(args.config, args.overrides)
    folder = jobs_folder(Run(experiment))
    # Before anything else: redo=stale removes members.
    with held(folder / "run.lock", f"run {experiment.name!r}"):
        run = open_run(experiment)
        members = [member for member in run.members() if matches(member, parse_only(args.only, experiment))]
        jobs = member_jobs(members, args) + mean_jobs(members, args)
        slots = len(place_here(experiment.jobs, experiment.member_count).slots)
        progress = {str(member): run.member_dir(member) / "log.csv" for member in members}
        with GridView(jobs, slots, progress) as view:
            outcome = run_jobs(jobs, folder, experiment.jobs, experiment.member_count, view)
        write_attempts(run.dir / "jobs.csv", folder)
    return report(outcome, folder)


def jobs_folder(run: Run) -> Path:
    """Logs, states and the lock of a run's grid."""
    return run.dir / "jobs"


def parse_only(text: str | None, experiment: Experiment) -> dict[str, str]:
    """`model=unet,fold=0` as a dict, its values checked against the experiment."""
    if text is None:
        return {}
    wanted = dict(part.partition("=")[::2] for part in text.split(","))
    known = {
        "model": [model.name for model in experiment.models],
        "fold": [str(fold) for fold in range(experiment.folds.k)],
        "seed": [str(seed) for seed in experiment.seeds],
        "target": sorted({model.target for model in experiment.models}),
    }
    wrong = [key for key in wanted if key not in known]
    if wrong:
        raise UserError(f"--only {text}: unknown {listed(wrong)}; known are {', '.join(ONLY_KEYS)}")
    for key, value in wanted.items():
        if value not in known[key]:
            raise UserError(f"--only {text}: this experiment has no {key} {value!r}; it has {listed(known[key])}")
    return wanted


def matches(member: Member, wanted: dict[str, str]) -> bool:
    has = {"model": member.model.name, "fold": member.fold, "seed": member.seed, "target": member.model.target}
    return all(str(has[key]) == value for key, value in wanted.items())


def member_jobs(members: Sequence[Member], args: argparse.Namespace) -> list[Job]:
    """A job per member: training and both predictions in one process, which imports torch once."""
    jobs = []
    for member in members:
        which = ["--model", member.model.name, "--fold", str(member.fold), "--seed", str(member.seed)]
        jobs.append(
            Job(str(member), ("python", "-m", "pipeline.member", "--config", args.config, *which, *passed(args)))
        )
    return jobs


def mean_jobs(members: Sequence[Member], args: argparse.Namespace) -> list[Job]:
    """A job per model: the mean of its members' test predictions, once they are all there."""
    after: dict[str, list[str]] = {}
    for member in members:
        after.setdefault(member.model.name, []).append(str(member))
    command = ("python", "-m", "pipeline.predict", "--config", args.config)
    return [
        Job(f"{name}/mean", (*command, "--model", name, "--mean", *passed(args)), after=tuple(names))
        for name, names in after.items()
    ]


def passed(args: argparse.Namespace) -> list[str]:
    """The overrides for the jobs; what is stale has been thrown away before they start."""
    return [override for override in args.overrides if not override.startswith("redo=")]


def report(outcome: Outcome, folder: Path) -> int:
    """Say how it ended; the exit code."""
    states = outcome.states.values()
    failed = [state for state in states if state.status in ("failed", "skipped")]
    for state in failed:
        print(f"\n{state.job} {state.status}: {_reason(state)}\n  log: {log_path(folder, state.job)}", file=sys.stderr)
        for line in state.message.splitlines():
            print(f"  | {line}", file=sys.stderr)
    if outcome.signal is not None:
        done = sum(state.status == "done" for state in states)
        print(f"stopped with {done} of {len(states)} jobs done; run the same command again to go on", file=sys.stderr)
        return 128 + outcome.signal
    if failed:
        print(f"{len(failed)} of {len(states)} jobs failed; run the same command to try them again", file=sys.stderr)
    return FAILED if failed else 0


def _reason(state: JobState) -> str:
    if state.status == "skipped" or not state.attempts:
        return "did not run"
    last = state.attempts[-1]
    return f"exit code {last.exit_code} at attempt {last.attempt}, {last.note}, after {clock(last.wall_s)}"


if __name__ == "__main__":
    run_command(main)
