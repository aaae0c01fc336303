import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from base.command import run, stage_parser
from base.errors import UserError, listed, refuse_all
from base.files import clear_aside, hash_file, hash_value, read_json, whole_file, whole_folder, write_json, write_text
from base.stamps import FileResult, FolderResult, Stamp, read_stamp
from base.tables import read_csv, write_csv


def test_listed_counts_what_it_leaves_out():
    assert listed(["a", "b"]) == "a, b"
    assert listed(range(12)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"


def test_refuse_all_names_every_problem_and_only_problems():
    refuse_all("fine", [])
    with pytest.raises(UserError, match="tiles: first; second"):
        refuse_all("tiles", ["first", "second"])


def test_a_file_is_whole_or_absent(tmp_path):
    path = tmp_path / "deep" / "table.csv"
    with pytest.raises(RuntimeError), whole_file(path) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert not path.exists()
    with whole_file(path) as aside:
        aside.write_text("whole")
    with pytest.raises(RuntimeError), whole_file(path) as aside:
        aside.write_text("half of the next")
        raise RuntimeError
    assert path.read_text() == "whole"
    assert os.listdir(path.parent) == ["table.csv"]


def test_a_file_that_comes_out_as_it_was_is_left_alone(tmp_path):
    path = tmp_path / "table.csv"
    write_text(path, "same")
    os.utime(path, ns=(1, 1))
    write_text(path, "same")
    assert path.stat().st_mtime_ns == 1
    write_text(path, "SAME")
    assert path.stat().st_mtime_ns > 1
    assert path.read_text() == "SAME"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_a_folder_is_whole_or_absent_and_replaces_the_older_one(tmp_path):
    path = tmp_path / "store"
    for content in ("first", "second"):
        with whole_folder(path) as aside:
            (aside / content).write_text(content)
    with pytest.raises(RuntimeError), whole_folder(path) as aside:
        (aside / "third").write_text("half")
        raise RuntimeError
    assert os.listdir(path) == ["second"]
    assert os.listdir(tmp_path) == ["store"]


@pytest.mark.parametrize("there", [True, False], ids=["over an older one", "to nothing yet"])
@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_a_link_stays_a_link_and_what_it_leads_to_is_written(tmp_path, whole, there):
    """A ledger that several projects share, a store that lies on another disk; a link to a link, too."""
    path, between, target = tmp_path / "runs" / "linked", tmp_path / "between", tmp_path / "disk" / "real"
    path.parent.mkdir()
    path.symlink_to("../between")
    between.symlink_to("disk/real")
    with pytest.raises(UserError, match=r"linked is a link to .*real, and there is no folder .*mounted"), whole(path):
        pass
    target.parent.mkdir()
    for number in range(1 + there):
        with whole(path) as aside:
            assert aside.parent == target.parent
            into = aside / "part" if aside.is_dir() else aside
            into.write_text(f"time {number}")
        with pytest.raises(RuntimeError), whole(path):
            raise RuntimeError
    assert path.is_symlink()
    assert between.is_symlink()
    assert (target / "part" if whole is whole_folder else target).read_text() == f"time {there:d}"
    assert os.listdir(path.parent) == ["linked"]
    assert os.listdir(target.parent) == ["real"]


def test_what_a_killed_writer_left_is_cleared_where_the_link_leads(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "linked").symlink_to("disk/real")
    (tmp_path / "disk" / ".real.123-abcd.part").mkdir()
    (tmp_path / "disk" / ".other.123-abcd.part").mkdir()
    clear_aside(tmp_path / "linked")
    assert os.listdir(tmp_path / "disk") == [".other.123-abcd.part"]


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
@pytest.mark.parametrize(
    "error", [RuntimeError("PytorchStreamWriter failed"), OSError("53248 requested and 992 written")]
)
def test_a_full_disk_is_named_whoever_was_writing(tmp_path, monkeypatch, whole, error):
    """numpy, torch and safetensors do not say it themselves; on a disk with room, their errors are bugs."""
    monkeypatch.setattr("base.files.FULL_BYTES", 2**80)
    with pytest.raises(OSError, match="No space left") as full, whole(tmp_path / "weights"):
        raise error
    assert (full.value.errno, full.value.filename) == (errno.ENOSPC, str(tmp_path / "weights"))
    with pytest.raises(UserError), whole(tmp_path / "weights"):
        raise UserError("a mistake stays what it is")
    monkeypatch.setattr("base.files.FULL_BYTES", 0)
    with pytest.raises(type(error), match=str(error)), whole(tmp_path / "weights"):
        raise error
    assert os.listdir(tmp_path) == []


def test_a_quota_and_a_limit_of_files_are_named_whoever_was_writing(tmp_path, monkeypatch, capsys):
    """Neither shows in what the disk has free."""

    def main() -> None:
        with whole_file(tmp_path / "last.pt") as aside:
            aside.write_bytes(b"half")
            raise RuntimeError("unexpected pos 2761664 vs 2761560")  # torch's, of a write that was cut short

    def said() -> str:
        with pytest.raises(SystemExit) as left:
            run(main)
        assert left.value.code == 2
        assert os.listdir(tmp_path) == []
        return capsys.readouterr().err

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        assert f"error: {tmp_path / 'last.pt'}: no file may be that large here (ulimit -f" in said()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def used_up(number: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr("base.files.os.fsync", used_up)
    assert f"error: {tmp_path / 'last.pt'}: the disk quota is used up" in said()


def test_whose_folder_relative_paths_are_of_is_said_where_an_error_names_one(tmp_path, monkeypatch, capsys):
    def told(message: str) -> int:
        def main() -> None:
            raise UserError(message)

        with pytest.raises(SystemExit):
            run(main)
        return len(capsys.readouterr().err.splitlines())

    assert told(f"{Path.cwd()}/data: nothing there") == 1
    monkeypatch.setenv("FOLDSCAPE_CALLED_IN", str(tmp_path))
    assert told(f"{Path.cwd()}/data: nothing there") == 2
    assert told(f"{tmp_path}/data: nothing there") == 1


def test_an_error_of_the_system_has_the_name_of_the_file(tmp_path):
    with pytest.raises(OSError, match="table") as full, whole_file(tmp_path / "table.csv"):
        raise OSError(errno.ENOSPC, "No space left on device")  # what a write to an open file raises
    assert full.value.filename == str(tmp_path / "table.csv")


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 64 KiB; only root may make one."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", path], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a small file system")
    yield path
    subprocess.run(["umount", path], check=True)


def test_a_disk_that_is_really_full(tiny_disk, capsys):
    def main() -> None:
        with whole_folder(tiny_disk / "scan") as aside:
            np.save(aside / "thumbs.npy", np.ones(50_000))

    write_text(tiny_disk / "kept.txt", "kept")
    with pytest.raises(SystemExit) as left:
        run(main)
    assert left.value.code == 2
    assert f"error: {tiny_disk / 'scan'}: the disk is full" in capsys.readouterr().err
    assert os.listdir(tiny_disk) == ["kept.txt"]


def test_a_table_is_written_whole_or_not_at_all_and_without_its_index(tmp_path):
    path = tmp_path / "deep" / "table.csv"
    table = pd.DataFrame({"name": ["NA", "b"], "iou": [0.123456, np.nan]}, index=[7, 9])
    write_csv(path, table, float_format="%.4f")
    assert path.read_text() == "name,iou\nNA,0.1235\nb,\n"
    with pytest.raises(ValueError, match="float_format"):
        write_csv(path, table.iloc[:1], float_format=3)
    assert read_csv(path).name.tolist() == ["NA", "b"]
    assert os.listdir(path.parent) == ["table.csv"]


def test_hashes_know_content_and_not_the_order_of_keys(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1, "y": [2, 3]})
    write_json(tmp_path / "b.json", {"x": 1, "y": [3, 2]})
    assert hash_file(tmp_path / "a.json") != hash_file(tmp_path / "b.json")
    assert hash_value({"x": 1, "y": 2}) == hash_value({"y": 2, "x": 1}) != hash_value({"x": 2, "y": 1})
    assert read_json(tmp_path / "a.json") == {"x": 1, "y": [2, 3]}


