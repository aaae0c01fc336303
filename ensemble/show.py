"""The tables of the ensemble on a screen of 100 columns."""

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from base.screen import COLUMNS, text_table
from config.data import OOF_COLUMNS
from ensemble.build import RunBlend
from ensemble.evidence import SHIPS

CLASSES_WIDE = 5  # that fit beside name, fold and mIoU
SHORTEST = 9  # letters that a class's name is cut to at most


def show_models(table: pd.DataFrame, console: Console) -> None:
    """Members, models and the blend with their IoU per class; then other weights and views, if there are any."""
    names = table.columns[len(OOF_COLUMNS) :].tolist()
    rows = table[~table.kind.isin(["step", "variant"])]
    parts = -(-len(names) // CLASSES_WIDE)
    for part, classes in enumerate(np.array_split(names, parts)):
        cells, styles = [], []
        for row in rows.to_dict("records"):
            seed = "" if pd.isna(row["seed"]) else f"/s{row['seed']}"
            fold = "all" if pd.isna(row["fold"]) else f"{row['fold']}{seed}"
            figures = [] if part else [_number(row["miou"], 4)]
            figures += [_number(row[name], 3) for name in classes]
            style = {"model": "bold", "specialist": "bold", "blend": "green"}.get(row["kind"], "")
            styles.append("bold green" if row["kind"] == "blend" and fold == "all" else style)
            cells.append((row["name"], fold, *figures))
        first = ["", "fold", *([] if part else ["mIoU"])]
        columns = first + [name[: _letters(first, cells, len(classes))] for name in classes]
        title = "" if part else "OOF mIoU and IoU per class"
        console.print(text_table(title, columns, cells, styles=styles, no_wrap=True, title_justify="left"))
    if (table.kind == "variant").any():
        console.print(_variants(table))


def _letters(first: list[str], cells: list[tuple[str, ...]], classes: int) -> int:
    """Of each class's name that there is room for beside the first columns; every column has two blanks and a line."""
    taken = [max(map(len, column)) for column in zip(first, *cells, strict=False)]
    return max(SHORTEST, (COLUMNS - 1 - sum(width + 3 for width in taken)) // classes - 3)


def _variants(table: pd.DataFrame) -> Table:
    """Each model's score by the weights and views that the blend is of, and by all others it has predicted with."""
    rows = table[table.kind.isin(["model", "variant"]) & table.fold.isna() & table.miou.notna()]
    rows = rows.sort_values(["name", "kind", "weights", "tta"]).to_dict("records")
    cells = [
        (
            row["name"],
            row["weights"],
            row["tta"],
            _number(row["miou"], 4),
            f"{row['miou_low']:.3f} {row['miou_high']:.3f}",
        )
        for row in rows
    ]
    return text_table(
        "Weights and views, OOF mIoU of all tiles", ("", "weights", "views", "mIoU", "95 %"), cells,
        left=("", "weights", "views"), styles=["bold" if row["kind"] == "model" else "" for row in rows],
        title_justify="left",
    )  # fmt: skip


def show_blend(built: RunBlend, console: Console) -> None:
    """The steps of the blend, the candidates that were asked about, and what each model is worth."""
    console.print(_steps(built))
    if len(built.candidates):
        console.print(_candidates(built.candidates))
    console.print(_models(built.models))
    if harm := _harm(built.models):
        console.print(Text(harm), soft_wrap=True)  # a key to be copied stays in one piece
    if len(built.errors) > 1:
        console.print(_errors(built.errors))


def _steps(built: RunBlend) -> Table:
    together = "" if built.steps_pay else " All steps together do not pay: the plain mean ships."
    rows = []
    for row in built.steps.to_dict("records"):
        first = row["step"] == "uniform"
        rows.append((
            row["step"],
            "mean, argmax" if first else f"{row['kind']} {row['agree']}/{len(built.fits.without)}",
            _number(row["miou"], 4),
            f"{row['miou_low']:.3f} {row['miou_high']:.3f}",
            "" if first else f"{row['gain']:+.4f}",
            "" if first else f"{row['gain_low']:+.3f} {row['gain_high']:+.3f}",
            _number(row["miou_in_sample"], 4),
            _number(row["ece"], 3),
            "◂" if row["ships"] else "",
        ))  # fmt: skip
    return text_table(
        "Blend: honest mIoU after each step, on folds that it was not fitted on",
        ("step", "kind", "mIoU", "95 %", "gain", "95 %", "in-sample", "ECE", ""), rows,
        left=("step", "kind"), styles=["bold green" if ships else "" for ships in built.steps.ships],
        caption="◂ ships. kind: what was chosen, and in how many of the fits without a fold. gain: over the step "
        "before. in-sample: on the tiles it was fitted on. ECE: calibration error. Intervals are over "
        f"{built.groups} groups. All scores are of one fold's members a tile; test tiles get the mean over all folds."
        f"{together}",
        no_wrap=True, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True,
    )  # fmt: skip


def _candidates(candidates: pd.DataFrame) -> Table:
    rows = [
        (row["step"], row["kind"], {"miou": "mIoU", "nll": "-log loss"}[row["measure"]], f"{row['gain']:+.4f}",
         f"{row['low']:+.4f} {row['high']:+.4f}", "ships" if row["ships"] else "")
        for row in candidates.to_dict("records")
    ]  # fmt: skip
    return text_table(
        "Candidates of each step, against leaving the step out",
        ("step", "candidate", "measure", "gain", "interval", ""), rows,
        left=("step", "candidate", "measure", ""), styles=["bold" if ships else "" for ships in candidates.ships],
        caption=f"Of a step's candidates whose interval ({SHIPS:.0%}, widened for their number) lies above 0, the one "
        "that gains most ships; a specialist stays if its gain does. override: for comparison.", title_justify="left",
    )  # fmt: skip


def _models(models: pd.DataFrame) -> Table:
    rows = []
    for row in models.to_dict("records"):
        known = not pd.isna(row["worth"])
        on_all = row["on_all_tiles"]
        rows.append((
            row["model"],
            f"{row['members'] - on_all}" + (f" + {on_all} all" if on_all else ""),
            f"{row['weight']:.3f}",
            f"{row['worth']:+.4f}" if known else "-",
            f"{row['worth_low']:+.4f} {row['worth_high']:+.4f}" if known else "",
            "-" if pd.isna(row["s_per_1000_tiles"]) else f"{row['s_per_1000_tiles']:,.0f}",
        ))  # fmt: skip
    return text_table(
        "Models", ("model", "members", "weight", "worth", "95 %", "s per 1,000 tiles"), rows, title_justify="left",
        caption="worth: honest mIoU that the blend loses without it. A specialist's weight is its share a."
        + (" all: members trained on every tile, which have no OOF score." if models.on_all_tiles.any() else ""),
    )  # fmt: skip


def _harm(models: pd.DataFrame) -> str:
    """What to leave out, if the blend is certainly worse for a model: of several the worst, since each is judged beside
    the others. With two folds none is left out by the fit itself, and a step that lowers the weight may not ship."""
    harmful = models[models.worth_high < 0]
    if harmful.empty:
        return ""
    worst = harmful.loc[harmful.worth.idxmin(), "model"]
    rest = ",".join(name for name in models.model if name != worst)
    return f"without {worst} the blend is certainly better: blend.models=[{rest}]"


def _errors(errors: pd.DataFrame) -> Table:
    rows = [(str(name), *(f"{value:.2f}" for value in row)) for name, row in errors.iterrows()]
    columns = ("", *(name[:12] for name in errors.columns))
    return text_table("Correlation of errors", columns, rows, title_justify="left")


def _number(value: float, digits: int) -> str:
    return "-" if pd.isna(value) else f"{value:.{digits}f}"
