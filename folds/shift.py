"""How far the bands of test tiles lie from those of train tiles: for the audit, the report and the diagnosis."""

import pandas as pd

SHIFTED = 0.5  # difference of a band's train and test means, in train stds, above which it is said


def band_shift(bands: pd.DataFrame) -> pd.Series:
    """Band -> how far its test mean lies from its train mean, in train stds; NaN without test tiles, and for a band
    that is one value in all train tiles.

    Args:
        bands: `folds.audit.band_table`.
    """
    train, test = (bands[bands.split == split].set_index("band") for split in ("train", "test"))
    return (test["mean"] - train["mean"]) / train["std"].where(train["std"] > 0)


def say_shifted(shift: pd.Series) -> str:
    """The bands that are shifted, the furthest first: "nir -1.86, red +0.74"; empty where none is."""
    far = shift[shift.abs() > SHIFTED].sort_values(key=abs, ascending=False, kind="stable")
    return ", ".join(f"{band} {value:+.2f}" for band, value in far.items())
