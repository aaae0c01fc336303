"""Which tiles were cut from one scene: neighbours found by their borders, laid out as mosaics."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from folds.borders import Borders, match_borders
from folds.layout import lay_out
from folds.scan import Scan

MAX_COST = 3.0  # true neighbours have 0.3 to 1.8 on real imagery (docs/folds.md)
MIN_MARGIN = 1.5  # true neighbours have 2.4 and more there; ambiguous borders have 1.0 to 1.2
FALSE_SHARE = 0.01  # of the accepted pairs may be false, judged by the mirrored borders that win


@dataclass(frozen=True)
class Mosaics:
    """The neighbours among N tiles."""

    pairs: pd.DataFrame
    """a, b (positions), relation (b is `right` of or `below` a), cost, margin, and found: `border`, or `layout` where
    only the places say it."""
    mosaic_N: np.ndarray
    """Position of the first tile of the mosaic that each tile belongs to."""
    place_N2: np.ndarray
    """Row and column in it."""
    margin: float
    """The margin that was asked of a pair."""
    mirrored: int
    """Borders accepted upside down at that margin, in a count equal to the chances of a false pair."""
    borders: dict[str, int]
    """How many right and bottom borders are `matched`, `alone` (nothing fits), or `undecided` (several tiles fit)."""


def recover_mosaics(scan: Scan, use_N: np.ndarray) -> Mosaics:
    """Find the neighbours among all tiles of a scan, train and test together.

    Args:
        use_N: bool; tiles left out (copies of others, which would be rivals of the true neighbour) stay alone.
    """
    tiles = np.flatnonzero(use_N)
    sides = {"right": (scan.right_N2HB, scan.left_N2HB), "below": (scan.bottom_N2WB, scan.top_N2WB)}
    found = []
    lowest = []
    for relation, (last, first) in sides.items():
        winners = match_borders(last[tiles], first[tiles])
        lowest.append(winners.lowest_N)
        found.append(
            pd.DataFrame(
                {
                    "a": tiles[winners.a_P],
                    "b": tiles[winners.b_P],
                    "relation": relation,
                    "cost": winners.cost_P,
                    "margin": winners.margin_P,
                    "mirrored": winners.mirrored_P,
                }
            )
        )
    winners = pd.concat(found, ignore_index=True).query("cost <= @MAX_COST")
    winners = winners.sort_values(["margin", "a", "b"], ascending=[False, True, True], kind="stable")
    margin = margin_asked(winners.margin.to_numpy(), winners.mirrored.to_numpy())
    accepted = winners[winners.margin >= margin]
    mirrored = int(accepted.mirrored.sum())
    accepted = accepted[~accepted.mirrored].drop(columns="mirrored").assign(found="border")

    def fits(a: int, b: int, relation: str) -> bool:
        return border_cost(*sides[relation], a, b) <= MAX_COST

    layout = lay_out(len(use_N), list(zip(accepted.a, accepted.b, accepted.relation, strict=True)), fits)
    accepted = accepted.drop(accepted.index[layout.refused])
    direct = set(zip(accepted.a, accepted.b, strict=True))
    implied = [
        (a, b, relation, border_cost(*sides[relation], a, b), np.nan, "layout")
        for a, b, relation in layout.adjacent()
        if (a, b) not in direct
    ]
    pairs = pd.concat([accepted, pd.DataFrame(implied, columns=accepted.columns).astype(accepted.dtypes)])
    fitting = int((np.concatenate(lowest) <= MAX_COST).sum())
    borders = {
        "matched": len(accepted),
        "undecided": fitting - len(accepted),
        "alone": 2 * len(tiles) - fitting,
    }
    return Mosaics(pairs.reset_index(drop=True), layout.mosaic_N, layout.place_N2, margin, mirrored, borders)


def margin_asked(margin_P: np.ndarray, mirrored_P: np.ndarray) -> float:
    """The lowest margin, at least MIN_MARGIN, above which mirrored winners are at most FALSE_SHARE of the others.

    Args:
        margin_P: in descending order.
    """
    false_P = np.cumsum(mirrored_P)
    allowed_P = false_P <= FALSE_SHARE * (np.arange(1, len(margin_P) + 1) - false_P)
    lowest = margin_P[allowed_P][-1] if allowed_P.any() else np.inf
    return float(max(MIN_MARGIN, lowest)) if len(margin_P) and not allowed_P.all() else MIN_MARGIN


def border_cost(last_N2LB: np.ndarray, first_N2LB: np.ndarray, a: int, b: int) -> float:
    """The cost of one pair."""
    offset_B = last_N2LB[a, 0].mean(0, dtype=np.float64)
    one, other = Borders.of(last_N2LB[a : a + 1], offset_B), Borders.of(first_N2LB[b : b + 1], offset_B)
    return float(one.costs(slice(1), other)[0, 0])
