"""Locks that are waited for: one after another, refused in one line where the file system has none."""

import errno
import threading
from pathlib import Path

import pytest

from base.errors import UserError
from base.locks import is_free, make_once, waited
from config import load_experiment, open_run
from folds import scan
from folds.files import find_tiles
from folds.tiles import make_tiles, sources_hash
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


def at_once(work, count: int = 3) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_shared_folder_is_made_by_one_of_those_who_want_it_at_once(tmp_path):
    made, had = [], []

    def make(aside: Path) -> None:
        made.append(aside)
        (aside / "array").write_text("whole")

    def have() -> None:
        make_once(tmp_path / "packs" / "ab12", make)
        had.append((tmp_path / "packs" / "ab12" / "array").read_text())

    at_once(have)
    assert len(made) == 1
    assert had == ["whole"] * 3


def test_what_was_left_half_made_is_cleared_and_made_anew(tmp_path):
    left, others = tmp_path / ".ab12.77-0123abcd.part", tmp_path / ".ffff.77-0123abcd.part"
    for folder in (left, others):
        folder.mkdir()

    def fail(aside: Path) -> None:
        raise UserError("a tile that cannot be read")

    with pytest.raises(UserError):
        make_once(tmp_path / "ab12", fail)
    assert not left.exists()
    make_once(tmp_path / "ab12", lambda aside: (aside / "array").write_text("whole"))
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [others.name, "ab12"]


def test_two_runs_on_the_same_new_tiles_read_them_once(tmp_path, monkeypatch):
    root = write_tiny(tmp_path / "data")
    run = open_run(load_experiment(write_config(tmp_path / "t.yaml", tiny_values(root, tmp_path))))
    found = find_tiles(run.experiment.data)
    sources, read, scanned = sources_hash(found, root), scan.scan_tiles, []

    def counted(*args) -> None:
        scanned.append(args[-1])
        read(*args)

    monkeypatch.setattr(scan, "scan_tiles", counted)
    scans = []
    at_once(lambda: scans.append(scan.open_scan(run, found, sources)))
    assert len(scanned) == 1
    assert len(scans) == 3
    assert all((each.hist_NC == scans[0].hist_NC).all() for each in scans)
