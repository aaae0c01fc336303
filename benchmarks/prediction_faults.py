"""Predictions that are spoiled, or killed while they are made. Part of `python -m benchmarks.prediction`."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from base.errors import UserError
from benchmarks.measure import seconds
from config import Member, Run, load_experiment
from config.run import experiment_path
from pipeline.check import check_stores
from pipeline.store import INDEX, MANIFEST, PROBS
from tests.spoiled import SPOILED, write_clean

KILLS = 10
CLEAN_RUNS = 12


def provenance(folder: Path) -> dict[str, int]:
    """Every way of spoiling a run once, and CLEAN_RUNS clean ones."""
    caught, false_alarms = 0, 0
    for i, spoil in enumerate([*SPOILED, *[None] * CLEAN_RUNS]):
        run = Run(load_experiment(write_clean(folder / f"run{i}", seed=i)))
        if spoil:
            spoil(run)
        try:
            check_stores(run, content=True)
            print(f"missed: {spoil.__name__}" if spoil else "", end="\n" if spoil else "")
        except UserError as error:
            caught += spoil is not None and SPOILED[spoil] in str(error)
            false_alarms += spoil is None
    return {"provenance_caught": caught, "provenance_tried": len(SPOILED), "false_alarms": false_alarms}


def kill_and_go_on(run: Run, member: Member) -> dict[str, int]:
    """Predict in a process that is killed at a random moment, again and again; the store must come out the same."""
    path = run.oof_store(member)
    command = [sys.executable, "-m", "pipeline.predict", "--config", str(experiment_path(run.dir)),
               "--model", member.model.name, "--fold", str(member.fold), "--seed", str(member.seed),
               "jobs.devices=cpu"]  # fmt: skip

    def content() -> list[bytes]:
        return [(path / name).read_bytes() for name in (MANIFEST, INDEX, PROBS)]

    def left_aside() -> list[Path]:
        return list(path.parent.glob(f".{path.name}.*"))

    discard(path)
    whole_s = seconds(lambda: subprocess.run(command, check=True, capture_output=True))
    wanted, rng, killed, halves, same = content(), np.random.default_rng(0), 0, 0, 0
    while killed < KILLS:
        discard(path)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.3, 1.0) * whole_s)
        process.kill()
        if process.wait() == 0:
            continue  # it was done already
        killed, halves = killed + 1, halves + bool(left_aside())
        subprocess.run(command, check=True, capture_output=True)
        same += content() == wanted and not left_aside()
    print(f"killed {killed} times, {halves} of them in the middle of writing, and run again: ", end="")
    print(f"{same} stores the same to the byte, with nothing left beside them")
    return {"kills": killed, "kills_identical": same}


def discard(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
