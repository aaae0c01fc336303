"""How long jobs will take and how much disk they need: for the order of the grid, its plan, and the time that is left.

Seconds per tile come from `pipeline.probe`, which times a few steps of each network on the device; jobs that have ended
correct them. Without torch.
"""

import heapq
import socket
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from base.errors import UserError
from base.files import hash_value, read_json
from config import Member, Run
from config.ensemble import Predict
from config.schedules import Adaptive
from config.training import Model
from pipeline.job_state import JobState
from pipeline.slots import devices_here, gpus, threads_per_job

START_S = 6.0  # importing torch and opening the pack
GIB = 2**30


@dataclass(frozen=True)
class Cost:
    """Of one network on one device."""

    train_s: float
    """Seconds per tile of a training pass."""
    forward_s: float
    """Seconds per image of a forward pass."""
    parameters: int


@dataclass(frozen=True)
class TileCounts:
    """What a plan needs to know of the tiles."""

    in_fold: list[int]
    test: int
    height: int
    width: int

    def held_out(self, member: Member) -> int:
        return 0 if member.fold is None else self.in_fold[member.fold]

    @classmethod
    def of(cls, tiles: pd.DataFrame, folds: pd.DataFrame, k: int) -> "TileCounts":
        in_fold = folds.fold.value_counts().reindex(range(k), fill_value=0).tolist()
        return cls(in_fold, int((tiles.split == "test").sum()), int(tiles.height.iloc[0]), int(tiles.width.iloc[0]))


def costs_path(run: Run) -> Path:
    return Path(run.experiment.runs_dir) / "costs.json"  # beside the runs: runs of the same networks share it


def cost_key(run: Run, model: Model, counts: TileCounts) -> str:
    """The same for networks that take the same time on this machine."""
    experiment = run.experiment
    train = experiment.train_of(model)
    place = [socket.gethostname(), devices_here(experiment.jobs)[0], gpus()]
    place.append(threads_per_job(experiment.jobs, experiment.member_count, len(gpus())))
    network = [model.arch, model.encoder, model.params, model.target == "all", train.precision, train.channels_last]
    data = [experiment.data.input_channels, len(experiment.data.classes)]
    return hash_value([network, data, counts.height, counts.width, place])[:16]


def read_costs(run: Run, counts: TileCounts) -> dict[str, Cost]:
    """The measured costs by model name; models that were never measured on this machine are not in it."""
    path = costs_path(run)
    measured = read_json(path) if path.exists() else {}
    keys = {model.name: cost_key(run, model, counts) for model in run.experiment.models}
    return {name: Cost(**measured[key]["cost"]) for name, key in keys.items() if key in measured}


def measure_costs(run: Run, counts: TileCounts, arguments: Sequence[str]) -> dict[str, Cost]:
    """The costs of all models; those that are not known yet are measured now, in a process of their own.

    A probe that fails, out of memory on a GPU that others use too, says so and leaves its networks unknown: costs order
    jobs, and every run goes without them.

    Args:
        arguments: `--config FILE key=value...`, as they were given to us.

    Raises:
        UserError: a network that cannot be built.
    """
    if len(read_costs(run, counts)) < len(run.experiment.models):
        command = [sys.executable, "-m", "pipeline.probe", *arguments]
        probe = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if probe.returncode == 2:
            raise UserError(probe.stderr.strip().removeprefix("error: "))
        if probe.returncode:
            said = (probe.stderr.strip().splitlines() or [f"exit code {probe.returncode}"])[-1]
            print(f"networks could not be timed, and jobs run in the order of the tables: {said}", file=sys.stderr)
    return read_costs(run, counts)


def expected_s(run: Run, member: Member, steps: Sequence[str], cost: Cost, counts: TileCounts) -> float:
    """Seconds that the steps of a member will take by the probe alone."""
    train, predict = run.experiment.train_of(member.model), run.experiment.predict
    held_out = counts.held_out(member)
    passes = passes_per_tile(predict)
    seconds = {
        "train": train.epochs * (sum(counts.in_fold) - held_out) * cost.train_s,
        "oof": held_out * passes * cost.forward_s,
        "test": counts.test * passes * cost.forward_s,
    }
    return START_S + sum(seconds[step] for step in steps)


def passes_per_tile(predict: Predict) -> float:
    """Forward passes that one tile takes, by all kinds of weights; a scaled tile counts as its pixels."""
    pictures = sum(scale**2 for scale in (1.0, *predict.scales)) * (1 + len(predict.stretch))
    return len(predict.views) * pictures * len(predict.weight_kinds)


def pace_of(states: Sequence[JobState]) -> float:
    """How many times longer than by the probe jobs really take: the median of those that ran undisturbed, or 1."""
    ratios = [
        state.attempts[0].wall_s / state.probe_s
        for state in states
        if state.status == "done" and state.probe_s and len(state.attempts) == 1
    ]
    return statistics.median(ratios) if ratios else 1.0


def makespan_s(seconds: Sequence[float], slots: int) -> float:
    """Seconds until the last of some jobs has ended, longest first, each on the slot that is free first."""
    free = [0.0] * slots
    for job in sorted(seconds, reverse=True):
        heapq.heappush(free, heapq.heappop(free) + job)
    return max(free)


def weight_bytes(run: Run, model: Model, cost: Cost) -> int:
    """All kinds of weights of a finished member: last, and best, ema, swa where they are asked for."""
    train = run.experiment.train_of(model)
    kinds = 1 + bool(train.validate_every) + bool(train.ema) + bool(train.swa)
    return 4 * cost.parameters * kinds


def checkpoint_bytes(run: Run, model: Model, cost: Cost) -> int:
    """last.pt while a member trains, and the next one beside it: weights, the optimizer's moments, the averages."""
    train = run.experiment.train_of(model)
    moments = 2 if isinstance(train.optimizer, Adaptive) else 1
    return 2 * 4 * cost.parameters * (1 + moments + bool(train.ema) + bool(train.swa))


def store_bytes(run: Run, model: Model, tiles: int, counts: TileCounts) -> int:
    """The most that a store of some tiles can take; compression leaves less, a fifth where networks are sure."""
    channels = len(run.experiment.outputs_of(model))
    per_value = {"uint8": 1, "float16": 2}[run.experiment.predict.dtype]
    return tiles * channels * counts.height * counts.width * per_value


def as_entry(cost: Cost, model: Model, device: str) -> dict:
    """What costs.json says of a measurement; the names are for a person who reads it."""
    return {"model": model.name, "host": socket.gethostname(), "device": device, "cost": asdict(cost)}
