"""Tables and lines on a screen of 100 columns. Names are shown as they are: rich would take [brackets] for markup, and
:colons: for pictures.
"""

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

COLUMNS = 100


def screen(width: int | None = COLUMNS) -> Console:
    """Where tables are printed to: stdout, in colour on a terminal.

    Args:
        width: None: as wide as the terminal.
    """
    return Console(width=width, markup=False, emoji=False, highlight=False)


def text_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    left: Sequence[str] | None = None,
    styles: Sequence[str | None] = (),
    foot: Sequence[str] = (),
    caption: str = "",
    no_wrap: bool = False,
    overflow: str = "ellipsis",
    **look: Any,
) -> Table:
    """A table in which no cell, name of a column, title or caption is taken for markup.

    Args:
        columns: their names; figures stand to the right.
        left: names of the columns whose cells stand to the left; None: the first.
        styles: of the first rows, as rich has them: "bold green".
        foot: a last row, under a line.
        overflow: what becomes of a word that is wider than its column, as rich has it.
        look: what else rich's Table takes: box, title_justify, ...
    """
    # Texts, not rich.markup.escape, which lets :colons: through.
    shown = Table(
        title=Text(title, "table.title"), caption=Text(caption, "table.caption"), caption_justify="left", **look
    )
    left = columns[:1] if left is None else left
    for name in columns:
        justify = "left" if name in left else "right"
        shown.add_column(Text(name), justify=justify, no_wrap=no_wrap, overflow=overflow)
    for row, style in zip_longest(rows, styles):
        shown.add_row(*map(Text, row), style=style)
    if foot:
        shown.add_section()
        shown.add_row(*map(Text, foot))
    return shown
