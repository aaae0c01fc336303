"""The main job as a person runs it: `bash run_cv.sh CONFIG` from tiles to the zip, again, and after a change."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ensemble.oof import oof_table
from folds.images import read_mask
from tests.fake_grid import wait_for
from tests.tiny import TINY_CLASSES, tiny_values, write_config, write_mask, write_tiny

ROOT = Path(__file__).parent.parent


def run_cv(config: Path, *overrides: str, check: bool = True) -> subprocess.CompletedProcess:
    done = subprocess.run(
        ["bash", "run_cv.sh", str(config), *overrides],
        cwd=ROOT,
        env={**os.environ, "FOLDSCAPE_PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, Path, str]:
    """(folder, config, what the first run printed) of a finished run of two models on three folds."""
    tmp_path = tmp_path_factory.mktemp("main")
    write_tiny(tmp_path / "data")
    values = tiny_values(tmp_path / "data", tmp_path)
    values["models"].append(
        {"name": "linknet", "arch": "Linknet", "encoder": "resnet18", "params": {"encoder_depth": 3}}
    )
    values["train"] |= {"epochs": 4, "lr": 0.005}
    config = write_config(tmp_path / "tiny.yaml", values)
    return tmp_path, config, run_cv(config).stdout


def files_of(folder: Path) -> dict[str, int]:
    """Every file that a stage made, with its time; not those that say who works or worked."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for part in ("runs", "zips")
        for path in sorted((folder / part).rglob("*"))
        if path.is_file() and "jobs" not in path.parts
    }


def test_the_run_leaves_what_others_rely_on(finished):
    folder, _, printed = finished
    run_dir = folder / "runs" / "tiny"
    tiles = pd.read_csv(run_dir / "tiles.csv", dtype={"name": str})
    names = [spec["name"] for spec in TINY_CLASSES]
    assert tiles.columns.tolist() == ["name", "split", "image", "mask", "height", "width", "group", "sha256", *names]
    assert tiles.split.value_counts().to_dict() == {"train": 9, "test": 4}
    folds = pd.read_csv(run_dir / "folds.csv", dtype={"name": str})
    assert folds.columns.tolist() == ["name", "group", "fold"]
    assert folds.groupby("group").fold.nunique().eq(1).all()
    assert (run_dir / "experiment.yaml").exists()
    table = oof_table(run_dir)
    assert table[table.kind == "member"].groupby("name").fold.apply(list).to_dict() == {
        "unet": [0, 1, 2],
        "linknet": [0, 1, 2],
    }
    assert table.set_index("kind").tiles.to_dict()["blend"] == 9
    assert table[["miou", *names]].notna().all(axis=None)
    for part in ("OOF", "linknet", "blend", str(folder / "zips" / "tiny.zip")):
        assert part in printed


def test_members_learned_something(finished):
    table = oof_table(finished[0] / "runs" / "tiny")
    assert table[table.kind == "blend"].miou.iloc[-1] > 0.4  # chance is about .2


