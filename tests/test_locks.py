"""Locks that are waited for: one after another, refused in one line where the file system has none."""

import errno
import threading

import pytest

from base.errors import UserError
from base.locks import is_free, waited
from config import load_experiment, open_run
from folds.tiles import make_tiles
from pipeline.pack import open_pack
from submissions.ledger import add_score, read_ledger
from tests.test_ledger import enter
from tests.tiny import tiny_values, write_config, write_tiny


def no_locks(*args):
    raise OSError(errno.ENOLCK, "No locks available")


def test_who_waits_comes_after_whoever_holds_it(tmp_path):
    done = []

    def second() -> None:
        with waited(tmp_path / "deep" / "x.lock"):
            done.append("second")

    thread = threading.Thread(target=second)
    with waited(tmp_path / "deep" / "x.lock"):
        assert not is_free(tmp_path / "deep" / "x.lock")
        thread.start()
        thread.join(0.2)
        done.append("first")
    thread.join()
    assert done == ["first", "second"]
    assert is_free(tmp_path / "deep" / "x.lock")


def test_a_ledger_needs_a_file_system_with_locks(tmp_path, monkeypatch):
    path = enter(tmp_path)
    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(UserError, match=r"ledger\.csv\.lock: the file system there has no file locks"):
        add_score(path, "a.zip", 0.4, "A", "2021-01-02")
    with pytest.raises(UserError, match=r"ledger\.csv\.lock: the file system there has no file locks"):
        enter(tmp_path, "b.zip", "ff" * 32)


def test_a_ledger_linked_into_two_projects_has_one_lock(tmp_path):
    path = enter(tmp_path / "one")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "ledger.csv").symlink_to(path)
    waiting = threading.Thread(target=enter, args=(tmp_path / "two", "b.zip", "ff" * 32))
    with waited(f"{path}.lock"):
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
    waiting.join()
    assert read_ledger(path)["zip"].tolist() == ["a.zip", "b.zip"]


def test_a_pack_needs_a_file_system_with_locks(tmp_path, monkeypatch):
    write_tiny(tmp_path / "data")
    run = open_run(load_experiment(write_config(tmp_path / "t.yaml", tiny_values(tmp_path / "data", tmp_path))))
    tiles = make_tiles(run)
    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(UserError, match="has no file locks"):
        open_pack(run, tiles)
