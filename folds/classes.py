"""The one door between what masks hold, labels or colours, and indices (0..C-1 inside the program)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from base.errors import UserError, listed
from config.data import IGNORE_INDEX, Data
from folds.images import colors_in, labels_in, read_values

Color = tuple[int, int, int]


@dataclass(frozen=True)
class ClassTable:
    """Class c has the label `labels[c]`, the name `names[c]` and the colour `colors[c]`."""

    labels: tuple[int, ...]
    names: tuple[str, ...]
    colors: tuple[Color, ...]
    ignore_label: int | None = None
    in_colors: bool = False
    """Whether mask files hold the colours."""
    ignore_color: Color | None = None
    every_pixel: bool = False
    """Whether no pixel may be without a class, as in a submission."""

    @classmethod
    def of(cls, data: Data) -> "ClassTable":
        return cls(
            labels=tuple(c.label for c in data.classes),
            names=tuple(c.name for c in data.classes),
            colors=tuple(tuple(c.color) for c in data.classes),
            ignore_label=data.ignore_label,
            in_colors=data.mask_values == "colors",
            ignore_color=tuple(data.ignore_color) if data.ignore_color else None,
        )

    @property
    def coding(self) -> list[object]:
        """All that the indices of a mask file depend on, beside its bytes."""
        return [self.colors, self.ignore_color] if self.in_colors else [self.labels, self.ignore_label]

    @property
    def blank_label(self) -> int:
        """What stands in a label image where nothing is predicted: `ignore_label`, else the least that is no label."""
        return min(set(range(256)) - set(self.labels)) if self.ignore_label is None else self.ignore_label

    def of_submission(self, labels: Sequence[int] | None) -> "ClassTable":
        """The table of a zip, which has a class everywhere.

        Args:
            labels: what stands in it for each class; None: what stands in the masks.
        """
        return replace(
            self, labels=tuple(labels or self.labels), ignore_label=None, ignore_color=None, every_pixel=True
        )

    def __len__(self) -> int:
        return len(self.labels)

    def read_index(self, path: Path) -> np.ndarray:
        """(H, W) uint8 indices of a mask file; what is ignored is IGNORE_INDEX.

        Raises:
            UserError: unreadable, not of the bands or dtype that masks have, or a value of no class; the file's path
                comes first.
        """
        return self.index_in(read_values(path), path)

    def index_in(self, mask_BHW: np.ndarray, path: Path) -> np.ndarray:
        """The same of (B, H, W) values from that file."""
        if self.in_colors:
            return self.of_colors(colors_in(mask_BHW, path), str(path))
        return self.to_index(labels_in(mask_BHW, path), str(path))

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
            expected = f"known are {', '.join(map(str, self.labels))}{ignored}"
            if self.every_pixel:
                expected += ", and a submission has one of them everywhere"
            elif len(unknown) == 1 and self.ignore_label is None:
                expected += f"; if it stands for pixels without a class, set data.ignore_label={unknown[0]}"
            raise UserError(f"{where}: holds labels {listed(unknown)}; {expected}")
        return lut[label_HW]

    def of_colors(self, color_HW3: np.ndarray, where: str = "") -> np.ndarray:
        """Colours -> (H, W) uint8 indices; `ignore_color` becomes IGNORE_INDEX.

        Raises:
            UserError: a colour is that of no class. It names the colours and `where`.
        """
        number_HW = _number(color_HW3)
        known = {_number(np.array(color, np.uint8)): c for c, color in enumerate(self.colors)}
        if self.ignore_color:
            known[_number(np.array(self.ignore_color, np.uint8))] = IGNORE_INDEX
        index_HW, is_known_HW = np.full(number_HW.shape, IGNORE_INDEX, np.uint8), np.zeros(number_HW.shape, bool)
        for number, index in known.items():
            here_HW = number_HW == number
            index_HW[here_HW] = index
            is_known_HW |= here_HW
        unknown = np.unique(color_HW3[~is_known_HW], axis=0).tolist()
        if unknown:
            ignored = f" and ignore_color {list(self.ignore_color)}" if self.ignore_color else ""
            expected = f"known are {', '.join(str(list(color)) for color in self.colors)}{ignored}"
            if self.every_pixel:
                expected += ", and a submission has one of them everywhere"
            elif len(unknown) == 1 and not self.ignore_color:
                expected += f"; if it stands for pixels without a class, set data.ignore_color={unknown[0]}"
            raise UserError(f"{f'{where}: ' if where else ''}holds colours {listed(unknown)}; {expected}")
        return index_HW

    def to_label(self, index_HW: np.ndarray) -> np.ndarray:
        """Indices 0..C-1 -> labels, uint8. Any shape. An index outside, IGNORE_INDEX too, is a bug: IndexError."""
        return np.array(self.labels, np.uint8)[index_HW]

    def to_rgb(self, index_HW: np.ndarray) -> np.ndarray:
        """Indices -> (H, W, 3) uint8 picture; ignored pixels are black."""
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(self)] = self.colors
        return palette[index_HW]


def _number(color_3: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 -> (...) one number per colour."""
    return color_3.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
