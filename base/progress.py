"""Progress bars for a person at a terminal; nothing in a log file or a pipe."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

Item = TypeVar("Item")


def bar(what: str, total: float | None) -> tuple[Progress, int]:
    """A rich progress, to be used as a context manager, and its one task."""
    progress = Progress(console=Console(file=sys.stderr), transient=True, disable=not sys.stderr.isatty())
    return progress, progress.add_task(what, total=total)


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """The items, with a bar that moves as they go by.

    Args:
        total: their number, where `len(items)` does not tell.
    """
    progress, task = bar(what, total if total is not None else len(items))
    with progress:
        for item in items:
            yield item
            progress.advance(task)