def test_stamp_round_trip_and_differences(tmp_path):
    (tmp_path / "last.safetensors").write_text("weights")
    result = FolderResult(tmp_path, {"train.lr": 0.1, "train.old": 1}, {"folds.csv": "aa"})
    result.finish([tmp_path / "last.safetensors"])
    stamp = read_stamp(result.stamp_path)
    assert stamp == Stamp(result.keys, result.inputs, {"last.safetensors": hash_file(tmp_path / "last.safetensors")})
    assert stamp.finished
    assert not Stamp({}, {}).finished
    assert stamp.differences({"train.lr": 0.1, "train.old": 1}, {"folds.csv": "aa"}) == []
    assert stamp.differences({"train.lr": 0.2, "train.new": 3}, {"folds.csv": "ab"}) == [
        "train.lr 0.1 -> 0.2",
        "train.new (none) -> 3",
        "train.old 1 -> (none)",
        "folds.csv has other content",
    ]
    assert stamp.differences({"train.lr": 0.1, "train.old": 1}, {}) == ["folds.csv is no part of it any more"]
    assert read_stamp(tmp_path / "nothing.json") is None


@pytest.mark.parametrize("kind", [FileResult, FolderResult])
def test_a_result_is_fresh_from_its_end_on_and_while_nothing_differs(tmp_path, kind):
    path = tmp_path / "made"
    path.mkdir() if kind is FolderResult else None
    file = path / "a.csv" if kind is FolderResult else path
    result = kind(path, {"k": 3}, {"tiles.csv": "aa"})
    assert not result.is_fresh()
    result.begin()
    file.write_text("1,2")
    assert not result.is_fresh()
    result.finish(*([[file]] if kind is FolderResult else []))
    assert result.is_fresh()
    assert not kind(path, {"k": 5}, result.inputs).is_fresh()
    assert not kind(path, result.keys, {"tiles.csv": "ab"}).is_fresh()
    file.write_text("1,3")
    # A folder's files are large, and who reads them compares them; a file is compared here.
    assert result.is_fresh() is (kind is FolderResult)
    result.begin()
    assert not result.is_fresh()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("two\n lines"), 2, "error: two lines\n"),
        (OSError(errno.ENOSPC, "no space", "weights.pt"), 2, "error: weights.pt: the disk is full"),
        (PermissionError(errno.EACCES, "denied", "runs"), 2, "error: runs: no permission"),
        (KeyboardInterrupt(), 130, "error: stopped"),
    ],
)
def test_what_a_person_can_mend_is_one_line(error, code, message, capsys):
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as left:
        run(main)
    assert left.value.code == code
    out = capsys.readouterr()
    assert out.err.startswith(message)
    assert out.err.count("\n") == 1
    assert out.out == ""


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 // 0)
    with pytest.raises(OSError, match="odd"):
        run(lambda: (_ for _ in ()).throw(OSError(errno.EPIPE + 1000, "odd")))


