"""The ledger: a row per zip, the board's score beside its honest one, and what the pairs say about the next zip."""

from pathlib import Path

import pandas as pd
from filelock import FileLock

from base.files import whole_file
from config import Experiment
from submissions.receipt import read_receipt

COLUMNS = ["zip", "sha256", "created", "oof_miou", "honest_miou", "board", "score", "date"]
NUMBERS = ["oof_miou", "honest_miou", "score"]


def ledger_path(experiment: Experiment) -> Path:
    """Beside the folder of the zips, so that all runs that write there share it."""
    return Path(experiment.zips_dir).parent / "ledger.csv"


def read_ledger(path: Path) -> pd.DataFrame:
    """All rows, in the order of writing; empty if there is no ledger yet."""
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS).astype(dict.fromkeys(NUMBERS, float))
    return pd.read_csv(path, dtype={column: str for column in COLUMNS if column not in NUMBERS}, keep_default_na=False,
                       na_values={column: [""] for column in COLUMNS})  # fmt: skip


def add_to_ledger(path: Path, receipt_of: Path) -> pd.DataFrame:
    """Add the zip of a receipt, unless the same bytes stand there under the same name. Returns the ledger."""
    receipt = read_receipt(receipt_of)
    with FileLock(f"{path}.lock"):
        ledger = read_ledger(path)
        known = (ledger["zip"] == receipt["zip"]) & (ledger.sha256 == receipt["sha256"])
        if not known.any():
            row = {column: receipt.get(column) for column in COLUMNS}
            ledger = pd.concat([ledger, pd.DataFrame([row])], ignore_index=True)
            with whole_file(path) as aside:
                ledger.to_csv(aside, index=False)
    return ledger
