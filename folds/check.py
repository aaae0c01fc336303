"""The audit of a folds file: every tile once, no group on both sides, no fold empty."""

import pandas as pd

from base.command import run, stage_parser
from base.errors import listed, refuse_all
from config import load_experiment, open_run
from folds.assign import make_folds
from folds.tiles import make_tiles


def fold_violations(tiles: pd.DataFrame, folds: pd.DataFrame, k: int) -> list[str]:
    """What makes a folds table unfit to train on; empty: nothing. Groups are those of the tile table."""
    train = tiles[tiles.split == "train"]
    problems = []

    def refuse(found: list, what: str) -> None:
        if found:
            problems.append(f"{len(found)} {what}: {listed(found)}")

    refuse(sorted(set(train.name) - set(folds.name)), "train tiles have no fold")
    refuse(sorted(set(folds.name) - set(train.name)), "names are no train tile")
    refuse(sorted(folds.name[folds.name.duplicated()].unique()), "tiles stand in two rows")
    refuse(sorted(set(folds.fold) - set(range(k))), f"fold numbers are outside 0..{k - 1}")
    refuse(sorted(set(range(k)) - set(folds.fold)), "folds are empty")
    group_of = dict(zip(train.name, train.group, strict=True))
    true_group = folds.name.map(group_of)
    sides = folds.groupby(true_group).fold.nunique()
    refuse(sorted(sides.index[sides > 1]), "groups stand on both sides of a split")
    other = folds.name[true_group.notna() & (folds.group != true_group)]
    refuse(sorted(other), "tiles have another group than in tiles.csv")
    return problems


def refuse_bad_folds(tiles: pd.DataFrame, folds: pd.DataFrame, k: int) -> None:
    """For whoever is about to train: `folds` must be fit, and in the order of the tile table.

    Raises:
        UserError: lists every violation.
    """
    problems = fold_violations(tiles, folds, k)
    if not problems and folds.name.tolist() != tiles.name[tiles.split == "train"].tolist():
        problems.append("the rows are not in the order of tiles.csv")
    refuse_all("folds.csv fails its audit", problems)


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("folds.check", __doc__)
    args = parser.parse_intermixed_args(argv)
    run = open_run(load_experiment(args.config, args.overrides))
    tiles, folds = make_tiles(run), make_folds(run)
    refuse_bad_folds(tiles, folds, run.experiment.folds.k)
    print(f"{run.folds_csv}: every tile once, no group on both sides, no fold empty")


if __name__ == "__main__":
    run(main)