def test_exit_code_of_main():
    for code in (None, 0, 3):
        with pytest.raises(SystemExit) as left:
            run(lambda code=code: code)
        assert left.value.code == (code or 0)


def test_help_shows_an_example():
    text = stage_parser("folds.assign", "Assign.", "folds.k=3").format_help()
    assert "python -m folds.assign --config configs/demo.yaml folds.k=3" in text


def test_help_fits_the_screen_and_keeps_what_was_laid_out(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    what = f"{'word ' * 40}\n{'more ' * 40}\n\nshow       a table\nadd ZIP    of two columns\n\n{'last ' * 30}"
    lines = stage_parser("folds.assign", what, "x " * 20, operands="ZIP").format_help().splitlines()
    prose = [line for line in lines if line.startswith(("word", "more", "last"))]
    assert max(map(len, prose)) <= 100
    assert " ".join(prose).split() == ["word"] * 40 + ["more"] * 40 + ["last"] * 30
    assert "show       a table" in lines
    assert any("ZIP, and changes of any key" in line for line in lines)


def stage_of(tmp_path, code: str) -> subprocess.Popen:
    """The module `slow` of this code, run as run_cv.sh runs a stage."""
    (tmp_path / "slow.py").write_text(code)
    return subprocess.Popen(
        [sys.executable, "-m", "base.stage", "slow", "--config", "x"],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.usefixtures("heeded_interrupt")
def test_a_stage_that_is_stopped_while_it_imports_says_so_in_one_line(tmp_path):
    process = stage_of(tmp_path, "import time\nprint('importing', flush=True)\ntime.sleep(600)\n")
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert (process.returncode, said.count("\n")) == (130, 1)
    assert said.startswith("error: stopped by the keyboard")


def test_a_package_that_is_not_installed_is_named_and_a_module_of_ours_is_a_bug(tmp_path):
    process = stage_of(tmp_path, "import no_such_package.part\n")
    _, said = process.communicate()
    assert (process.returncode, said.count("\n")) == (2, 1)
    assert "has no package no_such_package" in said
    process = stage_of(tmp_path, "import folds.no_such_module\n")
    _, said = process.communicate()
    assert process.returncode == 1
    assert "Traceback" in said


def test_a_stage_gets_its_arguments_and_its_exit_code_is_kept(tmp_path):
    process = stage_of(tmp_path, "import sys\nprint(__name__, sys.argv[1:])\nsys.exit(3)\n")
    assert process.communicate() == ("__main__ ['--config', 'x']\n", "")
    assert process.returncode == 3


@pytest.mark.parametrize(
    ("locale", "shown"),
    [
        ({"PYTHONIOENCODING": "latin-1"}, "forêt ? ?"),
        ({"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "for?t ? ?"),
        ({"PYTHONIOENCODING": "utf-8"}, "forêt 林 ◂"),
    ],
    ids=["latin-1", "ascii", "utf-8"],
)
def test_letters_that_stdout_lacks_end_no_command(locale, shown, tmp_path):
    code = (
        "from pathlib import Path; from base.command import run; from base.screen import screen, text_table\n"
        "def main():\n"
        "    screen().print(text_table('', ['class'], [['for\\xeat \\u6797 \\u25c2']]))\n"
        "    print('\\u6797')\n"
        f"    Path({str(tmp_path / 'zip')!r}).write_text('written')\n"
        "run(main)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, **locale},
        capture_output=True,
    )
    assert (process.returncode, process.stderr) == (0, b"")
    assert shown in process.stdout.decode("latin-1" if "latin" in str(locale) else "utf-8")
    assert (tmp_path / "zip").read_text() == "written"


def test_a_closed_pipe_is_no_error():
    code = "from base.command import run\nrun(lambda: [print('x' * 1000) for _ in range(10000)] and None)"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait()
