"""How members predict, how they are blended, and what is handed in."""

from typing import Literal

from pydantic import Field

from config.base import Section


class Predict(Section):
    tta: Literal["none", "hflip", "flips", "d4"] = "flips"
    """Views averaged at prediction: none, a horizontal flip, both flips (4 views), or all 8 of the square."""
    batch: int = Field(16, ge=1)
    """Tiles per forward pass, views not counted."""
    weights: Literal["last", "best"] = "last"
    """Which weights predict. best is the epoch that scored highest on the held-out fold: optimistic, and named so."""


class Blend(Section):
    name: str = Field("blend", pattern=r"^[A-Za-z0-9_.-]+$")
    """Several blends of one run live side by side under their names."""
    models: list[str] | None = None
    """Names of the models that are blended; null: all of them."""


class Submission(Section):
    format: Literal["png", "geotiff", "rle"] = "png"
    """png: a zip of one-channel PNGs. geotiff: of GeoTIFFs with the coordinates of the test images. rle: of one csv with
    Kaggle's run-length codes."""
    folder: str = Field("results", pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*)?$")
    """Folder inside the zip; empty: the files lie at its top. Not for rle, which is one file at the top."""
