"""The picture of the ledger: what the board said against what the honest score said."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from base.files import whole_file
from submissions.ledger import Line

LABEL_SIZE, LABEL_HEIGHT, LABEL_WIDTH, LABEL_GAP = 7, 8.5, 4.0, 8  # points; the width is that of a letter
COLORS = ["#1f77b4", "#d95f02", "#1b9e77", "#7570b3"]


def draw_ledger(boards: dict[str, pd.DataFrame], lines: list[Line], path: Path) -> None:
    """A point per scored zip; per board with a line, the line and the interval in which a new zip's score lies."""
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    axes = figure.add_subplot()
    everything = pd.concat(boards.values())
    reach = np.ptp(everything.honest_miou) or 0.02
    honest = np.linspace(everything.honest_miou.min() - reach / 5, everything.honest_miou.max() + reach / 5, 100)
    axes.plot(honest, honest, color="0.6", linestyle=":", label="board = honest")
    color_of = {board: COLORS[i % len(COLORS)] for i, board in enumerate(boards)}
    for line in lines:
        score, half = line.predict(honest)
        axes.plot(honest, score, color=color_of[line.board], linewidth=1)
        axes.fill_between(honest, score - half, score + half, color=color_of[line.board], alpha=0.12, linewidth=0,
                          label=f"board {line.board}: 95 % for a new zip")  # fmt: skip
    for board, rows in boards.items():
        axes.plot(rows.honest_miou, rows.score, "o", color=color_of[board], markersize=5, label=f"board {board}")
    axes.set_xlabel("honest mIoU")
    axes.set_ylabel("board")
    axes.grid(alpha=0.2)
    # Not loc="best", which searches among the points, and warns where the machine is busy.
    figure.legend(loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    name_points(figure, axes, everything)
    with whole_file(path) as aside:
        figure.savefig(aside, format="png", dpi=110)


def name_points(figure: Figure, axes: Axes, rows: pd.DataFrame) -> None:
    """The zip's name right of each point, moved down where another name stands there, and tied to its point then."""
    figure.draw_without_rendering()  # the layout fixes where points are
    points = axes.transData.transform(rows[["honest_miou", "score"]].to_numpy()) * 72 / figure.dpi
    names = rows["zip"].str.removesuffix(".zip").tolist()
    taken: list[tuple[float, float, float]] = []  # left, right, height; in points, as the rest
    for i in np.argsort(-points[:, 1], kind="stable"):
        x, y = points[i, 0] + LABEL_GAP, points[i, 1]
        right = x + LABEL_WIDTH * len(names[i])
        while any(x < other_right and left < right and abs(y - at) < LABEL_HEIGHT for left, other_right, at in taken):
            y -= 1
        taken.append((x, right, y))
        moved = y < points[i, 1] - LABEL_HEIGHT / 2
        axes.annotate(names[i], rows[["honest_miou", "score"]].iloc[i], xytext=(LABEL_GAP, y - points[i, 1]),
                      textcoords="offset points", fontsize=LABEL_SIZE, color="0.3", va="center",
                      arrowprops={"arrowstyle": "-", "color": "0.7", "linewidth": 0.6} if moved else None)  # fmt: skip
