"""The tile table: every tile, its files, size, group and pixels per class -> `runs/<name>/tiles.csv`."""

import glob
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from base.command import run, stage_parser
from base.errors import UserError, listed, refuse_all
from base.files import hash_value, whole_file
from base.progress import track
from config import Experiment, Run, load_experiment, open_run
from config.data import IGNORE_INDEX, Data, Folds
from folds.classes import ClassTable
from folds.images import read_image, read_mask

COLUMNS = ["name", "split", "image", "mask", "height", "width", "group"]


def find_tiles(data: Data) -> pd.DataFrame:
    """The files of a data set, sorted by name: columns name, split, image, mask; paths relative to `data.root`.

    Raises:
        UserError: no image, an image without mask, a mask without image, or a name that stands for two images.
    """
    root = Path(data.root)
    train = _by_name(root, data.train_images, "train")
    test = _by_name(root, data.test_images, "test") if data.test_images else {}
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


def measure_tiles(found: pd.DataFrame, data: Data) -> pd.DataFrame:
    """Read every tile once: adds height, width and pixels per class (empty for test tiles).

    Raises:
        UserError: lists every unreadable file, size or band count that differs, and unknown label.
    """
    classes = ClassTable.of(data)
    root = Path(data.root)
    jobs = [(root / row.image, root / row.mask if row.split == "train" else None) for row in found.itertuples()]
    # Threads: GDAL and zlib work outside the interpreter's lock.
    measured = Parallel(n_jobs=-1, prefer="threads", return_as="generator")(
        delayed(_measure)(image, mask, classes, len(data.bands)) for image, mask in jobs
    )
    rows = list(track(measured, "read tiles", total=len(jobs)))
    problems = [problem for row in rows for problem in row["problems"]]
    sizes = Counter((row["height"], row["width"]) for row in rows if not row["problems"])
    if len(sizes) > 1:
        usual = sizes.most_common(1)[0][0]
        odd = [f"{job[0].name} {r['height']}x{r['width']}" for job, r in zip(jobs, rows, strict=True)
               if not r["problems"] and (r["height"], r["width"]) != usual]  # fmt: skip
        problems.append(f"{len(odd)} tiles are not {usual[0]}x{usual[1]} like the others: {listed(odd)}")
    refuse_all(f"tiles in {root}: {len(problems)} problems", problems)
    table = found.assign(height=[r["height"] for r in rows], width=[r["width"] for r in rows])
    hist_NC = np.stack([row["hist_C"] for row in rows])
    for c, name in enumerate(classes.names):
        table[name] = pd.array(hist_NC[:, c], dtype="Int64")
        table.loc[table.split == "test", name] = pd.NA
    _refuse_absent_classes(table[table.split == "train"], classes)
    return table


def column_groups(names: Sequence[str], data: Data, folds: Folds) -> list[str]:
    """The group of each train tile from the csv that `folds.groups: column` names."""
    path = Path(data.root) / folds.groups_csv
    try:
        csv = pd.read_csv(path, dtype=str)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: unreadable as csv ({error}); folds.groups is column, which needs it") from None
    missing = [column for column in (folds.name_column, folds.groups_column) if column not in csv]
    if missing:
        raise UserError(f"{path}: no column {listed(missing)}; it has {listed(csv.columns)}")
    rows = csv.dropna(subset=[folds.groups_column])
    twice = rows[folds.name_column][rows[folds.name_column].duplicated()].unique()
    if len(twice):
        raise UserError(f"{path}: {len(twice)} names stand in two rows with a group: {listed(twice)}")
    group_of = dict(zip(rows[folds.name_column], rows[folds.groups_column], strict=True))
    lone = [name for name in names if name not in group_of]
    if lone:
        raise UserError(f"{path}: {len(lone)} train tiles have no {folds.groups_column}: {listed(lone)}")
    return [group_of[name] for name in names]


def read_tiles(path: Path) -> pd.DataFrame:
    """The tile table as written by this stage; names and groups are text, counts are Int64."""
    if not path.exists():
        raise UserError(f"{path}: no tile table yet. Run: python -m folds.tiles --config FILE")
    table = pd.read_csv(path, dtype={"name": str, "group": str, "split": str}, keep_default_na=False, na_values=[""])
    counts = [column for column in table if column not in COLUMNS]
    return table.astype(dict.fromkeys(counts, "Int64"))


def hist_of(tiles: pd.DataFrame, classes: ClassTable) -> np.ndarray:
    """(N, C) int64 pixels per tile and class of the train tiles."""
    return tiles.loc[tiles.split == "train", list(classes.names)].to_numpy(np.int64)


