"""A member's folder, without torch: its record, its log, and where its weights lie."""

import csv
import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from base.files import read_json, write_json, write_text
from base.tables import read_csv

LOG = "log.csv"
LOG_COLUMNS = ["epoch", "lr", "loss", "val_miou"]


@dataclass(frozen=True)
class MemberRecord:
    """`member.json`: what a person, the provenance check and prediction need to know of a member."""

    model: str
    fold: int | None
    """None: trained on every tile."""
    seed: int
    target: str
    classes: list[str]
    """Of the output's channels; for a specialist, its one class."""
    train_tiles: list[str]
    held_out: list[str]
    preparation: dict[str, Any]
    dtype: str = "uint8"
    """Of the pixels that it was trained on."""
    split_batch: int = 1
    """Parts in which its batches went through the network, in the end; see `jobs.split_batch`."""

    @classmethod
    def read(cls, folder: Path) -> "MemberRecord":
        return cls(**read_json(record_path(folder)))

    def write(self, folder: Path) -> None:
        write_json(record_path(folder), asdict(self))


def record_path(folder: Path) -> Path:
    return folder / "member.json"


def weights_path(folder: Path, kind: str) -> Path:
    """The weights of a kind: last, best, ema, swa."""
    return folder / "weights" / f"{kind}.safetensors"


def weights_files(folder: Path) -> list[Path]:
    """The weights of all kinds that were written."""
    return sorted(weights_path(folder, "last").parent.glob("*.safetensors"))


def write_log(folder: Path, rows: list[dict[str, float | int | None]]) -> None:
    """A row per epoch. No times in it: a resumed run has the same log as an undisturbed one."""
    text = io.StringIO()
    writer = csv.DictWriter(text, LOG_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / LOG, text.getvalue())


def read_log(folder: Path) -> pd.DataFrame | None:
    """LOG_COLUMNS, a row per epoch; None: not begun."""
    path = folder / LOG
    log = read_csv(path) if path.exists() else None
    return None if log is None or log.empty else log
