"""What a report is made of: sections of notes, facts, figures, galleries and tables. Plain values, no HTML."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd


@dataclass(frozen=True)
class Note:
    """A sentence or two. `missing`: why something is not shown; `warning`: what deserves a look."""

    text: str
    kind: Literal["plain", "missing", "warning"] = "plain"


@dataclass(frozen=True)
class Facts:
    """Figures that stand by themselves, in large type."""

    items: list[tuple[str, str, str]]
    """(value, what it is, a remark or nothing)."""


@dataclass(frozen=True)
class Figure:
    """A drawing: SVG for the page, whose colours follow light and dark, and PNG for everything else."""

    name: str
    """File name without extension."""
    title: str
    alt: str
    """What the drawing says, for those who do not see it."""
    caption: str
    svg: str
    png: bytes
    size_px: tuple[int, int]
    """Width and height on the page."""


@dataclass(frozen=True)
class Thumb:
    """One small picture of a gallery: encoded bytes and what it shows."""

    data: bytes
    mime: str
    alt: str
    label: str


@dataclass(frozen=True)
class Strip:
    """Pictures of one tile side by side, with a line of text under them."""

    thumbs: list[Thumb]
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Strips under a title; folded away until asked for where `folded`."""

    name: str
    title: str
    strips: list[Strip]
    caption: str = ""
    folded: bool = False
    legend: list[tuple[str, str]] = field(default_factory=list)
    """(class name, CSS colour)."""

    @property
    def deep(self) -> bool:
        """Whether strips need more width than most."""
        return max(len(strip.thumbs) for strip in self.strips) > 3


@dataclass(frozen=True)
class TableView:
    """A table that a reader can sort. `formats` gives column -> format string; other columns are shown as they are."""

    name: str
    title: str
    frame: pd.DataFrame
    formats: dict[str, str] = field(default_factory=dict)
    caption: str = ""
    swatches: dict[str, str] = field(default_factory=dict)
    """Value of the first column -> CSS colour shown before it."""
    folded: bool = False
    strong: str | None = None
    """Rows whose first cell holds this stand out."""

    def rows(self) -> list[list[dict[str, Any]]]:
        """Cells with the text that is shown and the value that is sorted by."""
        return [
            [self._cell(column, value) for column, value in zip(self.frame.columns, row, strict=True)]
            for row in self.frame.itertuples(index=False, name=None)
        ]

    @property
    def numeric(self) -> list[bool]:
        """Which columns are numbers."""
        return [pd.api.types.is_numeric_dtype(self.frame[column]) for column in self.frame]

    def _cell(self, column: str, value: Any) -> dict[str, Any]:
        if value is None or value is pd.NA or (isinstance(value, float) and value != value):
            return {"text": "–", "sort": ""}
        return {"text": self.formats.get(column, "{}").format(value), "sort": value}


Part = Note | Facts | Figure | Gallery | TableView


@dataclass(frozen=True)
class Section:
    """A chapter of the report."""

    name: str
    title: str
    lead: str
    """One or two sentences on what is seen here."""
    parts: list[Part]
