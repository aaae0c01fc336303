"""Work on tiles in threads: decoding, deflating and numpy run outside the interpreter's lock."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from joblib import cpu_count

from base.progress import track

Item = TypeVar("Item")
Result = TypeVar("Result")
AHEAD = 4  # items in flight per thread: enough to keep all busy, few enough to hold in memory


def in_threads(work: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None) -> Iterator[Result]:
    """`work(item)` of each item, in the order of the items.

    Not joblib: its generator takes items as fast as they come, and a data set must not stand in memory whole.
    """
    threads = threads or cpu_count()  # joblib's: knows of containers and of cores taken from this process
    flying: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            flying.append(pool.submit(work, item))
            if len(flying) >= AHEAD * threads:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()


def track_in_threads(
    work: Callable[[Item], Result], items: Iterable[Item], what: str, total: int | None = None
) -> Iterator[Result]:
    """`in_threads` with a progress bar.

    Args:
        what: for the bar.
        total: the number of items, where `len(items)` does not tell.
    """
    return track(in_threads(work, items), what, total if total is not None else len(items))
