"""The one place that decides which train tiles must stay in one fold: the column `group` of `tiles.csv`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from base.errors import UserError, listed
from base.files import hash_file
from base.tables import read_csv
from config import Run
from config.data import Data, Folds
from folds.georeference import Beside, find_footprints, first_linked, linked_tiles, read_footprints, tiles_beside
from folds.links import Links, open_links
from folds.scan import Scan

GROUP_KEYS = {
    f"folds.{key}"
    for key in ("groups", "groups_csv", "groups_column", "name_column", "gap_tiles", "block_tiles", "split_groups_of")
}
"""The keys on which groups depend."""


def tile_groups(
    run: Run, tiles: pd.DataFrame, scan: Scan, sources: str, folds: Folds, given: list[str] | None
) -> list[str | None]:
    """The group of each row of the tile table; test tiles have none.

    A group that was found, not given, has the name of its first train tile.

    Args:
        given: `given_groups` of the train tiles.
    """
    is_train_N = (tiles.split == "train").to_numpy()
    names = tiles.name.to_numpy(object)
    group_N = names.copy()
    if given is not None:
        group_N[is_train_N] = given
    if folds.by_borders or folds.joins_copies or folds.split_groups_of:
        links = open_links(run, tiles, scan, sources)
        copies = links.copies[["a", "b"]].to_numpy(np.int64)
    if folds.by_borders or folds.joins_copies:
        pairs = _pairs_with_first(names, given) if given is not None else _neighbours(links, folds.block_tiles)
        group_N = component_names(names, np.concatenate([pairs, copies] if folds.joins_copies else [pairs]))
    if folds.split_groups_of:
        holds_NC = (tiles[folds.split_groups_of].fillna(0) > 0).to_numpy(bool) & is_train_N[:, None]
        shared = audited_places(run, tiles, links).shared_P2
        group_N = _left(group_N, names, holds_NC, np.concatenate([copies, shared]))
    return [group if train else None for group, train in zip(group_N, is_train_N, strict=True)]


def audited_places(run: Run, tiles: pd.DataFrame, links: Links) -> Beside:
    """What the coordinates of a table's tiles tell, of those that have some, beside what its borders do."""
    footprints, _ = find_footprints(Path(run.experiment.data.root), tiles.image.tolist())
    return tiles_beside(footprints, links.neighbours[["a", "b"]].to_numpy(np.int64))


def _left(group_N: np.ndarray, names: np.ndarray, holds_NC: np.ndarray, same_P2: np.ndarray) -> np.ndarray:
    """(N,) the groups when tiles have left them.

    Args:
        holds_NC: whether a tile holds each of the classes for which it leaves.
        same_P2: tiles that share pixels or are copies, which leave together: between them, the leak would be complete.
    """
    leaves_N = holds_NC.any(1)
    first_N = first_linked(len(names), same_P2[leaves_N[same_P2].all(1)])
    group_N = np.where(leaves_N, group_N[first_N], group_N)
    for holds_N in holds_NC.T:
        one_holds_N = np.zeros(len(names), bool)
        one_holds_N[first_N[holds_N]] = True
        group_N = np.where(one_holds_N[first_N], group_N + "/" + names[first_N], group_N)
    return group_N


def whole_groups(run: Run, tiles: pd.DataFrame, scan: Scan, sources: str) -> np.ndarray:
    """(N,) the groups that the train tiles of the table would form if no key cut any: whatever stands in two folds and
    in one of these was let do so."""
    asked, train = run.experiment.folds, tiles[tiles.split == "train"]
    if not (asked.block_tiles or asked.split_groups_of):
        return train.group.to_numpy(object)
    uncut = asked.model_copy(update={"block_tiles": None, "split_groups_of": []})
    given = given_groups(train, run.experiment.data, uncut)
    return np.array(tile_groups(run, tiles, scan, sources, uncut, given)[: len(train)], object)


def _neighbours(links: Links, block_tiles: int | None) -> np.ndarray:
    """(P, 2) neighbours in the recovered mosaics, but for those in two blocks."""
    pairs_P2 = links.neighbours[["a", "b"]].to_numpy(np.int64)
    if block_tiles is None:
        return pairs_P2
    block_N2 = links.places[["row", "col"]].to_numpy(np.int64) // block_tiles
    return pairs_P2[(block_N2[pairs_P2[:, 0]] == block_N2[pairs_P2[:, 1]]).all(1)]


def _pairs_with_first(names: np.ndarray, given: list[str]) -> np.ndarray:
    """(P, 2) each train tile with the one that its group is called by; train tiles come first in the tile table."""
    row_of = {name: row for row, name in enumerate(names[: len(given)])}
    return np.array([(row, row_of[group]) for row, group in enumerate(given)], np.int64).reshape(-1, 2)


def given_groups(train: pd.DataFrame, data: Data, folds: Folds) -> list[str] | None:
    """The group of each train tile, as far as no pixel has to be looked at for it; None where it takes them.

    Args:
        train: the train rows of `find_tiles`.
    """
    if folds.groups == "column":
        if folds.block_tiles:
            raise UserError(
                "folds.block_tiles is for mosaics and georeference; folds.groups is column, whose groups only "
                "python -m folds.cut cuts into blocks, of scenes. Set folds.block_tiles=null"
            )
        return column_groups(train.name.tolist(), data, folds)
    if folds.by_place:
        footprints = read_footprints(Path(data.root), train.image.tolist())
        pairs = linked_tiles(footprints, folds.gap_tiles, folds.block_tiles)
        return component_names(train.name.to_numpy(object), pairs).tolist()
    return None


def component_names(names: np.ndarray, pairs_P2: np.ndarray) -> np.ndarray:
    """(N,) of each tile the name of the first tile that is linked to it, over any number of links.

    Train tiles come first in the tile table, so it is a train tile's name wherever one is linked.
    """
    return names[first_linked(len(names), pairs_P2)]


def group_inputs(data: Data, folds: Folds) -> dict[str, str]:
    """Hashes of the files on which groups depend, beside the tiles."""
    path = Path(data.root) / folds.groups_csv
    return {"folds.groups_csv": hash_file(path)} if folds.groups == "column" and path.is_file() else {}


def column_groups(names: Sequence[str], data: Data, folds: Folds) -> list[str]:
    """The group of each train tile from the csv that `folds.groups: column` names."""
    path = Path(data.root) / folds.groups_csv
    if not path.is_file():
        raise UserError(f"{path}: no such file; folds.groups is column, and folds.groups_csv names it")
    try:
        csv = read_csv(path, dtype=str)
    except ValueError as error:
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
