"""How far is a run? Shows what `pipeline.cv` is doing, from another shell or another machine: `pipeline.status RUN`."""

from pathlib import Path

from rich.console import Console

from base.command import plain_parser
from base.command import run as run_command
from base.errors import UserError
from base.locks import holder_of, is_free
from base.screen import screen
from config.run import JOBS, RUN_LOCK
from pipeline.jobs import grid_path, read_grid, read_states
from pipeline.watch import GridView


def show_status(run: Path, console: Console) -> None:
    """Print the table of a run's jobs and who works on them.

    Raises:
        UserError: no grid was ever started there.
    """
    folder = run / JOBS
    if not grid_path(folder).exists():
        raise UserError(f"{run}: no jobs were ever started there; expected the folder of a run, as in runs/demo")
    jobs, session = read_grid(folder)
    states = read_states(folder, session, jobs)
    lock = folder / RUN_LOCK
    if is_free(lock):
        who = "nobody is working on it"
        for state in states.values():  # what a killed process left behind
            state.status = "stopped" if state.status in ("running", "waiting") else state.status
    else:
        who = f"{holder_of(lock)} is working on it"
    view = GridView(jobs, folder, console)
    console.print(view.table(states))
    console.print(f"{run}: {who}; {view.summary(states)}", soft_wrap=True)


def main(argv: list[str] | None = None) -> None:
    parser = plain_parser("pipeline.status", __doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="the run's folder, as in runs/demo")
    show_status(parser.parse_args(argv).run, screen(width=None))


if __name__ == "__main__":
    run_command(main)
