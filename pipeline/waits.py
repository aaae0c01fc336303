"""What a prediction waits for: the next GPU that is lent shall answer where the time goes."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


class Waits:
    """Seconds that the main thread has spent on things that others should have ready for it."""

    def __init__(self) -> None:
        self.seconds = {"reading": 0.0, "device": 0.0, "store": 0.0}
        """For tiles, for the device's results, for room in the store's queue."""

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] += time.perf_counter() - begin

    def for_each(self, what: str, items: Iterable[Item]) -> Iterator[Item]:
        """The items; the time that each is waited for is counted, and not what is done with it."""
        iterator, none = iter(items), object()
        while True:
            with self.on(what):
                item = next(iterator, none)
            if item is none:
                return
            yield item
