"""Groups into folds so that every class is shared out evenly: a greedy start, then local search.

Everything is counted in integers: a group's share of a class is a whole number of PARTS. Integer sums are exact in any
order, so the same folds come out on every processor; with floats, the last bit of a BLAS product would decide between
two folds that are nearly equally full.

Names: `share_GC` is what each group holds of each column (the classes, and the tiles as one more), `load_KC` what each
fold holds, `fold_G` the fold of each group.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

PARTS = 1 << 24
"""A share of 1. Products of two shares, summed over up to 255 classes, stay below 2^57, within int64."""

LOOKED_AT = 512  # groups that a descent considers, divided among the folds; of more groups, a new sample each time
WORK = 20_000  # rounds of search times groups: seconds for any number of groups. Not a time: machines must agree
MAX_ROUNDS = 1000
PATIENCE = 200  # rounds without gain after which the search ends
TRIED = 64  # equally good ways to give a fold a class, of which the most even is taken
KICKED = 8  # groups thrown into random folds to leave a local optimum


def greedy_folds(share_GC: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """(G,) folds: groups in descending order of their largest share, each to the fold whose load it raises least."""
    shuffled = rng.permutation(len(share_GC))
    order = shuffled[np.argsort(-share_GC[shuffled].max(1), kind="stable")]
    load_KC = np.zeros((k, share_GC.shape[1]), np.int64)
    fold_G = np.empty(len(share_GC), np.int64)
    for g in order:
        # Adding s to a load l raises the sum of squares by 2 l.s + s.s, and s.s is the same for every fold.
        fold = int(np.argmin(load_KC @ share_GC[g]))
        fold_G[g] = fold
        load_KC[fold] += share_GC[g]
    return fold_G


def search_folds(share_GC: np.ndarray, fold_G: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """(G,) folds whose worst deviation beyond the unavoidable is at most that of `fold_G`: iterated local search.

    A round descends by swaps and moves, first on the sum of squared loads, then on the worst deviation itself; the
    next round starts from the best so far with a few groups thrown about. Small tables get more rounds.
    """
    best_G, best = fold_G, worst_excess(share_GC, fold_G, k)
    start_G, in_vain = fold_G, 0
    for _ in range(1 + min(WORK // len(share_GC), MAX_ROUNDS)):
        found_G = _lower_worst(share_GC, _lower_squares(share_GC, start_G, k, rng), k, rng)
        found = worst_excess(share_GC, found_G, k)
        in_vain += 1
        if found < best:
            best_G, best, in_vain = found_G, found, 0
        if in_vain == PATIENCE or best <= 0:
            break
        start_G = best_G.copy()
        kicked = rng.choice(len(share_GC), min(KICKED, max(2, len(share_GC) // 3)), replace=False)
        start_G[kicked] = rng.integers(0, k, len(kicked))
    return best_G


@dataclass(frozen=True)
class Unavoidable:
    """How far from even shares any folds must be: the largest group of a class takes its share to some fold whole.

    Deviations are k times the load less the total, in PARTS.
    """

    above_C: np.ndarray
    """What the fold with the largest group has too much."""
    below_C: np.ndarray
    """What the others have too little, if they share the rest evenly."""

    @classmethod
    def of(cls, share_GC: np.ndarray, k: int) -> "Unavoidable":
        above_C = np.maximum(share_GC.max(0) * k - share_GC.sum(0), 0)
        return cls(above_C, -(-above_C // (k - 1)))

    def excess(self, deviation_C: np.ndarray) -> np.ndarray:
        """(...,) the worst of (..., C) deviations beyond what is unavoidable.

        Beyond it, because a class that sits in one big group would end the search for all the others.
        """
        return np.maximum(deviation_C - self.above_C, -deviation_C - self.below_C).max(-1)


def _loads(share_GC: np.ndarray, fold_G: np.ndarray, k: int) -> np.ndarray:
    load_KC = np.zeros((k, share_GC.shape[1]), np.int64)
    np.add.at(load_KC, fold_G, share_GC)
    return load_KC


def worst_excess(share_GC: np.ndarray, fold_G: np.ndarray, k: int) -> int:
    """The worst deviation of any fold beyond what is unavoidable: what `search_folds` lowers."""
    return int(Unavoidable.of(share_GC, k).excess(_loads(share_GC, fold_G, k) * k - share_GC.sum(0)).max())


def _sample(fold_G: np.ndarray, fold: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """Groups of one fold: all of them where they are few."""
    groups = np.flatnonzero(fold_G == fold)
    limit = max(LOOKED_AT // k, 1)
    return groups if len(groups) <= limit else rng.choice(groups, limit, replace=False)


def _lower_squares(share_GC: np.ndarray, fold_G: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Steepest descent on the sum of squared loads: swap two groups of different folds, or move one."""
    fold_G, load_KC = fold_G.copy(), _loads(share_GC, fold_G, k)
    looked_at = np.concatenate([_sample(fold_G, fold, k, rng) for fold in range(k)])
    n = len(looked_at)
    # k empty groups, one standing in each fold: swapping with one of them is a move.
    share_AC = np.vstack([share_GC[looked_at], np.zeros((k, share_GC.shape[1]), np.int64)])
    dot_AA = share_AC @ share_AC.T
    square_A = np.diagonal(dot_AA)
    distance_AA = square_A[:, None] + square_A - 2 * dot_AA
    while True:
        fold_A = np.concatenate([fold_G[looked_at], np.arange(k)])
        dot_AK = share_AC @ load_KC.T
        own_A = dot_AK[np.arange(n + k), fold_A]
        other_AA = dot_AK[:, fold_A]
        # With d = s_b - s_a and a in fold i, b in fold j: half the change of the sum is d.(l_i - l_j) + d.d
        change_AA = other_AA + other_AA.T - own_A[:, None] - own_A + distance_AA
        change_AA[fold_A[:, None] == fold_A] = 0
        a, b = np.unravel_index(np.argmin(change_AA), change_AA.shape)
        if change_AA[a, b] >= 0:
            return fold_G
        step_C = share_AC[b] - share_AC[a]
        load_KC[fold_A[a]] += step_C
        load_KC[fold_A[b]] -= step_C
        for one, fold in ((a, fold_A[b]), (b, fold_A[a])):
            if one < n:
                fold_G[looked_at[one]] = fold


