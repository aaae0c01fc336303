"""The folds: no group is split, every class is shared out evenly -> `runs/<name>/folds.csv`."""

from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from base.command import run, stage_parser
from base.errors import UserError, listed
from base.files import whole_file
from base.stamps import hash_files
from config import Run, load_experiment, open_run
from folds.classes import ClassTable
from folds.tiles import hist_of, make_tiles

# Shares are counted in integer parts of this. Integer sums are exact in any order, so the same folds come out on every
# processor and BLAS; with floats, the last bit would decide between two folds that are nearly equally full.
# A share is at most 2^26 and a table has at most 256 columns: a dot product stays below 2^60, within int64.
PARTS = 1 << 26


def assign_folds(hist_NC: np.ndarray, group_N: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """Give each tile a fold: a group is never split, every fold gets its share of every class and of the tiles.

    Groups are taken in descending order of the largest share of any class that they hold, each to the fold whose
    load it raises least. Shares, not pixels: a rare class weighs as much as a common one.

    Args:
        hist_NC: (N, C) pixels per tile and class; a row of zeros is a tile without labels.
        group_N: (N,) tiles with the same value stay together.
        k: number of folds.
        seed: order among groups with equal largest shares.

    Returns:
        (N,) fold numbers 0..k-1. They depend on group names and contents, not on the order of the tiles.

    Raises:
        UserError: k is larger than the number of groups.
    """
    groups, group_of_tile = np.unique(np.asarray(group_N), return_inverse=True)
    if not 2 <= k <= len(groups):
        raise UserError(f"folds.k={k}: {len(group_N)} tiles form {len(groups)} groups, so k can be 2..{len(groups)}")
    share_GC = _shares(hist_NC, group_of_tile, len(groups))

    shuffled = np.random.default_rng(seed).permutation(len(groups))
    order = shuffled[np.argsort(-share_GC[shuffled].max(1), kind="stable")]
    load_KC = np.zeros((k, share_GC.shape[1]), np.int64)
    fold_G = np.empty(len(groups), np.int64)
    for g in order:
        # Adding s to a fold with load l raises the sum of squares by 2 l.s + s.s, and s.s is the same for all folds.
        fold = int(np.argmin(load_KC @ share_GC[g]))
        fold_G[g] = fold
        load_KC[fold] += share_GC[g]
    return fold_G[group_of_tile]


def relative_deviation(hist_NC: np.ndarray, fold_N: np.ndarray, k: int) -> np.ndarray:
    """(K, C+1) how far each fold is from its even share of each class, and in the last column of the tiles.

    0.1: 10 % more than an even share; -1: nothing of it. A class without any pixel is 0 everywhere.
    """
    share_KC = _shares(hist_NC, np.asarray(fold_N), k)
    return share_KC / (PARTS / k) - (share_KC.sum(0) > 0)


def _shares(hist_NC: np.ndarray, part_N: np.ndarray, parts: int) -> np.ndarray:
    """(parts, C+1) share of each class, and of the tiles, that lies in each part, as integers out of PARTS."""
    with_ones = np.column_stack([hist_NC, np.ones(len(hist_NC), np.int64)]).astype(np.int64)
    hist_PC = np.zeros((parts, with_ones.shape[1]), np.int64)
    np.add.at(hist_PC, part_N, with_ones)
    return np.rint(hist_PC / np.maximum(hist_PC.sum(0), 1) * PARTS).astype(np.int64)


def make_folds(run: Run) -> pd.DataFrame:
    """Write `folds.csv` (name, group, fold; the train tiles in the tile table's order) unless it holds; return it."""
    tiles = make_tiles(run)
    inputs = hash_files([run.tiles_csv])
    if run.is_fresh(run.folds_csv, run.folds_keys, inputs, is_folder=False):
        return read_folds(run.folds_csv)
    experiment = run.experiment
    train = tiles[tiles.split == "train"]
    hist_NC = hist_of(tiles, ClassTable.of(experiment.data))
    fold_N = assign_folds(hist_NC, train.group.to_numpy(), experiment.folds.k, experiment.folds.seed)
    folds = train[["name", "group"]].assign(fold=fold_N).reset_index(drop=True)
    with whole_file(run.folds_csv) as aside:
        folds.to_csv(aside, index=False)
    run.finish(run.folds_csv, run.folds_keys, inputs, [run.folds_csv], is_folder=False)
    return folds


def read_folds(path: Path) -> pd.DataFrame:
    """The columns name, group (text) and fold (int) of a folds file, in the file's order."""
    if not path.exists():
        raise UserError(f"{path}: no folds yet. Run: python -m folds.assign --config FILE")
    folds = pd.read_csv(path, dtype={"name": str, "group": str}, keep_default_na=False)
    missing = [column for column in ("name", "group", "fold") if column not in folds]
    if missing:
        raise UserError(f"{path}: no column {listed(missing)}; a folds file has name, group and fold")
    return folds


def deviation_table(hist_NC: np.ndarray, fold_N: np.ndarray, k: int, names: list[str]) -> Table:
    """What `relative_deviation` says, for the screen: a row per class and one for the tiles, a column per fold."""
    deviation_KC = relative_deviation(hist_NC, fold_N, k)
    table = Table(title="fold against an even share")
    table.add_column("class")
    table.add_column("share", justify="right")
    for fold in range(k):
        table.add_column(f"fold {fold}", justify="right")
    total_C = hist_NC.sum(0)
    for c, name in enumerate(names):
        table.add_row(name, f"{total_C[c] / total_C.sum():.2%}", *(f"{d:+.2%}" for d in deviation_KC[:, c]))
    table.add_section()
    table.add_row("tiles", str(len(fold_N)), *(f"{d:+.2%}" for d in deviation_KC[:, -1]))
    return table


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("folds.assign", __doc__)
    args = parser.parse_intermixed_args(argv)
    run = open_run(load_experiment(args.config, args.overrides))
    folds = make_folds(run)
    classes = ClassTable.of(run.experiment.data)
    hist_NC = hist_of(make_tiles(run), classes)
    k = run.experiment.folds.k
    Console(width=100).print(deviation_table(hist_NC, folds.fold.to_numpy(), k, list(classes.names)))
    worst = np.abs(relative_deviation(hist_NC, folds.fold.to_numpy(), k)).max()
    print(f"{run.folds_csv}: {len(folds)} tiles in {folds.group.nunique()} groups, {k} folds, worst {worst:.2%}")


if __name__ == "__main__":
    run(main)
