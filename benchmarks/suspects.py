"""Are wrong masks found by networks that were trained on them? The demo, with 5 % of the objects given another label.

python -m benchmarks.suspects [--json FILE] [--run FOLDER]

The flips are planted before anything is trained, so that members have learned from wrong masks as well, though not from
those that they are asked about. `--run` keeps the run for the next time.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml

from base.command import add_json, plain_parser, run, write_figures
from base.tables import read_csv
from benchmarks.machine import ROOT
from config import Run, load_experiment
from folds.classes import ClassTable
from folds.landscape import make_landscape
from submissions import png
from tests.planted import plant_flips, planted_share

SHARE, SEED = 0.05, 0
STAGES = ("folds.tiles", "folds.assign", "pipeline.cv", "ensemble.blend", "reports.suspects")


def flipped(folder: Path) -> tuple[Path, list[str], list[tuple[int, np.ndarray]]]:
    """The demo's tiles under `folder`, errors planted in their masks: config, tile names, where the errors are."""
    values = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
    values |= {"runs_dir": str(folder / "runs"), "zips_dir": str(folder / "zips")}
    values["data"]["root"] = str(folder / "data")
    config = folder / "demo.yaml"
    config.write_text(yaml.safe_dump(values, sort_keys=False))
    make_landscape(load_experiment(config).data)
    values["data"]["generate"] = None  # the masks are to stay as they will be
    config.write_text(yaml.safe_dump(values, sort_keys=False))

    classes = ClassTable.of(load_experiment(config).data)
    paths = sorted((folder / "data" / "train").glob("*.png"))
    kept = folder / "masks.npy"  # as they were drawn
    if not kept.exists():
        np.save(kept, np.stack([classes.read_index(path) for path in paths]))
    truth_NHW = np.load(kept)
    planted = plant_flips(truth_NHW, len(classes), SHARE, SEED)
    for path, truth_HW in zip(paths, truth_NHW, strict=True):
        data = png.encode(classes.to_label(truth_HW))
        if path.read_bytes() != data:  # a file that is touched makes a run stale
            path.write_bytes(data)
    return config, [path.stem for path in paths], planted


def main(argv: list[str] | None = None) -> None:
    parser = plain_parser("benchmarks.suspects", __doc__)
    parser.add_argument("--run", metavar="FOLDER", help="where the run is kept, and found the next time")
    add_json(parser)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.run or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        config, names, planted = flipped(folder)
        for stage in STAGES:
            subprocess.run([sys.executable, "-m", stage, "--config", str(config)], cwd=ROOT, check=True)
        path = Run(load_experiment(config)).dir / "suspects.csv"
        suspects = read_csv(path, dtype={"name": str})
    first = suspects.head(len(planted))
    precision = planted_share(first, planted, names)
    print(f"{len(planted)} of the objects in {len(names)} tiles have a wrong label; among the first {len(first)} of "
          f"{len(suspects)} suspects {precision:.0%} are such")  # fmt: skip
    write_figures(args.json, {"suspects_planted": len(planted), "suspects_precision": precision})


if __name__ == "__main__":
    run(main)