def _lower_worst(share_GC: np.ndarray, fold_G: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Steepest descent on the worst deviation: the worst fold swaps a group with another fold, gives or takes one."""
    fold_G, load_KC, total_C = fold_G.copy(), _loads(share_GC, fold_G, k), share_GC.sum(0)
    unavoidable = Unavoidable.of(share_GC, k)
    nothing_1C = np.zeros((1, share_GC.shape[1]), np.int64)
    while True:
        deviation_KC = load_KC * k - total_C
        excess_K = unavoidable.excess(deviation_KC)
        worst = int(excess_K.argmax())
        lowest, swap = excess_K[worst], None
        gives = _sample(fold_G, worst, k, rng)
        given_AC = np.vstack([share_GC[gives], nothing_1C]) * k
        for fold in range(k):
            if fold == worst:
                continue
            takes = _sample(fold_G, fold, k, rng)
            step_ABC = np.vstack([share_GC[takes], nothing_1C]) * k - given_AC[:, None]
            excess_AB = np.maximum(
                unavoidable.excess(deviation_KC[worst] + step_ABC), unavoidable.excess(deviation_KC[fold] - step_ABC)
            )
            a, b = np.unravel_index(excess_AB.argmin(), excess_AB.shape)
            if excess_AB[a, b] < lowest:
                lowest, swap = excess_AB[a, b], (fold, gives[a : a + 1], takes[b : b + 1])  # empty slice: nothing
        if swap is None:
            return fold_G
        fold, given, taken = swap
        step_C = share_GC[taken].sum(0) - share_GC[given].sum(0)
        load_KC[worst] += step_C
        load_KC[fold] -= step_C
        fold_G[given], fold_G[taken] = fold, worst


def cover_classes(share_GC: np.ndarray, holds_GC: np.ndarray, fold_G: np.ndarray, k: int) -> np.ndarray:
    """(G,) folds that lack fewer classes, by swaps and moves of single groups; `fold_G` itself where none lacks any.

    The search may leave a fold without a class that is uneven in any folds, since nearly all of it is in one group.
    Where many classes live in few groups each, there may be no folds that all hold them all.

    Args:
        holds_GC: bool, whether a group has anything of a column: it may be too little for a share.
    """
    holds_GC = holds_GC[:, holds_GC.sum(0) >= k].astype(np.int64)
    while True:
        count_KC = _loads(holds_GC, fold_G, k)
        better = [
            folds
            for fold, column in np.argwhere(count_KC == 0)
            for folds in _folds_with(fold, column, holds_GC, fold_G, count_KC)
        ]
        if not better:
            return fold_G
        fold_G = min(better, key=lambda each: (_lacking(holds_GC, each, k), worst_excess(share_GC, each, k)))


def _lacking(holds_GC: np.ndarray, fold_G: np.ndarray, k: int) -> int:
    return int((_loads(holds_GC, fold_G, k) == 0).sum())


def _folds_with(
    fold: int, column: int, holds_GC: np.ndarray, fold_G: np.ndarray, count_KC: np.ndarray
) -> Iterator[np.ndarray]:
    """Folds with a group of this column moved to this fold, or swapped with one of it, where fewer lack any then."""
    gives = np.flatnonzero((holds_GC[:, column] > 0) & (fold_G != fold))[:LOOKED_AT]
    takes = np.flatnonzero(fold_G == fold)[: LOOKED_AT // len(count_KC)]
    taken_BC = np.vstack([holds_GC[takes], np.zeros_like(holds_GC[:1])])
    step_ABC = holds_GC[gives][:, None] - taken_BC
    from_A1C = count_KC[fold_G[gives]][:, None]
    lacking_AB = ((count_KC[fold] + step_ABC == 0).sum(2) + (from_A1C - step_ABC == 0).sum(2)) - (
        (count_KC[fold] == 0).sum() + (from_A1C == 0).sum(2)
    )
    for a, b in np.argwhere((lacking_AB < 0) & (lacking_AB == lacking_AB.min()))[:TRIED]:
        changed_G = fold_G.copy()
        changed_G[gives[a]] = fold
        changed_G[takes[b : b + 1]] = fold_G[gives[a]]  # of the last, an empty slice: nothing comes back
        yield changed_G
