"""Which tiles were cut from one scene: neighbours found by their borders, laid out as mosaics."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from folds.borders import Scale, Winners, border_cost, match_borders
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
    sides = {
        "right": _Sides(scan.right_N2HB, scan.left_N2HB, Scale.of(scan.right_N2HB)),
        "below": _Sides(scan.bottom_N2WB, scan.top_N2WB, Scale.of(scan.bottom_N2WB)),
    }
    winners = {relation: side.match(tiles) for relation, side in sides.items()}
    ranked = pd.concat([_table(won, tiles, relation) for relation, won in winners.items()], ignore_index=True)
    ranked = ranked[ranked.cost <= MAX_COST].sort_values(["margin", "a", "b"], ascending=[False, True, True])
    margin = margin_asked(ranked.margin.to_numpy(), ranked.mirrored.to_numpy())
    accepted = ranked[ranked.margin >= margin]
    direct = accepted[~accepted.mirrored].drop(columns="mirrored").assign(found="border")

    def fits(a: int, b: int, relation: str) -> bool:
        return sides[relation].cost(a, b) <= MAX_COST

    layout = lay_out(len(use_N), list(zip(direct.a, direct.b, direct.relation, strict=True)), fits)
    direct = direct.drop(direct.index[layout.refused])
    known = set(zip(direct.a, direct.b, strict=True))
    implied = [
        (a, b, relation, sides[relation].cost(a, b), np.nan, "layout")
        for a, b, relation in layout.adjacent()
        if (a, b) not in known
    ]
    pairs = pd.concat([direct, pd.DataFrame(implied, columns=direct.columns).astype(direct.dtypes)], ignore_index=True)
    fitting = sum(int((won.lowest_N <= MAX_COST).sum()) for won in winners.values())
    borders = {"matched": len(direct), "undecided": fitting - len(direct), "alone": 2 * len(tiles) - fitting}
    return Mosaics(pairs, layout.mosaic_N, layout.place_N2, margin, int(accepted.mirrored.sum()), borders)


@dataclass(frozen=True)
class _Sides:
    """The two sides of all tiles that meet where a pair of one relation meets."""

    last_N2LB: np.ndarray
    first_N2LB: np.ndarray
    scale: Scale

    def match(self, tiles: np.ndarray) -> Winners:
        return match_borders(self.last_N2LB[tiles], self.first_N2LB[tiles], self.scale)

    def cost(self, a: int, b: int) -> float:
        return border_cost(self.last_N2LB, self.first_N2LB, a, b, self.scale)


def _table(won: Winners, tiles: np.ndarray, relation: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "a": tiles[won.a_P],
            "b": tiles[won.b_P],
            "relation": relation,
            "cost": won.cost_P,
            "margin": won.margin_P,
            "mirrored": won.mirrored_P,
        }
    )


def margin_asked(margin_P: np.ndarray, mirrored_P: np.ndarray) -> float:
    """The lowest margin, at least MIN_MARGIN, above which mirrored winners are at most FALSE_SHARE of the others.

    Args:
        margin_P: in descending order.
    """
    false_P = np.cumsum(mirrored_P)
    allowed_P = false_P <= FALSE_SHARE * (np.arange(1, len(margin_P) + 1) - false_P)
    lowest = margin_P[allowed_P][-1] if allowed_P.any() else np.inf
    return float(max(MIN_MARGIN, lowest)) if len(margin_P) and not allowed_P.all() else MIN_MARGIN
