"""What is wrong, or worth knowing, about folds that can be trained on: leaks, and classes that a fold lacks."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from base.errors import listed
from config.data import Folds
from folds.assign import explain_few, few_groups
from folds.findings import Finding, error, tiles_of_pairs, warning
from folds.georeference import Beside
from folds.links import Links


@dataclass(frozen=True)
class AuditedFolds:
    """N train tiles in their folds, and how those came about."""

    train: pd.DataFrame
    """The train rows of the tile table, which are its first."""
    fold_N: np.ndarray
    hist_NC: np.ndarray
    names: tuple[str, ...]
    """Of the C classes."""
    asked: Folds
    """The keys that made the groups. Leaks that they let happen were chosen, and are only counted."""
    whole_N: np.ndarray
    """`folds.groups.whole_groups`."""
    ours: bool
    """The folds are of our own assignment, which holds as many classes in all folds as it can."""

    @property
    def left_N(self) -> np.ndarray:
        """bool: the tiles that left their groups for a class that they hold."""
        return (self.hist_NC[:, [self.names.index(name) for name in self.asked.split_groups_of]] > 0).any(1)


def fold_findings(folds: AuditedFolds, links: Links, beside: Beside) -> list[Finding]:
    """What is wrong with folds that pass `fold_violations`: leaks that the groups do not know of, classes missing.

    Args:
        beside: pairs by coordinates.
    """
    train, k = folds.train, folds.asked.k
    found = _leaks(folds, links, beside)
    few = few_groups(folds.hist_NC, train.group.to_numpy(), k, folds.names)
    if few:
        found.append(error("class_in_few_groups", f"not every fold can hold every class: {listed(explain_few(few))}"))
    found += _absent_classes(folds, set(few))
    largest = train.group.value_counts()
    if largest.iloc[0] > len(train) / k:
        what = f"group {largest.index[0]} holds {largest.iloc[0]} of {len(train)} tiles, more than a fold's share"
        what += "; folds.block_tiles cuts large groups" if folds.asked.has_blocks else ""
        found.append(warning("large_group", what))
    return found


def _absent_classes(folds: AuditedFolds, few: set[str]) -> list[Finding]:
    """Classes that some fold has nothing of, though they live in as many groups as there are folds."""
    k = folds.asked.k
    folds_of = {name: np.unique(folds.fold_N[folds.hist_NC[:, c] > 0]).tolist() for c, name in enumerate(folds.names)}
    absent = [
        f"fold {fold} has no {name}"
        for name, holding in folds_of.items()
        for fold in range(k)
        if holding and name not in few and fold not in holding
    ]
    if not absent:
        return []
    if folds.ours:
        what = f"no folds were found in which every fold holds every class that lives in {k} groups: {listed(absent)}"
        return [warning("class_absent_in_fold", what)]
    what = f"{listed(absent)}, though these classes live in {k} groups or more; folds.file=null assigns folds anew"
    return [error("class_absent_in_fold", what)]


def _leaks(folds: AuditedFolds, links: Links, beside: Beside) -> list[Finding]:
    """Pairs that stand in two folds: those that keys let do so, and errors."""
    train, left_N = folds.train, folds.left_N
    tile_names = ("train/" + train.name).to_numpy(str)
    copies_P2, borders_P2 = (pairs[["a", "b"]].to_numpy(np.int64) for pairs in (links.copies, links.neighbours))
    neighbours_P2 = np.unique(np.sort(np.concatenate([borders_P2, beside.touching_P2]), axis=1), axis=0)
    # Groups are made of coordinates only where all train tiles have some.
    all_placed = beside.known_N[: len(train)].all()
    placed_P2 = np.concatenate([beside.shared_P2, beside.touching_P2])[: None if all_placed else 0]
    found = []
    for kind, pairs_P2, what in (
        ("overlaps_across_folds", beside.shared_P2, "pairs that share pixels by their coordinates"),
        ("copies_across_folds", copies_P2, "pairs of copies"),
        ("neighbours_across_folds", neighbours_P2, "pairs of neighbours"),
    ):
        pairs_P2 = pairs_P2[(pairs_P2 < len(train)).all(1)]
        a_P, b_P = pairs_P2.T
        apart_P = folds.fold_N[a_P] != folds.fold_N[b_P]
        # Chosen is what would be one group if no key cut it; blocks cut neighbours only.
        cut_P = left_N[a_P] | left_N[b_P] | (kind == "neighbours_across_folds")
        chosen_P = cut_P & (folds.whole_N[a_P] == folds.whole_N[b_P])
        chosen_P2, split_P2 = pairs_P2[apart_P & chosen_P], pairs_P2[apart_P & ~chosen_P]
        said = f"of {len(pairs_P2)} {what} stand in two folds"
        if len(chosen_P2):
            why = f"{len(chosen_P2)} {said}, as folds.block_tiles or folds.split_groups_of lets them"
            found.append(warning("chosen_leaks", why, tiles_of_pairs(tile_names, chosen_P2)))
        if len(split_P2):
            first = listed([f"{a} - {b}" for a, b in tile_names[split_P2]], 5)
            mend = _mend(kind, split_P2, borders_P2, placed_P2, folds.asked)
            why = f"{len(split_P2)} {said}, so OOF scores will be too high: {first}; {mend}"
            found.append(error(kind, why, tiles_of_pairs(tile_names, split_P2)))
    return found


def _mend(kind: str, split_P2: np.ndarray, borders_P2: np.ndarray, placed_P2: np.ndarray, asked: Folds) -> str:
    """What keeps these pairs together: the kind of groups that knows of them all."""
    if kind == "copies_across_folds":
        found_by = "georeference" if asked.by_place else "mosaic"
    elif kind == "neighbours_across_folds" and _within(split_P2, borders_P2):
        found_by = "mosaic"
    elif _within(split_P2, placed_P2):
        found_by = "georeference"
    else:
        return "folds.groups=column takes groups of your own, which can keep them together"
    return f"folds.groups={found_by}+duplicates keeps them together"


def _within(some_P2: np.ndarray, all_P2: np.ndarray) -> bool:
    some, all_pairs = ({tuple(pair) for pair in np.sort(pairs, axis=1).tolist()} for pairs in (some_P2, all_P2))
    return some <= all_pairs
