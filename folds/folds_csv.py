"""The folds file: read it, take another's, refuse one that is unfit to train on."""

from pathlib import Path

import pandas as pd

from base.errors import UserError, listed, refuse_all
from config import Run
from folds.tiles import refuse_other_keys


def read_folds(path: Path) -> pd.DataFrame:
    """The columns name, group (text; only if there) and fold (int) of a folds file, in the file's order.

    Raises:
        UserError: no such file, no such columns, or a fold that is no whole number.
    """
    if not path.exists():
        raise UserError(f"{path}: no folds yet. Run: python -m folds.assign --config FILE")
    try:
        folds = pd.read_csv(path, dtype=str, keep_default_na=False)
    except ValueError as error:
        raise UserError(f"{path}: unreadable as csv ({error})") from None
    missing = [column for column in ("name", "fold") if column not in folds]
    if missing:
        raise UserError(f"{path}: no column {listed(missing)}; a folds file has name, group and fold")
    whole = folds.fold.str.fullmatch(r"\d{1,9}")
    if not whole.all():
        odd = folds[~whole]
        found = [f"{name} {fold!r}" for name, fold in zip(odd.name, odd.fold, strict=True)]
        raise UserError(f"{path}: {len(odd)} tiles have no fold number: {listed(found)}")
    columns = [column for column in ("name", "group", "fold") if column in folds]
    return folds[columns].astype({"fold": int})


def folds_of(run: Run) -> pd.DataFrame:
    """The folds of a run, for whoever goes on from them.

    Raises:
        UserError: none yet, or some that were made with other keys than the run has.
    """
    folds = read_folds(run.folds_csv)
    refuse_other_keys(run.folds_csv, run.folds_keys, "folds.assign")
    return folds


def import_folds(path: Path, train: pd.DataFrame, k: int) -> pd.DataFrame:
    """name, group, fold of the train tiles in their order, with the folds of a file from elsewhere.

    The groups stay those of the tile table, whatever the file says: they are what must not be split.

    Raises:
        UserError: lists every violation.
    """
    folds = read_folds(path)
    refuse_all(f"{path} fails its audit", fold_violations(train, folds, k))
    fold_of = dict(zip(folds.name, folds.fold, strict=True))
    return train[["name", "group"]].assign(fold=train.name.map(fold_of)).reset_index(drop=True)


def fold_violations(train: pd.DataFrame, folds: pd.DataFrame, k: int) -> list[str]:
    """What makes folds unfit to train on; empty: nothing.

    Args:
        train: the train rows of the tile table; groups are judged by its column `group`.
    """
    problems = []

    def refuse(found: list, what: str) -> None:
        if found:
            problems.append(f"{len(found)} {what}: {listed(found)}")

    known = folds[folds.name.isin(train.name)]
    refuse(sorted(set(train.name) - set(folds.name)), "train tiles have no fold")
    refuse(sorted(set(folds.name) - set(train.name)), "names are no train tile")
    refuse(sorted(folds.name[folds.name.duplicated()].unique()), "tiles stand in two rows")
    refuse(sorted(set(folds.fold) - set(range(k))), f"fold numbers are outside 0..{k - 1}")
    refuse(sorted(set(range(k)) - set(folds.fold)), "folds are empty")
    sides = known.fold.groupby(known.name.map(dict(zip(train.name, train.group, strict=True)))).nunique()
    refuse(sorted(sides.index[sides > 1]), "groups stand on both sides of a split")
    return problems


def refuse_bad_folds(tiles: pd.DataFrame, folds: pd.DataFrame, k: int) -> None:
    """For whoever is about to train on a run's own `folds.csv`: it must be fit, and agree with `tiles.csv` row by row.

    Raises:
        UserError: lists every violation.
    """
    train = tiles[tiles.split == "train"]
    problems = fold_violations(train, folds, k)
    if not problems and folds.name.tolist() != train.name.tolist():
        problems.append("its rows are not in the order of tiles.csv")
    elif not problems and ("group" not in folds or folds.group.tolist() != train.group.tolist()):
        problems.append("its groups are not those of tiles.csv")
    refuse_all("folds.csv fails its audit", problems)
