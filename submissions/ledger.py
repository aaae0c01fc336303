"""The ledger: a row per zip, the board's score beside its honest one, and what the pairs say about the next zip."""

import datetime
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from base.command import add_json, run, split_operands, stage_parser, write_figures
from base.errors import UserError, listed
from base.files import hash_file
from base.locks import waited
from base.tables import read_csv, write_csv
from config import Experiment, load_experiment
from submissions.receipt import read_receipt, receipt_path

TEXTS = ["zip", "sha256", "created", "board", "date"]
NUMBERS = ["oof_miou", "honest_miou", "score"]
COLUMNS = ["zip", "sha256", "created", "oof_miou", "honest_miou", "board", "score", "date"]
ENOUGH = 4  # scored rows of a board before a line is fitted: two give a line, three an interval that says nothing
ACTIONS = """show             the table, and per board the line from honest score to board, with a plot
add ZIP          enter a zip that has a receipt
score ZIP SCORE  write what the board said; ZIP may be the first digits of its sha256"""
NAME_SHOWN = 24  # characters of a zip's name in the table
SHA_SHOWN = 8  # hex digits of the sha256 that the table shows, and that `score` takes for a zip


def ledger_path(experiment: Experiment) -> Path:
    """Beside the folder of the zips, so that all runs that write there share it."""
    return Path(experiment.zips_dir).parent / "ledger.csv"


def read_ledger(path: Path) -> pd.DataFrame:
    """All rows, in the order of writing; empty if there is no ledger yet. People may add columns of their own.

    Raises:
        UserError: the file is no ledger.
    """
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS).astype(dict.fromkeys(TEXTS, str) | dict.fromkeys(NUMBERS, float))
    try:
        ledger = read_csv(path, dtype=dict.fromkeys(TEXTS, str) | dict.fromkeys(NUMBERS, float))
    except ValueError as error:
        raise UserError(f"{path}: no ledger, or damaged ({error})") from None
    missing = [column for column in COLUMNS if column not in ledger]
    if missing:
        raise UserError(f"{path}: lacks the columns {listed(missing)}; a ledger has {listed(COLUMNS)}")
    return ledger


def add_to_ledger(path: Path, receipt: Path) -> None:
    """Add the zip of a receipt, unless the same bytes stand there under the same name."""
    row = read_receipt(receipt)
    with waited(_lock_path(path)):
        ledger = read_ledger(path)
        if not ((ledger["zip"] == row["zip"]) & (ledger.sha256 == row["sha256"])).any():
            write_csv(path, _with_row(ledger, {column: row.get(column) for column in COLUMNS}))


def add_score(path: Path, which: str, score: float, board: str, date: str) -> pd.Series:
    """Write a board's score into the row of a zip; into a copy of the row if another board's stands there.

    Args:
        which: the path or name of the zip, or the first digits of its sha256.

    Returns:
        The row as it now stands.

    Raises:
        UserError: no such zip, or several (the name was used for other content before; the sha256 tells them apart).
    """
    with waited(_lock_path(path)):
        ledger = read_ledger(path)
        row = ledger.loc[_find(ledger, which, path)]
        same_zip = (ledger["zip"] == row["zip"]) & (ledger.sha256 == row.sha256)
        free = ledger.index[same_zip & (ledger.board.isna() | (ledger.board == board))]
        values = {"board": board, "score": score, "date": date}
        if free.empty:
            ledger = _with_row(ledger, row.to_dict() | values)
            at = ledger.index[-1]
        else:
            at = free[0]
            ledger.loc[at, list(values)] = list(values.values())
        write_csv(path, ledger)
    return ledger.loc[at]


