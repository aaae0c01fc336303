"""The folds: no group is split, every class is shared out evenly -> `runs/<name>/folds.csv`.

Folds made elsewhere or by hand come in through `folds.file`, and pass the same audit. A `folds.csv` that was edited in,
or laid into, the run folder is refused: what trained on it could not be told from what trained on the experiment's.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table

from base.command import add_json, run, stage_parser, write_figures
from base.errors import UserError, listed
from base.files import hash_file
from base.screen import screen, text_table
from base.stamps import FileResult, file_stamp, hash_files, read_stamp
from base.tables import write_csv
from config import Run, load_experiment, open_run
from config.data import Folds
from folds.balance import PARTS, cover_classes, greedy_folds, search_folds
from folds.classes import ClassTable
from folds.folds_csv import import_folds, read_folds
from folds.tiles import hist_of, make_tiles


def assign_folds(hist_NC: np.ndarray, group_N: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """Give each tile a fold: a group is never split, every fold gets its share of every class and of the tiles.

    Groups are taken in descending order of the largest share of any class that they hold, each to the fold whose
    load it raises least; then local search swaps and moves groups, at last so that no fold goes without a class that
    lives in k groups or more, as far as that can be. Shares, not pixels: a rare class weighs as much as a common one.

    Args:
        hist_NC: (N, C) pixels per tile and class; a row of zeros is a tile without labels.
        group_N: (N,) tiles with the same value stay together.
        k: number of folds.
        seed: order among equals.

    Returns:
        (N,) fold numbers 0..k-1. They depend on group names and contents, not on the order of the tiles, nor on the
        machine.

    Raises:
        UserError: k is larger than the number of groups.
    """
    groups, group_of_tile = np.unique(np.asarray(group_N), return_inverse=True)
    _refuse_k(k, len(groups), len(group_N))
    hist_GC = _summed(hist_NC, group_of_tile, len(groups))
    share_GC = np.rint(hist_GC / np.maximum(hist_GC.sum(0), 1) * PARTS).astype(np.int64)
    rng = np.random.default_rng(seed)
    fold_G = search_folds(share_GC, greedy_folds(share_GC, k, rng), k, rng)
    return cover_classes(share_GC, hist_GC > 0, fold_G, k)[group_of_tile]


def _refuse_k(k: int, groups: int, tiles: int, more: str = "") -> None:
    """
    Args:
        more: `more_groups` of the experiment, as far as that is known.
    """
    if not 2 <= k <= groups:
        ways = f", or {more}" if more else ""
        raise UserError(
            f"folds.k={k}: {tiles} tiles form {groups} groups, and a fold needs one at least. Change folds.k{ways}"
        )


def more_groups(folds: Folds) -> str:
    """How a person makes more groups of this kind; empty: there are as many as there can be."""
    if folds.has_blocks:
        blocks = "folds.block_tiles=8" if folds.block_tiles is None else "a lower folds.block_tiles"
        return f"make more groups: {blocks} cuts large ones into blocks"
    return "name another folds.groups_column" if folds.groups == "column" else ""


def relative_deviation(hist_NC: np.ndarray, fold_N: np.ndarray, k: int) -> np.ndarray:
    """(K, C+1) how far each fold is from its even share of each class, and in the last column of the tiles.

    0.1: 10 % more than an even share; -1: nothing of it. A class without any pixel is 0 everywhere.
    """
    hist_KC = _summed(hist_NC, np.asarray(fold_N), k)
    total_C = hist_KC.sum(0)
    return np.where(total_C > 0, hist_KC * k / np.maximum(total_C, 1) - 1, 0.0)


def least_deviation(hist_NC: np.ndarray, group_N: np.ndarray, k: int) -> float:
    """A worst deviation that no folds can go below: the largest group of a class takes its share to one fold whole."""
    groups, group_of_tile = np.unique(np.asarray(group_N), return_inverse=True)
    hist_GC = _summed(hist_NC, group_of_tile, len(groups))
    return float(np.maximum(hist_GC.max(0) * k / np.maximum(hist_GC.sum(0), 1) - 1, 0).max())


def _summed(hist_NC: np.ndarray, part_N: np.ndarray, parts: int) -> np.ndarray:
    """(parts, C+1) int64 pixels per class, and tiles, in each part."""
    with_ones = np.column_stack([hist_NC, np.ones(len(hist_NC), np.int64)]).astype(np.int64)
    hist_PC = np.zeros((parts, with_ones.shape[1]), np.int64)
    np.add.at(hist_PC, part_N, with_ones)
    return hist_PC


def few_groups(hist_NC: np.ndarray, group_N: np.ndarray, k: int, names: tuple[str, ...]) -> dict[str, list[str]]:
    """Each class that lives in fewer groups than folds, so that some fold has nothing of it, with its groups."""
    group_N = np.asarray(group_N)
    groups_of = {name: np.unique(group_N[hist_NC[:, c] > 0]).tolist() for c, name in enumerate(names)}
    return {name: groups for name, groups in groups_of.items() if 0 < len(groups) < k}


def explain_few(few: dict[str, list[str]]) -> list[str]:
    return [f"{name} lives in {len(groups)} groups ({listed(groups)})" for name, groups in few.items()]


def _ways_out(few: dict[str, list[str]], tiles_with: dict[str, int], folds: Folds) -> str:
    """What a person can do about classes in few groups.

    Args:
        few: of `few_groups`.
        tiles_with: class -> in how many tiles it is.
    """
    accept = "accept it: folds.allow=[class_in_few_groups]"
    scarce = [f"{name} in {tiles_with[name]}" for name in few if tiles_with[name] < folds.k]
    ways = ["lower folds.k"] if min(map(len, few.values())) > 1 else []
    if not scarce:
        blocks = " or by cutting groups into blocks (folds.block_tiles=8)" if folds.has_blocks else ""
        ways.append(
            f"let neighbours stand on both sides, by letting the tiles of these classes leave their groups "
            f"(folds.split_groups_of=[{', '.join(few)}]){blocks}"
        )
    said = f"Too few tiles hold it for any other folds ({listed(scarce)}). " if scarce else ""
    return f"{said}Ways out: {'; '.join([*ways, accept])}"


def make_folds(run: Run) -> pd.DataFrame:
    """Write `folds.csv` (name, group, fold; the train tiles in the tile table's order) unless it holds; return it.

    Raises:
        UserError: a class lives in fewer groups than folds, `folds.file` fails its audit, or `folds.csv` was edited or
            laid there by hand.
    """
    asked, tiles = run.experiment.folds, make_tiles(run)
    inputs = hash_files([run.tiles_csv]) | _file_input(asked.file)
    result = FileResult(run.folds_csv, run.folds_keys, inputs)
    _refuse_foreign(run)
    if result.is_fresh():
        return read_folds(run.folds_csv)
    train = tiles[tiles.split == "train"]
    if asked.file:
        folds = import_folds(Path(asked.file), train, asked.k)
    else:
        classes = ClassTable.of(run.experiment.data)
        fold_N = _assigned(train, hist_of(tiles, classes), asked, classes.names)
        folds = train[["name", "group"]].assign(fold=fold_N).reset_index(drop=True)
    # Begun first: a stop between the two must look neither like an edit nor like folds of the old keys.
    result.begin()
    write_csv(run.folds_csv, folds)
    result.finish()
    return folds


def _assigned(train: pd.DataFrame, hist_NC: np.ndarray, asked: Folds, names: tuple[str, ...]) -> np.ndarray:
    """(N,) `assign_folds` of the train tiles, unless some class could not be in all folds, which `folds.allow` lets."""
    group_N, k = train.group.to_numpy(), asked.k
    _refuse_k(k, train.group.nunique(), len(train), more_groups(asked))
    few = few_groups(hist_NC, group_N, k, names)
    if few and "class_in_few_groups" not in asked.allow:
        tiles_with = {name: int((hist_NC[:, names.index(name)] > 0).sum()) for name in few}
        raise UserError(
            f"{k} folds cannot all hold every class: {listed(explain_few(few))}. {_ways_out(few, tiles_with, asked)}"
        )
    return assign_folds(hist_NC, group_N, k, asked.seed)


def _file_input(file: str | None) -> dict[str, str]:
    if file is None:
        return {}
    if not Path(file).is_file():
        raise UserError(f"folds.file={file}: no such file")
    return {"folds.file": hash_file(file)}


def _refuse_foreign(run: Run) -> None:
    """Folds in the run folder that are not as they were made, or were never made here."""
    if not run.folds_csv.exists():
        return
    stamp = read_stamp(file_stamp(run.folds_csv))
    if stamp is None:
        what, others = "not made here", "train on its folds"
    elif stamp.finished and stamp.outputs.get(run.folds_csv.name) != hash_file(run.folds_csv):
        what, others = "edited after it was made", "train on the edited folds"
    else:
        return
    raise UserError(
        f"{run.folds_csv} was {what}. To {others}, move the file elsewhere and name it: folds.file=FILE; to have the "
        f"assigned ones, delete it"
    )


def deviation_table(hist_NC: np.ndarray, fold_N: np.ndarray, k: int, names: tuple[str, ...]) -> Table:
    """What `relative_deviation` says, for the screen: a row per class and one for the tiles, a column per fold."""
    deviation_KC = relative_deviation(hist_NC, fold_N, k)
    total_C = hist_NC.sum(0)
    rows = [
        (name, f"{total_C[c] / total_C.sum():.2%}", *(f"{d:+.2%}" for d in deviation_KC[:, c]))
        for c, name in enumerate(names)
    ]
    columns = ("class", "share", *(f"fold {fold}" for fold in range(k)))
    of_tiles = ("tiles", str(len(fold_N)), *(f"{d:+.2%}" for d in deviation_KC[:, -1]))
    return text_table("each fold against an even share", columns, rows, foot=of_tiles)


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("folds.assign", __doc__)
    add_json(parser)
    args = parser.parse_intermixed_args(argv)
    run = open_run(load_experiment(args.config, args.overrides))
    folds = make_folds(run)
    classes = ClassTable.of(run.experiment.data)
    hist_NC, fold_N, k = hist_of(make_tiles(run), classes), folds.fold.to_numpy(), run.experiment.folds.k
    screen().print(deviation_table(hist_NC, fold_N, k, classes.names))
    worst = float(np.abs(relative_deviation(hist_NC, fold_N, k)).max())
    least, groups = least_deviation(hist_NC, folds.group, k), folds.group.nunique()
    print(
        f"{run.folds_csv}: {len(folds)} tiles in {groups} groups, {k} folds; "
        f"the worst deviation is {worst:.2%}, and {least:.2%} is unavoidable"
    )
    figures = {"tiles": len(folds), "groups": groups, "worst_deviation": worst, "least_worst_deviation": least}
    write_figures(args.json, figures)


if __name__ == "__main__":
    run(main)
