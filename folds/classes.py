"""The one door between labels (values in a mask PNG) and indices (0..C-1 inside the program)."""

from dataclasses import dataclass

import numpy as np

from base.errors import UserError, listed
from config.data import IGNORE_INDEX, Data


@dataclass(frozen=True)
class ClassTable:
    """Class c has the label `labels[c]`, the name `names[c]` and the colour `colors[c]`."""

    labels: tuple[int, ...]
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    ignore_label: int | None = None

    @classmethod
    def of(cls, data: Data) -> "ClassTable":
        return cls(
            labels=tuple(c.label for c in data.classes),
            names=tuple(c.name for c in data.classes),
            colors=tuple(tuple(c.color) for c in data.classes),
            ignore_label=data.ignore_label,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def to_index(self, label_HW: np.ndarray, where: str = "mask") -> np.ndarray:
        """Labels -> indices, uint8; `ignore_label` becomes IGNORE_INDEX. Any shape.

        Raises:
            UserError: a value is no label of the table. It names the values and `where`.
        """
        lut = np.full(256, IGNORE_INDEX, np.uint8)
        lut[list(self.labels)] = np.arange(len(self), dtype=np.uint8)
        known = set(self.labels) if self.ignore_label is None else {*self.labels, self.ignore_label}
        unknown = sorted(set(np.unique(label_HW).tolist()) - known)
        if unknown:
            ignored = "" if self.ignore_label is None else f" and ignore_label {self.ignore_label}"
            raise UserError(
                f"{where}: holds labels {listed(unknown)}; known are {', '.join(map(str, self.labels))}{ignored}"
            )
        return lut[label_HW]

    def to_label(self, index_HW: np.ndarray) -> np.ndarray:
        """Indices 0..C-1 -> labels, uint8. Any shape. An index outside, IGNORE_INDEX too, is a bug: IndexError."""
        return np.array(self.labels, np.uint8)[index_HW]

    def to_rgb(self, index_HW: np.ndarray) -> np.ndarray:
        """Indices -> (H, W, 3) uint8 picture; ignored pixels are black."""
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(self)] = self.colors
        return palette[index_HW]
