"""Verify: every spoiled zip is caught under its own name, no good one is, and memory stays bounded."""

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from base.errors import UserError
from base.files import hash_file
from config import Run, load_experiment
from folds.classes import ClassTable
from folds.tiles import make_tiles
from submissions.content import judge
from submissions.layout import Layout
from submissions.problems import CONTENT, ERROR, KINDS, WARNING
from submissions.receipt import ADDED, write_receipt
from submissions.verify import main, verify_submission
from tests.corruptions import CORRUPTIONS, Zip, draw_labels, write_competition, write_spoiled
from tests.tiny import tiny_values, write_config

FORMATS = ["png", "color_png", "geotiff", "rle"]


@pytest.fixture(scope="session")
def competition(tmp_path_factory):
    """(config file, tile table) of a small competition with ten classes of uneven shares."""
    root = tmp_path_factory.mktemp("competition")
    values = tiny_values(root, root) | {"data": write_competition(root / "data"), "folds": {"k": 3}}
    config = write_config(root / "config.yaml", values)
    return config, make_tiles(Run(load_experiment(config)))


def good_zip(competition, format: str, seed: int = 0, folder: str = "results") -> Zip:
    config, tiles = competition
    rng = np.random.default_rng(seed)
    experiment = load_experiment(config, [f"submission.format={format}", f"submission.folder={folder}"])
    layout = Layout.of(experiment, tiles)
    return Zip(layout, {name: draw_labels(rng) for name in layout.tiles})


def verify(competition, path, *overrides):
    config, tiles = competition
    return verify_submission(path, load_experiment(config, list(overrides)), tiles)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_is_caught_by_its_name(competition, tmp_path, name):
    kind, format, _ = CORRUPTIONS[name]
    write_spoiled(name, good_zip(competition, format), tmp_path / "bad.zip")
    verdict = verify(competition, tmp_path / "bad.zip", f"submission.format={format}")
    found = {problem.kind for problem in verdict.problems}
    assert kind in found
    assert found <= set(KINDS)
    assert kind in CONTENT or verdict.broken


def test_the_corruptions_cover_every_kind_of_problem():
    assert {kind for kind, _, _ in CORRUPTIONS.values()} == set(KINDS)
    assert len(CORRUPTIONS) >= 25