@dataclass(frozen=True)
class Line:
    """score = intercept + slope * honest mIoU over the zips of one board."""

    board: str
    rows: int
    rank_correlation: float
    """Spearman's: does the honest score order the zips as the board does? NaN if all honest scores are equal."""
    slope: float
    slope_interval: tuple[float, float]
    """95 %, Student's t with rows - 2 degrees of freedom."""
    intercept: float
    residual_std: float
    """Of the board's scores around the line."""
    honest_mean: float
    honest_spread: float
    """Root of the summed squared deviations of the honest scores."""

    def figures(self) -> dict[str, Any]:
        """For JSON, which knows no NaN."""
        return {key: None if value != value else value for key, value in asdict(self).items()}

    def predict(self, honest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The expected board score and the half width of its 95 % interval for ONE new zip, not for the line."""
        spread = 1 + 1 / self.rows + ((honest - self.honest_mean) / self.honest_spread) ** 2
        half = stats.t.ppf(0.975, self.rows - 2) * self.residual_std * np.sqrt(spread)
        return self.intercept + self.slope * honest, half


def fit_line(board: str, honest: np.ndarray, score: np.ndarray) -> Line | None:
    """Least squares; None with fewer than ENOUGH rows, or if all honest scores are equal."""
    if len(honest) < ENOUGH or np.ptp(honest) == 0:
        return None
    fit = stats.linregress(honest, score)
    residual = score - fit.intercept - fit.slope * honest
    residual_std = np.sqrt((residual**2).sum() / (len(honest) - 2))
    honest_spread = np.sqrt(((honest - honest.mean()) ** 2).sum())
    # Not fit.stderr, which is NaN where all scores are equal.
    half = stats.t.ppf(0.975, len(honest) - 2) * residual_std / honest_spread
    rank = stats.spearmanr(honest, score).statistic if np.ptp(score) else float("nan")
    return Line(
        board=board,
        rows=len(honest),
        rank_correlation=float(rank),
        slope=float(fit.slope),
        slope_interval=(float(fit.slope - half), float(fit.slope + half)),
        intercept=float(fit.intercept),
        residual_std=float(residual_std),
        honest_mean=float(honest.mean()),
        honest_spread=float(honest_spread),
    )


def scored_boards(ledger: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows with an honest and a board's score, by board."""
    scored = ledger.dropna(subset=["honest_miou", "score"])
    return {str(board): rows for board, rows in scored.groupby(scored.board.fillna("?"), sort=True)}


def show(path: Path) -> list[Line]:
    """Print the ledger with its lines, and draw them beside it. Returns the lines."""
    ledger = read_ledger(path)
    if ledger.empty:
        raise UserError(f"{path}: no zip yet. Run: python -m ensemble.blend --config FILE")
    table = ledger.assign(
        zip=[name if len(name) <= NAME_SHOWN else f"{name[: NAME_SHOWN - 3]}..." for name in ledger["zip"]],
        sha256=ledger.sha256.str[:SHA_SHOWN],
        created=ledger.created.str[:10],
        difference=ledger.score - ledger.honest_miou,
    )
    table = table.rename(columns={"oof_miou": "oof", "honest_miou": "honest"})
    order = ["zip", "sha256", "created", "oof", "honest", "board", "score", "difference", "date"]
    print(table[order].to_string(index=False, na_rep="", float_format="{:.4f}".format))
    boards = scored_boards(ledger)
    lines = [fit_line(b, rows.honest_miou.to_numpy(), rows.score.to_numpy()) for b, rows in boards.items()]
    for (board, rows), line in zip(boards.items(), lines, strict=True):
        print(_told(board, rows, line))
    if boards:
        from submissions.plot import draw_ledger  # matplotlib takes a second to import

        picture = path.with_suffix(".png")
        draw_ledger(boards, [line for line in lines if line], picture)
        print(f"plot: {picture}")
    return [line for line in lines if line]


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("submissions.ledger", f"{__doc__}\n\n{ACTIONS}", "show", operands="ACTION [ZIP [SCORE]]")
    parser.add_argument(
        "--board",
        default="A",
        help="score: which board; two competitions need two names (default: %(default)s)",
    )
    parser.add_argument("--date", type=_date, default=str(datetime.date.today()), help="score: YYYY-MM-DD (today)")
    add_json(parser)
    args = parser.parse_intermixed_args(argv)
    words, overrides = split_operands(args.overrides, 0, 1, 2, 3)
    action, *operands = words or ["show"]
    path = ledger_path(load_experiment(args.config, overrides))
    if action == "show" and not operands:
        lines = show(path)
        write_figures(args.json, {line.board: line.figures() for line in lines})
    elif action == "add" and len(operands) == 1:
        add_to_ledger(path, receipt_path(Path(operands[0])))
        print(f"{path}: holds {operands[0]}")
    elif action == "score" and len(operands) == 2:
        row = add_score(path, operands[0], _score(operands[1]), args.board, args.date)
        honest = "" if pd.isna(row.honest_miou) else f", honest {row.honest_miou:.4f}"
        print(f"{path}: {row['zip']} {row.sha256[:SHA_SHOWN]}: board {row.board} {row.score:.4f}{honest}")
    else:
        raise UserError(f"ledger: {' '.join([action, *operands])!r} is none of: show; add ZIP; score ZIP SCORE")


def _lock_path(path: Path) -> Path:
    """Of the file itself, where several projects link one ledger."""
    return Path(f"{os.path.realpath(path)}.lock")


def _with_row(ledger: pd.DataFrame, row: dict) -> pd.DataFrame:
    row = pd.DataFrame([row], columns=ledger.columns)
    return pd.concat([ledger, row.astype(ledger[COLUMNS].dtypes)], ignore_index=True)


def _find(ledger: pd.DataFrame, which: str, path: Path) -> int:
    """The index of the row that is meant: by sha256, or by name if the name stands for one content only."""
    by_sha = ledger[ledger.sha256.str.startswith(which)] if len(which) >= 6 else ledger[:0]
    by_name = ledger[ledger["zip"] == Path(which).name]
    found = by_name if by_sha.empty else by_sha
    if found.empty:
        raise UserError(f"{path}: no row for {which}; it has {listed(ledger['zip'].unique())}")
    contents = found.sha256.unique()
    if len(contents) > 1:
        shown = listed(f"{sha[:SHA_SHOWN]} of {created}" for sha, created in
                       found.drop_duplicates("sha256")[["sha256", "created"]].itertuples(index=False))  # fmt: skip
        now = f"; the file is now {hash_file(which)[:SHA_SHOWN]}" if Path(which).is_file() else ""
        raise UserError(f"{path}: {which} was written with {len(contents)} contents ({shown}){now}. Name the sha256")
    return found.index[0]


def _told(board: str, rows: pd.DataFrame, line: Line | None) -> str:
    mean = (rows.score - rows.honest_miou).mean()
    text = f"board {board}: {len(rows)} scored zips, on average {mean:+.4f} from the honest score"
    if line is None:
        return f"{text}\n  a line is fitted from {ENOUGH} zips with different honest scores on"
    low, high = line.slope_interval
    return (
        f"{text}\n  rank correlation {line.rank_correlation:.2f}; board = {line.intercept:.4f} + {line.slope:.2f} x "
        f"honest, slope {low:.2f} to {high:.2f} (95 %)"
    )


def _score(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1:
        raise UserError(f"score {text}: a mIoU lies in 0..1; 38.2 % is 0.382")
    return value


def _date(text: str) -> str:
    return str(datetime.date.fromisoformat(text))


if __name__ == "__main__":
    run(main)
