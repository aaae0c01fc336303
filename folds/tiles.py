"""The tile table: every tile, its files, size, group and pixels per class -> `runs/<name>/tiles.csv`."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from base.command import add_json, run, stage_parser, write_figures
from base.errors import UserError, listed
from base.files import hash_stats, hash_value
from base.stamps import FileResult, file_stamp, read_stamp
from base.tables import read_csv, write_csv
from config import Run, load_experiment, open_run, refuse_unwritable
from config.data import TILE_COLUMNS
from folds.classes import ClassTable
from folds.files import find_tiles
from folds.groups import GROUP_KEYS, given_groups, group_inputs, tile_groups
from folds.reader import TileReader
from folds.scan import Scan, open_scan

SOURCES = "image and mask files"  # name of their hash among what the table was made from


def tile_table(found: pd.DataFrame, scan: Scan, classes: ClassTable) -> pd.DataFrame:
    """Adds height, width, a hash of the content, and pixels per class (empty for test tiles) to the files found.

    Raises:
        UserError: a class has no pixel in any train tile.
    """
    contents = zip(scan.digest_N.tolist(), scan.mask_digest_N.tolist(), strict=True)
    table = found.assign(
        height=scan.size_N2[:, 0], width=scan.size_N2[:, 1], sha256=[hash_value(each)[:16] for each in contents]
    )
    for c, name in enumerate(classes.names):
        table[name] = pd.array(scan.hist_NC[:, c], dtype="Int64")
        table.loc[table.split == "test", name] = pd.NA
    _refuse_absent_classes(table[table.split == "train"], classes)
    return table


def read_tiles(path: Path) -> pd.DataFrame:
    """The tile table as written by this stage; names and groups are text, counts are Int64."""
    if not path.exists():
        raise UserError(f"{path}: no tile table yet. Run: python -m folds.tiles --config FILE")
    try:
        table = read_csv(path, dtype=dict.fromkeys(("name", "group", "split", "sha256"), str))
    except ValueError as error:
        raise UserError(
            f"{path}: unreadable as csv ({error}). Run: python -m folds.tiles --config FILE, which makes it again"
        ) from None
    counts = [column for column in table if column not in TILE_COLUMNS]
    return table.astype(dict.fromkeys(counts, "Int64"))


def tiles_of(run: Run) -> pd.DataFrame:
    """The tile table of a run, for whoever goes on from it.

    Raises:
        UserError: none yet, or one that was made with other keys than the run has.
    """
    tiles = read_tiles(run.tiles_csv)
    refuse_other_keys(run.tiles_csv, _keys(run), "folds.tiles")
    return tiles


def refuse_other_keys(table: Path, keys: dict[str, Any], module: str) -> None:
    """
    Args:
        table: `tiles.csv` or `folds.csv`.
        module: the stage that makes it.

    Raises:
        UserError: the table's stamp has other keys, or the stage was stopped before it was whole.
    """
    stamp = read_stamp(file_stamp(table))
    if stamp and not stamp.finished:
        raise UserError(f"{table}: its stage was stopped before it ended. Run: python -m {module} --config FILE")
    changed = stamp.differences(keys, stamp.inputs) if stamp else []
    if changed:
        raise UserError(
            f"{table} was made with other keys: {listed(changed)}. Give those, or run with these: "
            f"python -m {module} --config FILE"
        )


def _keys(run: Run) -> dict[str, Any]:
    return run.data_keys | {key: value for key, value in run.folds_keys.items() if key in GROUP_KEYS}


def hist_of(tiles: pd.DataFrame, classes: ClassTable) -> np.ndarray:
    """(N, C) int64 pixels per tile and class of the train tiles."""
    return tiles.loc[tiles.split == "train", list(classes.names)].to_numpy(np.int64)


def make_tiles(run: Run) -> pd.DataFrame:
    """Write `tiles.csv` unless it holds already; return it."""
    data, folds = run.experiment.data, run.experiment.folds
    found = find_tiles(data)
    sources = sources_hash(found, Path(data.root))
    inputs = {SOURCES: sources, **TileReader.of(data).folder_input} | group_inputs(data, folds)
    result = FileResult(run.tiles_csv, _keys(run), inputs)
    if result.is_fresh():
        return read_tiles(run.tiles_csv)
    # Before the pixels are read: a csv that does not fit, or images without coordinates, are found at once.
    given = given_groups(found[found.split == "train"], data, folds)
    scan = open_scan(run, found, sources)
    table = tile_table(found, scan, ClassTable.of(data))
    table.insert(TILE_COLUMNS.index("group"), "group", tile_groups(run, table, scan, sources, folds, given))
    write_csv(run.tiles_csv, table)
    result.finish()
    return table


def sources_of(run: Run, tiles: pd.DataFrame) -> str:
    """`sources_hash` of a run's own tile table.

    Raises:
        UserError: images or masks are gone, or may be others than those that the table was made from.
    """
    stamp = read_stamp(file_stamp(run.tiles_csv))
    try:
        sources = sources_hash(tiles, Path(run.experiment.data.root))
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename}: no such file any more, but {run.tiles_csv} names it; put it back, or run: "
            f"python -m folds.tiles --config FILE"
        ) from None
    if stamp and stamp.inputs.get(SOURCES) != sources:
        raise UserError(
            f"{run.tiles_csv}: images or masks were written after it. Run: python -m folds.tiles --config FILE, which "
            f"tells whether their pixels are others"
        )
    return sources


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("folds.tiles", __doc__)
    add_json(parser)
    args = parser.parse_intermixed_args(argv)
    experiment = load_experiment(args.config, args.overrides)
    refuse_unwritable(experiment)
    tiles = make_tiles(Run(experiment))
    run = open_run(experiment)  # after the table, so that tiles which were put back make members valid again
    train = tiles[tiles.split == "train"]
    counts_C = train[list(ClassTable.of(run.experiment.data).names)].sum()
    shares = counts_C / counts_C.sum()
    print(
        f"{run.tiles_csv}: {len(train)} train and {len(tiles) - len(train)} test tiles, {train.group.nunique()} groups"
    )
    print("  ".join(f"{name} {share:.2%}" for name, share in shares.items()))
    counts = {"train": len(train), "test": len(tiles) - len(train), "groups": train.group.nunique()}
    write_figures(args.json, counts | {"class_shares": shares.astype(float).to_dict()})


def _refuse_absent_classes(train: pd.DataFrame, classes: ClassTable) -> None:
    absent = [name for name in classes.names if train[name].sum() == 0]
    if absent:
        raise UserError(
            f"classes without a pixel in any train mask: {listed(absent)}. They could neither be learned nor scored; "
            f"correct data.classes (labels {listed(classes.labels)}) or the masks"
        )


def sources_hash(found: pd.DataFrame, root: Path) -> str:
    """A hash over the names, sizes and times of all source files."""
    return hash_stats(root, [*found.image, *found["mask"].dropna()])


if __name__ == "__main__":
    run(main)
