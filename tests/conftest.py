"""For all tests: a law is tried on all its examples, however slow the machine is, and long files begin first."""

import signal
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("foldscape", deadline=None)
settings.load_profile("foldscape")

LONGEST = ("test_main_job", "test_train", "test_reports", "test_setup", "test_jobs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of two processes none is to wait at the end while the other goes through a file of minutes."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(Path(item.path).stem, len(LONGEST)))


@pytest.fixture
def heeded_interrupt():
    """Ctrl-C reaches the processes that a test starts: a shell's `command &` ignores it, and so do all that descend."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
