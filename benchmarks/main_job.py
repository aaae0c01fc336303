"""The two commands as a person runs them: minutes, memory, and what comes out.

python -m benchmarks.main_job [--naip DIR] [--json FILE]

`bash run_cv.sh` on the demo, with --naip on the naip set too, each into folders of their own; and `bash run_tests.sh`,
whose seconds are null when a test fails. Memory is that of the whole tree of processes, shared pages counted once
(PSS), looked at twice a second.
"""

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from base.command import add_json, plain_parser, run, write_figures
from base.errors import UserError
from base.tables import read_csv
from benchmarks.machine import ROOT
from benchmarks.measure import seconds
from config import Experiment, Run, load_experiment
from folds.metrics import mean_iou
from folds.tiles import read_tiles
from submissions.score import score_submission
from submissions.verify import verify_submission

LOOK_S = 0.5


def tree_mib(root: int) -> float:
    """Memory of a process and all that descend from it, in MiB of PSS."""
    parents, children = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:  # the name in brackets may hold anything; what follows it may not
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    total, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, [])
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
    return total / 1024


def run_watched(command: Sequence[str]) -> tuple[float, float]:
    """Seconds and peak MiB of a command that must end well; its output goes to the screen."""
    peak, ended = 0.0, threading.Event()

    def look() -> None:
        nonlocal peak
        while not ended.wait(LOOK_S):
            peak = max(peak, tree_mib(os.getpid()))

    watcher = threading.Thread(target=look)
    watcher.start()
    environment = {**os.environ, "FOLDSCAPE_PYTHON": sys.executable}
    try:
        taken = seconds(lambda: subprocess.run(command, cwd=ROOT, env=environment, check=True))
    except subprocess.CalledProcessError as error:
        raise UserError(f"{' '.join(command[:2])} failed with exit code {error.returncode}, see above") from None
    finally:
        ended.set()
        watcher.join()
    return taken, peak


def main_job(name: str, config: str, folder: Path, overrides: Sequence[str]) -> dict[str, float]:
    """Run it; what it cost, and how its blend compares, on honest OOF scores of the same tiles."""
    places = [*overrides, f"runs_dir={folder}/runs", f"zips_dir={folder}/zips"]
    taken, peak = run_watched(["bash", "run_cv.sh", config, *places])
    experiment = load_experiment(config, places)
    table = read_csv(Run(experiment).dir / "oof.csv").set_index("name")
    blend, models = (table[table.kind == kind] for kind in ("blend", "model"))
    auto = float(blend.miou[blend.fold.isna()].item())
    figures = {
        "s": taken,
        "mib": peak,
        "miou": auto,
        "over_uniform": auto - float(table.miou[f"{experiment.blend.name}: uniform"]),
        "over_best_model": auto - float(models.miou.max()),
        "over_best_member": over_best_member(table),
    } | judge_zip(experiment, auto)
    return {f"{name}_{key}": value for key, value in figures.items()}


def over_best_member(table: pd.DataFrame) -> float:
    """Honest mIoU of the blend less that of a fold's best member, on the fold's tiles: the least of all folds.

    Folds are not equally hard, so a member's score says nothing beside the blend's on all tiles.
    """
    best, blend = (
        table[(table.kind == kind) & table.fold.notna()].groupby("fold").miou.max() for kind in ("member", "blend")
    )
    return float((blend - best).min())


def judge_zip(experiment: Experiment, honest: float) -> dict[str, float]:
    """Errors that verify finds, and, where the test masks are known, how far the honest score is from the true one."""
    this = Run(experiment)
    tiles = read_tiles(this.tiles_csv)
    figures = {"zip_errors": len(verify_submission(this.zip_path, experiment, tiles).errors)}
    if experiment.data.test_masks:
        figures["honest_gap"] = abs(honest - mean_iou(score_submission(this.zip_path, experiment, tiles)))
    return figures


def main(argv: list[str] | None = None) -> None:
    parser = plain_parser("benchmarks.main_job", __doc__)
    parser.add_argument("--naip", metavar="DIR", help="also the naip set")
    add_json(parser)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures: dict[str, float | None] = main_job(
            "demo", "configs/demo.yaml", folder / "demo", [f"data.root={folder}/data"]
        )
        if args.naip:
            figures |= main_job("naip", "configs/naip.yaml", folder / "naip", [f"data.root={args.naip}"])
    print("\n".join(f"{key} {value:.4g}" for key, value in figures.items()), flush=True)
    try:
        figures["tests_s"], _ = run_watched(["bash", "run_tests.sh"])
        print(f"tests_s {figures['tests_s']:.4g}")
    except UserError as error:
        print(error)
        figures["tests_s"] = None
    write_figures(args.json, figures)


if __name__ == "__main__":
    run(main)