def test_the_page_names_every_kind_of_problem_and_its_law():
    page = Path("docs/submissions.md").read_text()
    assert [kind for kind, law in KINDS.items() if f"| {kind} | {law} |" not in page] == []


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("seed", range(7))
def test_good_zips_raise_no_alarm(competition, tmp_path, format, seed):
    folder = ["results", "", "a/b.c"][seed % 3]
    good_zip(competition, format, seed, folder).write(tmp_path / "good.zip")
    overrides = [f"submission.format={format}", f"submission.folder={folder}"]
    verdict = verify(competition, tmp_path / "good.zip", *overrides)
    assert verdict.problems == []
    assert verdict.tiles == 24
    assert sum(verdict.class_shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("save", [{"optimize": True}, {"compress_level": 0}, {"dpi": (72, 72)}])
def test_zips_of_other_programs_pass(competition, tmp_path, save):
    """Deflated entries, an entry for the folder, PNGs of Pillow."""
    good = good_zip(competition, "png")
    with zipfile.ZipFile(tmp_path / "zipped.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("results/", b"")
        for name, label_HW in reversed(good.labels.items()):
            buffer = io.BytesIO()
            Image.fromarray(label_HW).save(buffer, "png", **save)
            archive.writestr(f"results/{name}.png", buffer.getvalue())
    assert verify(competition, tmp_path / "zipped.zip").problems == []


def test_everything_wrong_is_listed_at_once(competition, tmp_path):
    spoiled = good_zip(competition, "png")
    spoiled.relabel(lambda label_HW: label_HW[:-1], tiles=2)
    spoiled.save(mode="RGB")
    del spoiled.entries[9]
    spoiled.entries.append(("notes.txt", b"?"))
    spoiled.write(tmp_path / "bad.zip")
    kinds = [problem.kind for problem in verify(competition, tmp_path / "bad.zip").problems]
    assert sorted(kinds) == ["extra", "missing", "mode", "size", "size"]


@pytest.mark.parametrize("name", ["zip_bomb", "endless_line", "directory_bomb", "png_that_claims_gigabytes"])
def test_bombs_do_not_fill_the_memory(competition, tmp_path, name):
    write_spoiled(name, good_zip(competition, CORRUPTIONS[name][1]), tmp_path / "bomb.zip")
    tracemalloc.start()
    verify(competition, tmp_path / "bomb.zip", f"submission.format={CORRUPTIONS[name][1]}")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6  # the bombs unpack to 20 MB and more


def test_oof_shares_take_the_place_of_the_train_masks(competition, tmp_path):
    spoiled = good_zip(competition, "png")
    spoiled.relabel(lambda label_HW: np.full_like(label_HW, 2))
    spoiled.write(tmp_path / "forest.zip")
    config, tiles = competition
    experiment = load_experiment(config)
    names = [spec.name for spec in experiment.data.classes]
    same = dict(zip(names, np.eye(10)[1], strict=True))  # a network that says forest out of fold too
    verdict = verify_submission(tmp_path / "forest.zip", experiment, tiles, same)
    found = [(problem.kind, problem.severity) for problem in verdict.problems]
    assert found == [("constant", WARNING), ("shares", WARNING)]  # the second: of the other classes there is no pixel
    with pytest.raises(UserError, match=r"class_shares_oof are of class0; data\.classes are class0, class1"):
        verify_submission(tmp_path / "forest.zip", experiment, tiles, {"class0": 1.0})


def test_shares_that_another_order_of_few_classes_fits_may_be_chance():
    """Four classes of similar area on another scene: the labels are right, and only a person can tell."""
    classes = ClassTable((1, 2, 3, 4), ("water", "crop", "forest", "urban"), ((0, 0, 0),) * 4)
    expected_C = np.array([0.378, 0.258, 0.141, 0.223])
    hist_NC = np.tile([223, 327, 284, 166], (8, 1))
    train_NC = np.tile([378, 258, 141, 223], (40, 1))
    (problem,) = judge(hist_NC, expected_C, 0.15, train_NC, classes)
    assert (problem.kind, problem.severity) == ("shares", WARNING)
    assert "times better if every label is read as the class before it, which may be chance" in problem.what
    far_C = np.array([0.9, 0.06, 0.03, 0.01])
    (problem,) = judge(np.roll(np.tile(far_C * 1000, (8, 1)), 1, axis=1), far_C, 0.15, train_NC, classes)
    assert (problem.kind, problem.severity) == ("shifted", ERROR)


BARE = ClassTable((1, 2, 3), ("field", "water", "bare"), ((0, 0, 0),) * 3)


@pytest.mark.parametrize(
    ("found", "expected", "train", "said"),
    [
        ([640, 360, 0], [0.65, 0.3499, 0.0001], [600, 341, 59], "no pixel of bare, on 5.9% of the train masks; out of"),
        ([640, 360, 0], [0.60, 0.3500, 0.0500], [600, 341, 59], "no pixel of bare, expected on 5.0% of the area"),
        ([640, 359, 1], [0.65, 0.3499, 0.0001], [600, 341, 59], None),
        ([640, 360, 0], [0.65, 0.3499, 0.0001], [620, 378, 2], None),  # hardly anywhere in the train masks either
    ],
)
def test_a_class_of_the_train_masks_that_the_zip_has_nowhere_is_told_though_oof_labels_lack_it_too(
    found, expected, train, said
):
    problems = judge(np.tile(found, (8, 1)), np.array(expected), 0.15, np.tile(train, (40, 1)), BARE)
    assert [(problem.kind, problem.severity) for problem in problems] == ([("shares", WARNING)] if said else [])
    assert not said or problems[0].what.startswith(said)


def test_a_distance_just_above_the_limit_does_not_read_as_the_limit():
    hist_NC, train_NC = np.tile([654, 336, 10], (8, 1)), np.tile([500, 490, 10], (40, 1))
    (problem,) = judge(hist_NC, np.array([0.5, 0.49, 0.01]), 0.151, train_NC, BARE)
    assert problem.what.startswith("15.4% of the area has another class than expected (15.1% would pass)")


def test_the_command_lists_all_and_fails_with_code_2(competition, tmp_path, capsys):
    config, _ = competition
    spoiled = good_zip(competition, "png")
    spoiled.relabel(lambda label_HW: label_HW - 1, tiles=2)
    spoiled.write(tmp_path / "bad.zip")
    with pytest.raises(UserError, match="2 errors \\(zero_based\\); do not hand it in"):
        main([str(tmp_path / "bad.zip"), "--config", str(config)])
    assert "results/000000.png, results/000001.png" in capsys.readouterr().out


def test_a_zip_of_another_format_than_the_experiments_is_told_by_its_receipt(competition, tmp_path, capsys):
    config, _ = competition
    path = tmp_path / "runs.zip"
    good_zip(competition, "rle").write(path)
    write_receipt(path, {}, dict.fromkeys(ADDED, "") | {"format": "rle", "sha256": hash_file(path)})
    with pytest.raises(UserError, match="do not hand it in"):
        main([str(path), "--config", str(config)])
    assert "judge it as that with submission.format=rle" in capsys.readouterr().out
    main([str(path), "--config", str(config), "submission.format=rle"])
    assert "nothing is wrong with it" in capsys.readouterr().out


def test_a_zip_that_is_not_there_is_no_traceback(competition, tmp_path):
    with pytest.raises(UserError, match="no such zip"):
        verify(competition, tmp_path / "none.zip")
