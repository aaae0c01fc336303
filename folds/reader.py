"""The one way from the files of a data set to pixels and truth: what has no data and what is ignored are told here."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from base.files import hash_value
from config.data import IGNORE_INDEX, Data, Nodata
from folds.classes import ClassTable
from folds.images import read_pixels


@dataclass(frozen=True)
class TileReader:
    """Reads the tiles under a folder. Paths are relative to it, as in the tile table."""

    root: Path
    classes: ClassTable
    nodata: Nodata = None

    @classmethod
    def of(cls, data: Data) -> "TileReader":
        return cls(Path(data.root), ClassTable.of(data), data.nodata)

    @property
    def coding(self) -> list[object]:
        """All that the pixels and the truth depend on, beside the files' bytes."""
        return [*self.classes.coding, *([] if self.nodata is None else [self.nodata])]

    @property
    def folder(self) -> str:
        """Where the tiles lie. Two data sets may have files of the same names, sizes and times: archives keep times."""
        return str(self.root.resolve())

    @property
    def folder_input(self) -> dict[str, str]:
        """The same among the inputs of a stamp: of what is made from the files as they are, not of what is trained."""
        return {"folder of the data": hash_value(self.folder)}

    def image(self, image: str) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, B) pixels in the file's own dtype, and (H, W) bool: those without data, which are 0 there."""
        return read_pixels(self.root / image, self.nodata)

    def truth(self, image: str, mask: str) -> np.ndarray:
        """(H, W) uint8 indices of a mask; what is ignored, and where its image has no data, is IGNORE_INDEX."""
        index_HW = self.classes.read_index(self.root / mask)
        if self.nodata is not None:
            ignore_empty(index_HW, self.image(image)[1])
        return index_HW


def ignore_empty(index_HW: np.ndarray, empty_HW: np.ndarray) -> None:
    """Ignore the pixels without data, in place; of a mask of another size than its image, nothing."""
    if index_HW.shape == empty_HW.shape:
        index_HW[empty_HW] = IGNORE_INDEX
