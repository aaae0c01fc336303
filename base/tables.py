"""The tables that stages leave for each other."""

from pathlib import Path
from typing import Any

import pandas as pd

from base.files import whole_file


def read_csv(path: str | Path, dtype: Any = None, index_col: int | None = None) -> pd.DataFrame:
    """A csv in which only an empty cell is missing: a tile, class or model may be called NA, None or null, which pandas
    would take for nothing."""
    return pd.read_csv(path, dtype=dtype, index_col=index_col, keep_default_na=False, na_values=[""])


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows for JSON, which knows nothing missing but null."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def write_csv(path: str | Path, table: pd.DataFrame, **form: Any) -> None:
    """The columns of a table without its index, whole or not at all.

    Args:
        form: what else `to_csv` takes: float_format, ...
    """
    with whole_file(path) as aside:
        table.to_csv(aside, index=False, **form)
