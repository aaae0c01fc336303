"""Reading the tables that stages leave for each other."""

from pathlib import Path
from typing import Any

import pandas as pd


def read_csv(path: str | Path, dtype: Any = None, index_col: int | None = None) -> pd.DataFrame:
    """A csv in which only an empty cell is missing: a tile, class or model may be called NA, None or null, which pandas
    would take for nothing."""
    return pd.read_csv(path, dtype=dtype, index_col=index_col, keep_default_na=False, na_values=[""])
