"""The tile table: every tile, its files, size, group and pixels per class -> `runs/<name>/tiles.csv`."""

import glob
import os
from pathlib import Path

import numpy as np
import pandas as pd

from base.command import add_json, run, stage_parser, write_figures
from base.errors import UserError, listed, refuse_all
from base.files import hash_stats, hash_value, whole_file
from base.stamps import read_stamp, stamp_path
from base.tables import read_csv
from config import Run, load_experiment, open_run, refuse_unwritable
from config.data import TILE_COLUMNS, Data
from folds.classes import ClassTable
from folds.groups import GROUP_KEYS, column_groups, group_inputs, tile_groups
from folds.scan import Scan, open_scan

SOURCES = "image and mask files"  # name of their hash among what the table was made from


def find_tiles(data: Data) -> pd.DataFrame:
    """The files of a data set, sorted by name: columns name, split, image, mask; paths relative to `data.root`.

    Raises:
        UserError: no image, an image without mask, a mask without image, or a name that stands for two images.
    """
    root = Path(data.root)
    train, test = _by_names(root, {"train": data.train_images, "test": data.test_images})
    mask_of = {name: data.train_masks.format(name=name) for name in train}
    masks = {_stem(data.train_masks, path): path for path in _glob(root, data.train_masks.format(name="*"))}
    lone_images = [train[name] for name in train if not (root / mask_of[name]).exists()]
    lone_masks = [path for name, path in masks.items() if name not in train]
    problems = []
    if lone_images:
        problems.append(f"{len(lone_images)} images have no mask {data.train_masks}: {listed(lone_images)}")
    if lone_masks:
        problems.append(f"{len(lone_masks)} masks have no image {data.train_images}: {listed(lone_masks)}")
    refuse_all(f"tiles in {root}", problems)
    rows = [(name, "train", path, mask_of[name]) for name, path in train.items()]
    rows += [(name, "test", path, None) for name, path in test.items()]
    return pd.DataFrame(rows, columns=["name", "split", "image", "mask"])


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
    table = read_csv(path, dtype=dict.fromkeys(("name", "group", "split", "sha256"), str))
    counts = [column for column in table if column not in TILE_COLUMNS]
    return table.astype(dict.fromkeys(counts, "Int64"))


def hist_of(tiles: pd.DataFrame, classes: ClassTable) -> np.ndarray:
    """(N, C) int64 pixels per tile and class of the train tiles."""
    return tiles.loc[tiles.split == "train", list(classes.names)].to_numpy(np.int64)


def make_tiles(run: Run) -> pd.DataFrame:
    """Write `tiles.csv` unless it holds already; return it."""
    data, folds = run.experiment.data, run.experiment.folds
    found = find_tiles(data)
    sources = sources_hash(found, Path(data.root))
    inputs = {SOURCES: sources} | group_inputs(data, folds)
    keys = run.data_keys | {key: value for key, value in run.folds_keys.items() if key in GROUP_KEYS}
    if run.is_fresh(run.tiles_csv, keys, inputs, is_folder=False):
        return read_tiles(run.tiles_csv)
    # Before the pixels are read: a csv that does not fit is found at once.
    given = (
        column_groups(found.name[found.split == "train"].tolist(), data, folds) if folds.groups == "column" else None
    )
    scan = open_scan(run, found, sources)
    table = tile_table(found, scan, ClassTable.of(data))
    table.insert(TILE_COLUMNS.index("group"), "group", tile_groups(run, table, scan, sources, given))
    with whole_file(run.tiles_csv) as aside:
        table.to_csv(aside, index=False)
    run.finish(run.tiles_csv, keys, inputs, [run.tiles_csv], is_folder=False)
    return table


def written_since(run: Run, tiles: pd.DataFrame) -> list[str]:
    """What says that images or masks may be others than those that the run's table was made from; empty: nothing."""
    stamp = read_stamp(stamp_path(run.tiles_csv, is_folder=False))
    try:
        sources = sources_hash(tiles, Path(run.experiment.data.root))
    except FileNotFoundError as error:
        again = "put it back, or run: python -m folds.tiles --config FILE"
        return [f"{error.filename}: no such file any more, but {run.tiles_csv} names it; {again}"]
    if not stamp or stamp.inputs.get(SOURCES) == sources:
        return []
    return [
        f"{run.tiles_csv}: images or masks were written after it. Run: python -m folds.tiles --config FILE, which "
        f"tells whether their pixels are others"
    ]


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


def _by_names(root: Path, patterns: dict[str, str | None]) -> list[dict[str, str]]:
    """Name -> path of the images of each split; without a pattern there are none."""
    found, problems = [], []
    for split, pattern in patterns.items():
        try:
            found.append(_by_name(root, pattern, split) if pattern else {})
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("; ".join(problems))
    return found


def _by_name(root: Path, pattern: str, split: str) -> dict[str, str]:
    paths = _glob(root, pattern)
    if not paths:
        raise UserError(
            f"no {split} tiles: nothing matches {pattern} in {root.absolute()}{_why(root, pattern)}; set data.root=DIR"
        )
    by_name: dict[str, list[str]] = {}
    for path in paths:
        by_name.setdefault(Path(path).stem, []).append(path)
    twice = [paths for paths in by_name.values() if len(paths) > 1]
    refuse_all(f"{split} tiles in {root}: one name for several images", [" and ".join(paths) for paths in twice])
    return {name: by_name[name][0] for name in sorted(by_name)}


def _why(root: Path, pattern: str) -> str:
    """What keeps a folder from being looked into, if that is the reason."""
    folder = root
    for part in Path(pattern).parent.parts:
        if any(sign in part for sign in "*?["):
            break
        folder /= part
        if not folder.is_dir():
            break
    if not folder.exists():
        return f" (there is no {folder})"
    return "" if os.access(folder, os.R_OK | os.X_OK) else f" (no permission to read {folder})"


def _glob(root: Path, pattern: str) -> list[str]:
    # Sorted and with forward slashes: the same table on every file system and operating system.
    return sorted(Path(path).as_posix() for path in glob.glob(pattern, root_dir=root, recursive=True))


def _stem(pattern: str, path: str) -> str:
    before, after = pattern.split("{name}")
    return path[len(before) : len(path) - len(after)]


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
