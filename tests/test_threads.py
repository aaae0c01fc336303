import threading

import pytest

from base.threads import AHEAD, in_threads, track_in_threads


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(threads):
    items = list(range(37))
    release = [threading.Event() for _ in items]

    def work(item: int) -> int:
        # An even item waits for the next one where another thread can take it.
        if item % 2 or threads == 1 or item == 36:
            release[item].set()
        else:
            assert release[item + 1].wait(60)
        return item * item

    assert list(in_threads(work, items, threads)) == [item * item for item in items]


@pytest.mark.parametrize("threads", [1, 3])
def test_no_more_items_are_taken_than_are_in_flight(threads):
    """Whoever is slow to take results is not handed all of them at once."""
    taken = []
    results = in_threads(lambda item: item, (taken.append(n) or n for n in range(200)), threads)
    for n in range(50):
        assert next(results) == n
        assert len(taken) <= n + AHEAD * threads


def test_an_error_is_raised_where_its_result_is_due_and_ends_the_threads():
    def work(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    before = threading.active_count()
    results = in_threads(work, range(100), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert threading.active_count() == before


@pytest.mark.parametrize(("items", "total"), [(range(3, 40, 3), None), (iter(range(3, 40, 3)), 13)])
def test_a_bar_knows_how_many_items_there_are_and_changes_no_result(items, total, monkeypatch):
    bars = []

    def bar(results, what, total):
        bars.append((what, total))
        return results

    monkeypatch.setattr("base.threads.track", bar)
    assert list(track_in_threads(lambda item: item * item, items, "square", total)) == [n * n for n in range(3, 40, 3)]
    assert bars == [("square", 13)]
