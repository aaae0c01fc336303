"""How long the report of 16,017 tiles takes, how large it is, what memory it needs; how soon its tiles can be browsed.

python -m benchmarks.report_scale [--json FILE] [--run FOLDER]

A finished run of the competition's size is played: its tiles of 256 x 256 are hard links to a hundred drawn ones,
packed, predicted (three models, five folds), blended and handed in by the project's own stages; only the networks are
played (tests/played_run.py). The report is then made in a process of its own, first with nothing of the run in the
page cache, then once more. `--run` keeps the run, 30 GB, for the next time.
"""

import os
import tempfile
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from base.command import add_json, plain_parser, run, write_figures
from benchmarks.measure import in_own_process, peak_mib, seconds
from config import Run, load_experiment
from folds.landscape import make_landscape
from reports import build
from reports.material import Material
from reports.tile_view import TileView
from tests.played_run import member_probs, play, played_config

TRAIN, TEST = 16_017, 3_000  # round 1 of the competition, test A
SCENES = 400
LANDSCAPE = {"train_scenes": 6, "test_scenes": 1, "scene_tiles": 4, "tile_px": 256}
BROWSED = 50  # tiles looked at
WEIGHTS_MIB = 50  # of a network: its hash is part of the proof that a report begins with
MODELS = [
    {"name": f"model{m}", "arch": arch, "encoder": "resnet18"} for m, arch in enumerate(["Unet", "FPN", "UnetPlusPlus"])
]


def make_run(folder: Path) -> None:
    """A finished run under `folder`, with its config, large.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    config = played_config(folder, **LANDSCAPE)
    drawn = load_experiment(config).data
    make_landscape(drawn)
    values = yaml.safe_load(config.read_text()) | {"name": "large", "models": MODELS}
    values["data"] |= {"root": str(folder / "large"), "generate": None}
    values["folds"]["k"] = 5
    config = folder / "large.yaml"
    config.write_text(yaml.safe_dump(values, sort_keys=False))
    link_tiles(Path(drawn.root), folder / "large")
    play(config, opinion=Remembered(), weight_bytes=WEIGHTS_MIB << 20)


def link_tiles(source: Path, root: Path) -> None:
    """TRAIN and TEST tiles that are links to the drawn ones, in scenes of uneven size."""
    for split, masks, count in (("train", "train", TRAIN), ("test", "truth", TEST)):
        (root / split).mkdir(parents=True)
        (root / masks).mkdir(exist_ok=True)
        images = sorted((source / split).glob("*.tif"))
        for i in range(count):
            image = images[i % len(images)]
            os.link(image, root / split / f"{split}{i:06d}.tif")
            os.link(source / masks / f"{image.stem}.png", root / masks / f"{split}{i:06d}.png")
    scene = np.sort(np.random.default_rng(0).integers(0, SCENES, TRAIN))
    names = [f"train{i:06d}" for i in range(TRAIN)]
    pd.DataFrame({"name": names, "scene": scene}).to_csv(root / "scenes.csv", index=False)


class Remembered:
    """`member_probs` that draws each tile once for each skill: copies of a tile get the same probabilities."""

    def __init__(self) -> None:
        self.drawn: dict[tuple[int, float], np.ndarray] = {}

    def __call__(self, rng: np.random.Generator, truth_HW: np.ndarray, num_classes: int, skill: float) -> np.ndarray:
        key = zlib.crc32(np.ascontiguousarray(truth_HW)), skill
        if key not in self.drawn:
            self.drawn[key] = member_probs(rng, truth_HW, num_classes, skill)
        return self.drawn[key]


def report_once(config: Path) -> dict[str, float]:
    """Seconds of the report and of its parts, its MiB and the process's peak, made anew."""
    run = Run(load_experiment(config))
    for path in (run.dir / "report.html", run.dir / "report.html.stamp.json", run.dir / "suspects.csv.stamp.json"):
        path.unlink(missing_ok=True)
    spent: dict[str, float] = {}

    def timed(name: str, work: Callable[..., Any], *given: Any) -> Any:
        began = time.perf_counter()
        result = work(*given)
        spent[name] = time.perf_counter() - began
        return result

    for name, (title, section) in build.SECTIONS.items():
        build.SECTIONS[name] = (title, partial(timed, name, section))
    timed("report", build.make_report, run)
    spent["the rest"] = spent["report"] - sum(s for name, s in spent.items() if name != "report")
    return spent | {"mib": (run.dir / "report.html").stat().st_size / 2**20, "peak_mib": peak_mib()}


def browse_once(config: Path) -> dict[str, float]:
    """Seconds until the table of tiles is there, at first and ever after; of the list; of one tile, on average."""
    path = Run(load_experiment(config)).dir / "tile_scores.csv"
    path.unlink(missing_ok=True)
    first, again = (TileView(Material(Run(load_experiment(config)))) for _ in range(2))
    spent = {"first": seconds(lambda: first.table), "start": seconds(lambda: again.table)}
    again.tile(0)
    spent["list"] = seconds(lambda: again.select("water", None, 0, 1, "worst"))
    shown = np.linspace(1, TRAIN - 1, BROWSED).astype(int)
    spent["tile"] = seconds(lambda: [again.tile(int(n)) for n in shown]) / BROWSED
    return spent | {"peak_mib": peak_mib()}


def measured(folder: Path, state: str) -> dict[str, float]:
    """`report_once` in a process of its own, so that its peak memory is the report's; printed."""
    found = in_own_process(report_once, folder / "large.yaml")
    sizes = "mib", "peak_mib"
    parts = ", ".join(f"{name} {value:.1f}" for name, value in found.items() if name not in sizes)
    print(f"{state}: {parts} s; {found['mib']:.1f} MiB, peak {found['peak_mib']:.0f} MiB", flush=True)
    return found


def forget(folder: Path) -> None:
    """Nothing of the folder's files stays in the page cache."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main(argv: list[str] | None = None) -> None:
    parser = plain_parser("benchmarks.report_scale", __doc__)
    parser.add_argument("--run", metavar="FOLDER", help="where the played run is kept, and found the next time")
    add_json(parser)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.run or scratch)
        finished = folder / "finished"
        if not finished.exists():
            spent = seconds(lambda: make_run(folder))
            finished.touch()
            print(f"run: {TRAIN} + {TEST} tiles, {len(MODELS)} models, made in {spent:.0f} s", flush=True)
        forget(folder)
        cold, warm = measured(folder, "cold"), measured(folder, "warm")
        browsed = in_own_process(browse_once, folder / "large.yaml")
        print("browse: " + ", ".join(f"{name} {value:.3g}" for name, value in browsed.items()), flush=True)
    write_figures(args.json, {
        "report_16k_s": cold["report"],
        "report_16k_warm_s": warm["report"],
        "report_16k_mib": cold["mib"],
        "report_16k_peak_mib": max(cold["peak_mib"], warm["peak_mib"]),
        "browse_16k_first_s": browsed["first"],
        "browse_16k_start_s": browsed["start"],
        "browse_16k_list_s": browsed["list"],
        "browse_16k_tile_s": browsed["tile"],
    })  # fmt: skip


if __name__ == "__main__":
    run(main)