def test_the_zip_holds_labels_of_every_test_tile_and_the_receipt_its_hash(finished):
    folder, config, _ = finished
    path = folder / "zips" / "tiny.zip"
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [f"results/{i:06d}.png" for i in range(4)]
        archive.extractall(folder / "unzipped")
    for png in (folder / "unzipped" / "results").iterdir():
        label_HW = read_mask(png)
        assert label_HW.shape == (32, 32)
        assert set(np.unique(label_HW)) <= {spec["label"] for spec in TINY_CLASSES}
    receipt = json.loads((folder / "zips" / "tiny.receipt.json").read_text())
    assert receipt["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    verify = [sys.executable, "-m", "submissions.verify", str(path), "--config", str(config)]
    assert subprocess.run(verify, cwd=ROOT).returncode == 0


def test_a_second_run_touches_nothing(finished):
    folder, config, _ = finished
    before = files_of(folder)
    run_cv(config)
    assert files_of(folder) == before


def test_a_blend_key_redoes_the_blend_alone(finished):
    folder, config, _ = finished
    before = files_of(folder)
    run_cv(config, "blend.models=[unet]", "blend.name=unet_only")
    after = files_of(folder)
    changed = {path for path in after if after[path] != before.get(path)}
    assert not [path for path in changed if "/members/" in path or "/test/" in path or "packs" in path]
    assert "zips/tiny.unet_only.zip" in changed
    assert before["zips/tiny.zip"] == after["zips/tiny.zip"]


def test_a_members_key_stops_the_run_until_told_otherwise(finished):
    folder, config, _ = finished
    before = files_of(folder)
    refused = run_cv(config, "train.lr=0.01", check=False)
    assert refused.returncode == 2
    (error,) = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    for part in ("train.lr 0.005 -> 0.01", "unet/fold0-seed0", "linknet/fold2-seed0", "redo=stale", "name="):
        assert part in error
    assert files_of(folder) == before


def test_a_config_is_of_the_folder_that_the_command_is_given_in(tmp_path):
    write_tiny(tmp_path / "data")
    write_config(tmp_path / "tiny.yaml", tiny_values(tmp_path / "data", tmp_path) | {"name": "a b"})
    done = subprocess.run(
        ["bash", str(ROOT / "run_cv.sh"), "tiny.yaml"],
        cwd=tmp_path, env={**os.environ, "FOLDSCAPE_PYTHON": sys.executable}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"error: {tmp_path}/tiny.yaml: name: 'a b'" in done.stderr


def test_other_relative_paths_are_of_the_repository_and_the_error_says_so(tmp_path):
    write_tiny(tmp_path / "data")
    write_config(tmp_path / "tiny.yaml", tiny_values(tmp_path / "data", tmp_path))
    done = subprocess.run(
        ["bash", str(ROOT / "run_cv.sh"), "--config", "tiny.yaml", "data.root=data/nowhere"],
        cwd=tmp_path, env={**os.environ, "FOLDSCAPE_PYTHON": sys.executable}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    error, note = done.stderr.splitlines()
    assert error.startswith("error: no train tiles")
    assert f"{ROOT}/data/nowhere" in error
    assert note == f"relative paths, in the config and in key=value, are of {ROOT}, not of {tmp_path}"


@pytest.fixture
def stages(tmp_path):
    """run_cv.sh with a Python that only writes down its arguments: what each stage was given, and what went wrong."""
    python = tmp_path / "python"
    python.write_text(f'#!/usr/bin/env bash\nprintf "%s|" "$@" >>"{tmp_path}/given"; echo >>"{tmp_path}/given"\n')
    python.chmod(0o755)
    (tmp_path / "here.yaml").touch()
    (tmp_path / "a=b.yaml").touch()

    def given(*words: str) -> tuple[list[str], str]:
        done = subprocess.run(
            ["bash", str(ROOT / "run_cv.sh"), *words],
            cwd=tmp_path, env={**os.environ, "FOLDSCAPE_PYTHON": str(python)}, capture_output=True, text=True,
        )  # fmt: skip
        lines = (tmp_path / "given").read_text().splitlines() if (tmp_path / "given").exists() else []
        calls = [line.split("|")[:-1] for line in lines]
        return [call[3:] for call in calls if call[:2] == ["-m", "base.stage"]], done.stderr

    return given


@pytest.mark.parametrize(
    ("words", "config", "rest"),
    [
        ((), "configs/demo.yaml", []),
        (("here.yaml", "a=1", "b=x y"), "HERE/here.yaml", ["a=1", "b=x y"]),
        (("--config", "here.yaml", "a=1"), "HERE/here.yaml", ["a=1"]),
        (("a=1", "--config", "here.yaml", "b=2"), "HERE/here.yaml", ["a=1", "b=2"]),
        (("a=1", "--config=a=b.yaml"), "HERE/a=b.yaml", ["a=1"]),
        (("--config", "configs/naip.yaml", "data.root=DIR"), "configs/naip.yaml", ["data.root=DIR"]),
    ],
)
def test_the_main_job_takes_its_config_as_the_stages_do(stages, tmp_path, words, config, rest):
    calls, _ = stages(*words)
    assert len(calls) == 8
    assert all(call == ["--config", config.replace("HERE", str(tmp_path)), *rest] for call in calls)


SLOW_STAGE = """#!{python}
import pathlib, signal, sys, time

given = pathlib.Path({given!r})
given.open("a").write(f"{{sys.argv[3]}} read {{sys.stdin.read()!r}}\\n")


def note(number, frame):
    given.open("a").write(f"{{signal.Signals(number).name}}\\n")
    time.sleep(0.5)  # as a job that comes to its next step, and writes its checkpoint
    given.open("a").write("saved\\n")
    sys.exit(128 + number)


signal.signal(signal.SIGTERM, note)
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # which is not there where Ctrl-C would be ignored
    signal.signal(signal.SIGINT, note)
given.open("a").write("listens\\n")
time.sleep(600)
"""


@pytest.mark.usefixtures("heeded_interrupt")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stage_hears_of_a_stop_and_saves_its_work_before_the_main_job_ends_and_none_follows(tmp_path, number):
    """`kill PID` tells bash alone; Ctrl-C tells every process of the terminal, which a group of its own stands for."""
    given, python = tmp_path / "given", tmp_path / "python"
    python.write_text(f'#!/usr/bin/env bash\n[[ $1 == -c ]] || exec "{tmp_path}/stage" "$@"\n')
    (tmp_path / "stage").write_text(SLOW_STAGE.format(python=sys.executable, given=str(given)))
    for script in (python, tmp_path / "stage"):
        script.chmod(0o755)
    job = subprocess.Popen(
        ["bash", "run_cv.sh"], cwd=ROOT, env={**os.environ, "FOLDSCAPE_PYTHON": str(python)},
        stdin=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        job.stdin.write(b"an answer")
        job.stdin.close()
        wait_for(lambda: given.exists() and "listens" in given.read_text())
        (os.kill if number == signal.SIGTERM else os.killpg)(job.pid, number)
        assert job.wait(60) == 128 + number
        assert given.read_text().splitlines() == [
            "models.check read 'an answer'", "listens", signal.Signals(number).name, "saved"
        ]  # fmt: skip
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--config",), "error: --config: expected a file"),
        (("here.yaml", "--config", "other.yaml"), "error: expected one config, found here.yaml and other.yaml"),
    ],
)
def test_no_config_or_two_are_refused(stages, words, said):
    calls, stderr = stages(*words)
    assert not calls
    assert stderr.startswith(said)


def test_the_first_failing_stage_ends_the_run_with_its_message_and_code(tmp_path):
    write_tiny(tmp_path / "data")
    (tmp_path / "data" / "train" / "000002.png").unlink()
    config = write_config(tmp_path / "tiny.yaml", tiny_values(tmp_path / "data", tmp_path))
    done = run_cv(config, check=False)
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1
    assert "train/000002.tif" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs" / "tiny" / "tiles.csv").exists()


def members_of(folder: Path) -> dict[str, int]:
    return {name: time for name, time in files_of(folder).items() if "members" in name and "weights" in name}


def test_pixels_that_change_are_noticed_and_pixels_that_are_put_back_are_good_again(finished):
    """A mask turned by 180 degrees has the same size and the same pixels of each class."""
    folder, config, _ = finished
    mask = folder / "data" / "train" / "000004.png"
    before, weights = mask.read_bytes(), members_of(folder)
    write_mask(mask, read_mask(mask)[::-1, ::-1].copy())
    blend = [sys.executable, "-m", "ensemble.blend", "--config", str(config), "--name", "new"]
    check = [sys.executable, "-m", "pipeline.check", "--config", str(config)]
    for command in (blend, check):
        alone = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert alone.returncode == 2
        assert "images or masks were written after it. Run: python -m folds.tiles" in alone.stderr
    refused = run_cv(config, check=False)
    assert refused.returncode == 2
    assert "what differs: tiles.csv: train has other content" in refused.stderr
    mask.write_bytes(before)
    run_cv(config)
    assert members_of(folder) == weights


def test_a_new_test_set_is_labelled_by_the_members_there_are(finished):
    folder, config, _ = finished
    weights = members_of(folder)
    write_tiny(folder / "b", train=0, test=3, seed=5)
    shutil.copytree(folder / "b" / "test", folder / "data" / "B")
    (folder / "data" / "B" / "000001.tif").rename(folder / "data" / "B" / "new.tif")
    run_cv(config, "data.test_images=B/*.tif")
    assert members_of(folder) == weights
    with zipfile.ZipFile(folder / "zips" / "tiny.zip") as archive:
        assert archive.namelist() == [f"results/{name}.png" for name in ("000000", "000002", "new")]
