"""How evenly folds are shared out, beside the usual splitters; how many neighbours are found; seconds for 16,017 tiles.

python -m benchmarks.folds [--naip DIR] [--json FILE]      peers: pip install -r requirements-bench.txt
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import KFold, StratifiedGroupKFold, StratifiedKFold

from base.command import add_json, plain_parser, run, write_figures
from base.errors import UserError
from benchmarks.measure import in_own_process, peak_mib, told
from benchmarks.synthetic import TILES, draw_groups, draw_hists, draw_scan
from config import load_experiment
from folds.assign import assign_folds, relative_deviation
from folds.duplicates import find_duplicates
from folds.files import find_tiles
from folds.landscape import make_landscape
from folds.links import find_links
from folds.mosaic import recover_mosaics
from folds.reader import TileReader
from folds.scan import read_scan, scan_tiles

K, GROUPS = 5, 400
ROUNDS = 5  # interleaved, each with another seed
SCENE_TILES = 10  # scenes of the 16,017 tiles are 10 x 10
CORES = 2


def worst(hist_NC: np.ndarray, fold_N: np.ndarray) -> float:
    return float(np.abs(relative_deviation(hist_NC, fold_N, K)).max())


def folds_of(splits: Any) -> np.ndarray:
    fold_N = np.empty(TILES, np.int64)
    for fold, (_, held_out) in enumerate(splits):
        fold_N[held_out] = fold
    return fold_N


def balance() -> dict[str, float]:
    """Worst relative deviation of any class, or of tiles, in any of K folds: ours and the peers', round by round.

    Raises:
        UserError: a peer is not installed.
    """
    try:
        from iterstrat.ml_stratifiers import MultilabelStratifiedKFold
    except ModuleNotFoundError:
        raise UserError(
            "iterative-stratification is not installed; it is measured here only. "
            "Run: pip install -r requirements-bench.txt"
        ) from None
    single_N = np.arange(TILES)
    group_N = draw_groups(GROUPS, np.random.default_rng(0))
    hist_NC, grouped_NC = (draw_hists(np.random.default_rng(1), each) for each in (single_N, group_N))
    splitters: dict[str, Callable[[int], np.ndarray]] = {
        "max_rel_dev": lambda seed: assign_folds(hist_NC, single_N, K, seed),
        "kfold_max_rel_dev": lambda seed: folds_of(KFold(K, shuffle=True, random_state=seed).split(hist_NC)),
        "stratified_max_rel_dev": lambda seed: folds_of(
            StratifiedKFold(K, shuffle=True, random_state=seed).split(hist_NC, hist_NC.argmax(1))
        ),
        "multilabel_max_rel_dev": lambda seed: folds_of(
            MultilabelStratifiedKFold(n_splits=K, shuffle=True, random_state=seed).split(hist_NC, hist_NC > 0)
        ),
        "grouped_max_rel_dev": lambda seed: assign_folds(grouped_NC, group_N, K, seed),
        "sgkf_grouped_max_rel_dev": lambda seed: folds_of(
            StratifiedGroupKFold(K, shuffle=True, random_state=seed).split(grouped_NC, grouped_NC.argmax(1), group_N)
        ),
    }
    deviations: dict[str, list[float]] = {name: [] for name in splitters}
    times: dict[str, list[float]] = {name: [] for name in splitters}
    for seed in range(ROUNDS):
        for name, split in splitters.items():
            started = time.perf_counter()
            fold_N = split(seed)
            times[name].append(time.perf_counter() - started)
            deviations[name].append(worst(grouped_NC if "grouped" in name else hist_NC, fold_N))
    print(f"{TILES} tiles with the competition's shares, {K} folds; grouped: {GROUPS} groups. Middle (least to most)")
    for name, values in deviations.items():
        low, middle, high = (f"{value:.3%}" for value in (min(values), np.median(values), max(values)))
        print(f"  {name:26} {middle:>9} ({low} to {high}) in {told(times[name], 2)} s")
    return {name: float(np.median(values)) for name, values in deviations.items()} | {
        "assign_s": float(np.median(times["max_rel_dev"]))
    }


def true_neighbours(csv: pd.DataFrame, found: pd.DataFrame) -> set[tuple[int, int, str]]:
    """Positions in the table of files, of the tiles whose split, scene, row and col the csv tells."""
    position = {key: n for n, key in enumerate(zip(found.split, found.name, strict=True))}
    at = {(r.split, r.scene, int(r.row), int(r.col)): position[r.split, r.name] for r in csv.itertuples(index=False)}
    pairs = set()
    for (split, scene, row, col), a in at.items():
        for relation, place in (("right", (row, col + 1)), ("below", (row + 1, col))):
            if (b := at.get((split, scene, *place))) is not None:
                pairs.add((a, b, relation))
    return pairs


def recovery(what: str, config: str, root: Path, csv_name: str) -> tuple[float, float]:
    """Precision and recall of the neighbours among the tiles whose place is known."""
    data = load_experiment(config, [f"data.root={root}"]).data
    found = find_tiles(data)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        scan_tiles(found, TileReader.of(data), len(data.bands), Path(folder))
        rate = len(found) / (time.perf_counter() - started)
        scan = read_scan(Path(folder))  # mapped: what is mapped stays when its name is gone
    csv = pd.read_csv(root / csv_name, dtype={"name": str}).dropna(subset=["scene", "row", "col"])
    true = true_neighbours(csv, found)
    known = set(zip(csv.split, csv.name, strict=True))
    known_N = np.array([key in known for key in zip(found.split, found.name, strict=True)])
    links = find_links(scan).neighbours
    links = links[known_N[links.a] | known_N[links.b]]
    pairs = set(zip(links.a, links.b, links.relation, strict=True))
    hits = len(pairs & true)
    print(
        f"  {what}: {len(true)} pairs of neighbours among {known_N.sum()} tiles of {scan.size_N2[0, 0]} px; "
        f"{hits} found, {len(pairs) - hits} invented; tiles read at {rate:.0f} a second"
    )
    return hits / max(len(pairs), 1), hits / len(true)


def recover_many() -> tuple[float, float, int, int, int]:
    """Seconds and peak MiB of the recovery among TILES tiles; pairs found, right, and true. In a process of its own."""
    scan, true = draw_scan(np.random.default_rng(0), SCENE_TILES)
    started = time.perf_counter()
    pairs = recover_mosaics(scan, np.ones(TILES, bool)).pairs
    seconds = time.perf_counter() - started
    found = set(zip(pairs.a, pairs.b, pairs.relation, strict=True))
    return seconds, peak_mib(), len(found), len(found & true), len(true)


def find_many_duplicates() -> tuple[float, float, int]:
    """Seconds and peak MiB of the duplicate search, and how many of 100 planted copies are found."""
    rng = np.random.default_rng(0)
    scan, _ = draw_scan(rng, SCENE_TILES)
    for n in range(100):
        scan.thumb_NEEB[TILES - 1 - n] = np.rot90(scan.thumb_NEEB[n], n % 4) + rng.normal(0, 1, (32, 32, 4))
    started = time.perf_counter()
    pairs = find_duplicates(scan).pairs
    seconds = time.perf_counter() - started
    planted = {(n, TILES - 1 - n) for n in range(100)}
    return seconds, peak_mib(), len(planted & set(zip(pairs.a, pairs.b, strict=True)))


def main(argv: list[str] | None = None) -> None:
    parser = plain_parser("benchmarks.folds", __doc__)
    parser.add_argument("--naip", metavar="DIR", type=Path, help="also measure the recovery on this data set")
    add_json(parser)
    args = parser.parse_args(argv)
    figures: dict[str, float] = balance()

    print("neighbours recovered")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "drawn"
        make_landscape(load_experiment("configs/demo.yaml", [f"data.root={root}"]).data)
        scores = {"drawn": recovery("generated competition", "configs/demo.yaml", root, "scenes.csv")}
    if args.naip:
        scores["naip"] = recovery("naip", "configs/naip.yaml", args.naip, "tiles.csv")
    for what, at in (("precision", 0), ("recall", 1)):
        figures |= {f"{name}_{what}": score[at] for name, score in scores.items()}
        # Of several data sets the worst counts.
        figures[f"mosaic_{what}"] = min(score[at] for score in scores.values())

    # Of the processes that are started now: BLAS reads it when it is loaded.
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(CORES)
    runs = [(in_own_process(recover_many), in_own_process(find_many_duplicates)) for _ in range(3)]
    mosaics, duplicates = zip(*runs, strict=True)
    _, _, found, right, true = mosaics[0]
    print(f"{TILES} synthetic tiles on {CORES} cores, pixels read before; middle (least to most) of {len(runs)}")
    print(f"  neighbours: {told([m[0] for m in mosaics], 2)} s, peak {max(m[1] for m in mosaics):.0f} MiB; "
          f"{right} of {true} found, {found - right} invented")  # fmt: skip
    print(f"  duplicates: {told([d[0] for d in duplicates], 2)} s, peak {max(d[1] for d in duplicates):.0f} MiB; "
          f"{duplicates[0][2]} of 100 planted copies found")  # fmt: skip
    figures |= {
        "mosaic_16k_s": float(np.median([m[0] for m in mosaics])),
        "mosaic_16k_mib": max(m[1] for m in mosaics),
        "duplicates_16k_s": float(np.median([d[0] for d in duplicates])),
    }
    print("\n".join(f"{key} {value:.4g}" for key, value in figures.items()))
    write_figures(args.json, figures)


if __name__ == "__main__":
    run(main)
