"""Which learning rate? One short run in which it rises from step to step -> `runs/<name>/find_lr/`, a plot and a csv.

The range test of Smith (2015): the loss falls, falls fastest, and rises when steps become too long. The rate of the
steepest fall is a good first `train.lr`; loss, batch, optimizer and augmentation are the experiment's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter1d

from base.command import add_json, stage_parser, write_figures
from base.command import run as run_command
from base.errors import UserError
from base.files import whole_file
from base.progress import track
from base.tables import write_csv
from config import Member, Run, load_experiment, open_run
from pipeline.data import Batch
from pipeline.device import pick_device, set_up_cpu
from pipeline.loop import chunks, optimizer_step
from pipeline.members import add_member_options, member_of
from pipeline.schedule import set_lr
from pipeline.setup import Setup, set_up
from pipeline.users_words import in_users_words

SMOOTHING = 0.03  # standard deviation of the Gaussian over the losses, as a share of the steps
RECENT = 5  # the test ends where the mean of that many losses
DIVERGED = 3.0  # is this many times its lowest


@dataclass(frozen=True)
class RangeTest:
    lr: np.ndarray
    """(steps,) the rates that were tried; fewer than asked for where the loss ran away."""
    loss: np.ndarray
    """(steps,) the loss of each step."""

    @property
    def smooth(self) -> np.ndarray:
        """(steps,) the losses smoothed to both sides: a running mean would lag, and name too high a rate."""
        return gaussian_filter1d(self.loss, max(SMOOTHING * len(self.loss), 1), mode="nearest")

    @property
    def steepest(self) -> float:
        """The rate at which the smoothed loss falls fastest, over log lr."""
        lowest = int(self.smooth.argmin())
        if lowest < 2:
            raise UserError("the loss fell at no rate; begin lower: --from")
        slope = np.gradient(self.smooth[: lowest + 1], np.log(self.lr[: lowest + 1]))
        return float(self.lr[int(slope.argmin())])


def range_test(setup: Setup, rates: np.ndarray) -> RangeTest:
    """Take an optimizer step at each of some rates, on batches as training has them.

    Ends early where the loss runs away.
    """
    plan, state = setup.plan, setup.state
    state.network.train()
    losses, lowest = [], np.inf
    for lr, micro_batches in zip(track(rates, plan.name), _batches(setup), strict=False):
        set_lr(state.optimizer, lr)
        try:
            step = optimizer_step(plan, state, setup.objective, micro_batches, float(lr))
        except UserError:  # not finite: the end of the test, unless there was no beginning
            if not losses:
                raise
            break
        losses.append(sum(step) / len(step))
        recent = np.mean(losses[-RECENT:])
        lowest = min(lowest, recent)
        if recent > DIVERGED * lowest:
            break
    return RangeTest(rates[: len(losses)], np.array(losses))


def _batches(setup: Setup) -> Iterator[list[Batch]]:
    """The micro-batches of one optimizer step after another, epoch after epoch."""
    setup.batches.begin(0)
    return chunks(setup.loader, setup.plan.train.accumulate.steps)


def draw(path: Path, test: RangeTest, configured: float, title: str) -> None:
    """A plot of the loss over the rate, with the steepest fall and the experiment's rate."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.semilogx(test.lr, test.loss, color="0.8", linewidth=1, label="loss of a step")
    axes.semilogx(test.lr, test.smooth, label="smoothed")
    axes.axvline(test.steepest, color="C2", label=f"steepest fall {test.steepest:.1e}")
    axes.axvline(configured, color="C3", linestyle=":", label=f"train.lr {configured:.1e}")
    axes.set(
        xlabel="learning rate", ylabel="loss", title=title, ylim=(None, 1.2 * test.smooth[: len(test.lr) // 2].max())
    )
    axes.legend()
    with whole_file(path) as aside:
        figure.savefig(aside, format="png", dpi=120)


def find_lr(run: Run, member: Member, device: torch.device, rates: np.ndarray) -> RangeTest:
    """Make the test of a member and write its plot and csv.

    Raises:
        UserError: as `train_member`; or the loss fell at no rate.
    """
    setup = set_up(run, member, device)
    with in_users_words(member, setup.plan):
        test = range_test(setup, rates)
    folder = run.dir / "find_lr"
    curve = pd.DataFrame({"lr": test.lr, "loss": test.loss, "smooth": test.smooth})
    write_csv(folder / f"{member.model.name}.csv", curve)
    draw(folder / f"{member.model.name}.png", test, setup.plan.train.lr, f"{member}, {len(test.lr)} steps")
    return test


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("pipeline.find_lr", __doc__, "--model deeplab_r18 --fold 0")
    add_member_options(parser)
    parser.add_argument("--from", dest="first", type=float, default=1e-6, metavar="LR", help="default: %(default)s")
    parser.add_argument("--to", dest="last", type=float, default=1.0, metavar="LR", help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="optimizer steps; default: %(default)s")
    add_json(parser)
    args = parser.parse_intermixed_args(argv)
    if not (0 < args.first < args.last and args.steps >= 10):
        raise UserError(
            f"--from {args.first:g} --to {args.last:g} --steps {args.steps}: rates rise, steps are 10 or more"
        )
    run = open_run(load_experiment(args.config, args.overrides))
    member = member_of(run, args)
    set_up_cpu(run.experiment)
    rates = np.geomspace(args.first, args.last, args.steps)
    test = find_lr(run, member, pick_device(run.experiment.jobs), rates)
    lowest, configured = int(test.smooth.argmin()), run.experiment.train_of(member.model).lr
    print(
        f"{member}: the loss falls fastest at lr {test.steepest:.1e} and is lowest at {test.lr[lowest]:.1e} "
        f"({test.smooth[0]:.3f} -> {test.smooth[lowest]:.3f}); train.lr is {configured:.1e}"
    )
    print(f"plot: {run.dir / 'find_lr' / member.model.name}.png")
    write_figures(args.json, {"steepest": test.steepest, "lowest": float(test.lr[lowest]), "steps": len(test.lr)})


if __name__ == "__main__":
    run_command(main)
