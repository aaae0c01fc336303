"""The picture of the ledger: what the board said against what the honest score said."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from base.files import whole_file
from base.lettering import lettering
from submissions.ledger import Line

LABEL_SIZE, LABEL_HEIGHT, LABEL_GAP = 7, 8.5, 8  # points
POINT_RADIUS = 2.5  # points
COLORS = ["#1f77b4", "#d95f02", "#1b9e77", "#7570b3"]


@lettering()
def draw_ledger(boards: dict[str, pd.DataFrame], lines: list[Line], path: Path) -> None:
    """The picture beside the ledger: `draw_scores` with the names of the zips."""
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    axes = figure.add_subplot()
    draw_scores(axes, boards, lines, COLORS, "0.6")
    axes.grid(alpha=0.2)
    # Not loc="best", which searches among the points, and warns where the machine is busy.
    figure.legend(loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    name_points(figure, axes, pd.concat(boards.values()))
    with whole_file(path) as aside:
        figure.savefig(aside, format="png", dpi=110)


def draw_scores(
    axes: Axes, boards: dict[str, pd.DataFrame], lines: list[Line], colors: Sequence[str], neutral: str
) -> None:
    """A point per scored zip; per board with a line, the line and the band in which a new zip's score lies.

    Args:
        boards: the scored rows of the ledger, by board.
        colors: of the boards, in turn.
        neutral: colour of the line on which both scores are equal.
    """
    everything = pd.concat(boards.values())
    reach = np.ptp(everything.honest_miou) or 0.02
    honest = np.linspace(everything.honest_miou.min() - reach / 5, everything.honest_miou.max() + reach / 5, 100)
    axes.plot(honest, honest, color=neutral, linestyle=(0, (4, 3)), linewidth=1, label="board = honest")
    color_of = {board: colors[i % len(colors)] for i, board in enumerate(boards)}
    for line in lines:
        score, half = line.predict(honest)
        axes.plot(honest, score, color=color_of[line.board], linewidth=1)
        axes.fill_between(honest, score - half, score + half, color=color_of[line.board], alpha=0.13, linewidth=0,
                          label=f"board {line.board}: 95 % for a new zip")  # fmt: skip
    for board, rows in boards.items():
        axes.plot(rows.honest_miou, rows.score, "o", color=color_of[board], markersize=2 * POINT_RADIUS,
                  label=f"board {board}")  # fmt: skip
    axes.set_xlabel("honest mIoU")
    axes.set_ylabel("board")


def name_points(figure: Figure, axes: Axes, rows: pd.DataFrame) -> None:
    """The zip's name right of each point, left of it where another name or point is, lower where both sides are taken;
    a name that is lower is tied to its point."""
    figure.draw_without_rendering()  # the layout fixes where points are
    points = axes.transData.transform(rows[["honest_miou", "score"]].to_numpy()) * 72 / figure.dpi
    names = rows["zip"].str.removesuffix(".zip").tolist()
    # Left, right and height of what is there: first the points. All in points of 1/72 inch.
    taken = [(x - POINT_RADIUS, x + POINT_RADIUS, y) for x, y in points]
    for i in np.argsort(-points[:, 1], kind="stable"):
        (x, y), width = points[i], _width(figure, names[i])
        places = ((left, y - down) for down in itertools.count() for left in (x + LABEL_GAP, x - LABEL_GAP - width))
        left, at = next(place for place in places if _is_free(*place, width, taken))
        taken.append((left, left + width, at))
        side = 1 if left > x else -1
        moved = at < y - LABEL_HEIGHT / 2
        axes.annotate(names[i], rows[["honest_miou", "score"]].iloc[i], xytext=(side * LABEL_GAP, at - y),
                      textcoords="offset points", fontsize=LABEL_SIZE, color="0.3", va="center",
                      ha="left" if side > 0 else "right",
                      arrowprops={"arrowstyle": "-", "color": "0.7", "linewidth": 0.6} if moved else None)  # fmt: skip


def _width(figure: Figure, name: str) -> float:
    """Of a name as it is drawn, in points."""
    text = figure.text(0, 0, name, fontsize=LABEL_SIZE)
    pixels = text.get_window_extent().width
    text.remove()
    return pixels * 72 / figure.dpi


def _is_free(left: float, at: float, width: float, taken: list[tuple[float, float, float]]) -> bool:
    return not any(
        left < other_right and other_left < left + width and abs(at - other_at) < LABEL_HEIGHT
        for other_left, other_right, other_at in taken
    )
