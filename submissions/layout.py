"""What a submission must hold: the test tiles, the classes, the format, the names inside the zip."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from base.errors import UserError
from config import Experiment
from config.data import NAME
from folds.classes import ClassTable

EXTENSIONS = {"png": ".png", "color_png": ".png", "geotiff": ".tif"}
CSV_NAME = "submission.csv"


@dataclass(frozen=True)
class Tile:
    """A tile: its name, its size in pixels and the image that its labels are of."""

    name: str
    height: int
    width: int
    image: Path

    @property
    def max_bytes(self) -> int:
        """The most that a file with its labels can unpack to. 8 bytes a pixel, so that a tile that was written as
        16-bit RGBA or float64 is still read far enough to say so."""
        return 8 * self.height * (self.width + 1) + 65536


@dataclass(frozen=True)
class Layout:
    tiles: dict[str, Tile]
    """The tiles to hand in by name, sorted by name: the order of the zip."""
    classes: ClassTable
    """With the labels that stand in the zip."""
    format: str
    """`submission.format`."""
    folder: str
    """`submission.folder`; empty: the files lie at the top of the zip."""
    file: str = NAME
    """`submission.file`."""

    @classmethod
    def of(cls, experiment: Experiment, tiles: pd.DataFrame, split: str = "test") -> "Layout":
        """The layout that an experiment demands.

        Args:
            split: `train` for a rehearsal with OOF labels, which can be scored.

        Raises:
            UserError: there is no test tile.
        """
        rows = tiles[tiles.split == split]
        if rows.empty:
            raise UserError(f"no {split} tiles in the tile table: there is nothing to hand in; set data.{split}_images")
        root = Path(experiment.data.root)
        found = [Tile(row.name, int(row.height), int(row.width), root / row.image)
                 for row in rows.sort_values("name").itertuples(index=False)]  # fmt: skip
        submission = experiment.submission
        classes = ClassTable.of(experiment.data).of_submission(submission.labels)
        return cls({t.name: t for t in found}, classes, submission.format, submission.folder, submission.file)

    def entry(self, tile: Tile) -> str:
        """The name of a tile's file inside the zip; not for the csv, which holds all tiles."""
        name = self.file.replace(NAME, tile.name) + EXTENSIONS[self.format]
        return f"{self.folder}/{name}" if self.folder else name