def make_tiles(run: Run) -> pd.DataFrame:
    """Write `tiles.csv` unless it holds already; return it."""
    experiment = run.experiment
    found = find_tiles(experiment.data)
    inputs = {"image and mask files": sources_hash(found, Path(experiment.data.root))}
    if run.is_fresh(run.tiles_csv, run.folds_keys, inputs, is_folder=False):
        return read_tiles(run.tiles_csv)
    table = measure_tiles(found, experiment.data)
    table.insert(COLUMNS.index("group"), "group", _groups(table, experiment))
    with whole_file(run.tiles_csv) as aside:
        table.to_csv(aside, index=False)
    run.finish(run.tiles_csv, run.folds_keys, inputs, [run.tiles_csv], is_folder=False)
    return table


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("folds.tiles", __doc__)
    args = parser.parse_intermixed_args(argv)
    run = open_run(load_experiment(args.config, args.overrides))
    tiles = make_tiles(run)
    train = tiles[tiles.split == "train"]
    shares = train[list(ClassTable.of(run.experiment.data).names)].sum() / (train.height * train.width).sum()
    print(
        f"{run.tiles_csv}: {len(train)} train and {len(tiles) - len(train)} test tiles, {train.group.nunique()} groups"
    )
    print("  ".join(f"{name} {share:.2%}" for name, share in shares.items()))


def _by_name(root: Path, pattern: str, split: str) -> dict[str, str]:
    paths = _glob(root, pattern)
    if not paths:
        raise UserError(f"no {split} tiles: nothing matches {pattern} in {root.absolute()}; set data.root=DIR")
    by_name: dict[str, list[str]] = {}
    for path in paths:
        by_name.setdefault(Path(path).stem, []).append(path)
    twice = [paths for paths in by_name.values() if len(paths) > 1]
    refuse_all(f"{split} tiles in {root}: one name for several images", [" and ".join(paths) for paths in twice])
    return {name: by_name[name][0] for name in sorted(by_name)}


def _glob(root: Path, pattern: str) -> list[str]:
    # Sorted and with forward slashes: the same table on every file system and operating system.
    return sorted(Path(path).as_posix() for path in glob.glob(pattern, root_dir=root, recursive=True))


def _stem(pattern: str, path: str) -> str:
    before, after = pattern.split("{name}")
    return path[len(before) : len(path) - len(after)]


def _measure(image: Path, mask: Path | None, classes: ClassTable, bands: int) -> dict:
    """Size and class counts of one tile, or what is wrong with it."""
    row = {"height": 0, "width": 0, "hist_C": np.zeros(len(classes), np.int64), "problems": []}
    try:
        image_HWB = read_image(image)
        row["height"], row["width"] = image_HWB.shape[:2]
        if image_HWB.shape[2] != bands:
            row["problems"].append(f"{image.name}: {image_HWB.shape[2]} bands, data.bands names {bands}")
    except UserError as error:
        row["problems"].append(str(error))
    if mask is None:
        return row
    try:
        index_HW = classes.to_index(read_mask(mask), where=mask.name)
        if not row["problems"] and index_HW.shape != (row["height"], row["width"]):
            row["problems"].append(
                f"{mask.name}: {index_HW.shape[0]}x{index_HW.shape[1]}, its image is {row['height']}x{row['width']}"
            )
        row["hist_C"] = np.bincount(index_HW[index_HW != IGNORE_INDEX], minlength=len(classes))
    except UserError as error:
        row["problems"].append(str(error))
    return row


def _refuse_absent_classes(train: pd.DataFrame, classes: ClassTable) -> None:
    absent = [name for name in classes.names if train[name].sum() == 0]
    if absent:
        raise UserError(
            f"classes without a pixel in any train mask: {listed(absent)}. They could neither be learned nor scored; "
            f"correct data.classes (labels {listed(classes.labels)}) or the masks"
        )


def _groups(table: pd.DataFrame, experiment: Experiment) -> list[str | None]:
    """The group of each row; test tiles have none."""
    is_train = (table.split == "train").to_numpy()
    names = table.name[is_train].tolist()
    column = experiment.folds.groups == "column"
    groups = column_groups(names, experiment.data, experiment.folds) if column else names
    filled = iter(groups)
    return [next(filled) if train else None for train in is_train]


def sources_hash(found: pd.DataFrame, root: Path) -> str:
    """A hash over the names, sizes and times of all source files: quick, and any touched file changes it."""
    paths = [*found.image, *found["mask"].dropna()]
    stats = [(root / path).stat() for path in paths]
    return hash_value([(path, stat.st_size, stat.st_mtime_ns) for path, stat in zip(paths, stats, strict=True)])


if __name__ == "__main__":
    run(main)
