"""The picture of the ledger: what the board said against what the honest score said."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from base.files import whole_file
from submissions.ledger import Line

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
        for row in rows.itertuples():
            axes.annotate(row.zip.removesuffix(".zip"), (row.honest_miou, row.score), xytext=(5, -9),
                          textcoords="offset points", fontsize=7, color="0.3")  # fmt: skip
    axes.set_xlabel("honest mIoU")
    axes.set_ylabel("board")
    axes.grid(alpha=0.2)
    # Not loc="best", which searches among the points, and warns where the machine is busy.
    figure.legend(loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    with whole_file(path) as aside:
        figure.savefig(aside, format="png", dpi=110)
