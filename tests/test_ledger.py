"""The ledger: nothing is lost, scores go to the right bytes, the line is least squares with an honest interval."""

import subprocess
import sys
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from base.errors import UserError
from base.files import read_json
from submissions.ledger import add_score, add_to_ledger, fit_line, ledger_path, main, read_ledger, show
from submissions.plot import name_points
from submissions.receipt import write_receipt
from tests.tiny import tiny_values, write_config

ABOUT = {"bytes": 1, "format": "png", "encoder": "one", "tiles": 1, "class_shares": {}, "warnings": []}


def enter(folder, name="a.zip", sha256="ab12cd34" * 8, honest=0.4, oof=0.5):
    receipt = write_receipt(
        folder / "zips" / name, {"honest_miou": honest, "oof_miou": oof}, ABOUT | {"zip": name, "sha256": sha256}
    )
    add_to_ledger(folder / "ledger.csv", receipt)
    return folder / "ledger.csv"


def test_a_row_per_zip_and_the_same_bytes_once(tmp_path):
    enter(tmp_path)
    enter(tmp_path, honest=0.9)
    enter(tmp_path, "b.zip", "ff" * 32, honest=None)
    ledger = read_ledger(enter(tmp_path, sha256="cd" * 32))
    assert ledger["zip"].tolist() == ["a.zip", "b.zip", "a.zip"]
    assert ledger.honest_miou.tolist()[0] == 0.4
    assert np.isnan(ledger.honest_miou[1])
    assert ledger.score.isna().all()


def test_a_score_goes_to_its_row_and_a_second_board_to_a_row_of_its_own(tmp_path):
    path = enter(tmp_path)
    enter(tmp_path, "b.zip", "ff" * 32)
    add_score(path, "zips/a.zip", 0.38, "A", "2021-01-02")
    add_score(path, "ab12cd", 0.37, "B", "2021-01-03")
    add_score(path, "a.zip", 0.382, "A", "2021-01-04")  # a slip of the finger, corrected
    ledger = read_ledger(path)
    rows = ledger[["zip", "board", "score", "date"]].itertuples(index=False, name=None)
    assert list(rows)[::2] == [("a.zip", "A", 0.382, "2021-01-04"), ("a.zip", "B", 0.37, "2021-01-03")]
    assert ledger.loc[1, ["board", "score", "date"]].isna().all()
    assert ledger.honest_miou.tolist() == [0.4, 0.4, 0.4]


@pytest.mark.parametrize("board", ["NA", "null", "None"])
def test_a_board_may_be_called_like_nothing(tmp_path, board):
    path = enter(tmp_path)
    add_score(path, "a.zip", 0.4, board, "2021-01-02")
    add_score(path, "a.zip", 0.3, "B", "2021-01-03")
    rows = read_ledger(path)[["board", "score"]].itertuples(index=False, name=None)
    assert list(rows) == [(board, 0.4), ("B", 0.3)]


def test_columns_of_a_persons_own_stay(tmp_path):
    path = enter(tmp_path)
    read_ledger(path).assign(note="hazy", rank=3).to_csv(path, index=False)
    enter(tmp_path, "b.zip", "ff" * 32)
    add_score(path, "a.zip", 0.4, "A", "2021-01-02")
    add_score(path, "a.zip", 0.3, "B", "2021-01-03")
    ledger = read_ledger(path)
    assert ledger["zip"].tolist() == ["a.zip", "b.zip", "a.zip"]
    assert ledger.note.tolist()[::2] == ["hazy", "hazy"]  # a row for another board is a copy
    assert np.isnan(ledger["rank"][1])
    assert pd.isna(ledger.note[1])
    assert ledger["rank"][0] == 3


def test_a_name_that_stood_for_other_bytes_before_needs_the_sha256(tmp_path):
    path = enter(tmp_path)
    enter(tmp_path, sha256="cd56ef78" * 8)
    with pytest.raises(UserError, match=r"2 contents \(ab12cd34 of .*, cd56ef78 of .*Name the sha256"):
        add_score(path, "a.zip", 0.38, "A", "2021-01-02")
    add_score(path, "cd56ef78", 0.38, "A", "2021-01-02")
    assert np.isnan(read_ledger(path).score[0])
    assert read_ledger(path).score[1] == 0.38


def test_an_unknown_zip_is_refused_and_known_ones_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no row for c\.zip; it has a\.zip"):
        add_score(enter(tmp_path), "c.zip", 0.38, "A", "2021-01-02")


def test_processes_that_append_at_once_lose_nothing(tmp_path):
    script = (
        "import sys; from pathlib import Path; from tests.test_ledger import enter\n"
        "for i in range(8): enter(Path(sys.argv[1]), f'{sys.argv[2]}-{i}.zip', f'{sys.argv[2]}{i}' * 32)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), who]) for who in "abc"]
    assert [writer.wait(600) for writer in writers] == [0, 0, 0]
    names = read_ledger(tmp_path / "ledger.csv")["zip"]
    assert sorted(names) == sorted(f"{who}-{i}.zip" for who in "abc" for i in range(8))


def test_the_line_is_least_squares():
    honest = np.array([0.30, 0.34, 0.39, 0.47, 0.52])
    line = fit_line("A", honest, 0.05 + 0.7 * honest)
    assert (line.intercept, line.slope, line.rank_correlation) == pytest.approx((0.05, 0.7, 1.0))
    assert line.slope_interval == pytest.approx((0.7, 0.7), abs=1e-6)
    expected, half = line.predict(np.array([0.6]))
    assert expected[0] == pytest.approx(0.47)
    assert half[0] == pytest.approx(0, abs=1e-6)
    assert fit_line("A", honest[:3], honest[:3]) is None
    assert fit_line("A", np.full(5, 0.4), honest) is None


def test_the_intervals_hold_as_often_as_they_say():
    rng = np.random.default_rng(0)
    slope_in = new_in = 0
    for _ in range(400):
        honest = rng.uniform(0.3, 0.5, 6)
        line = fit_line("A", honest, 0.1 + 0.6 * honest + rng.normal(0, 0.01, 6))
        slope_in += line.slope_interval[0] < 0.6 < line.slope_interval[1]
        new = rng.uniform(0.3, 0.5)
        expected, half = line.predict(np.array(new))
        new_in += abs(0.1 + 0.6 * new + rng.normal(0, 0.01) - expected) < half
    assert 0.92 < slope_in / 400 < 0.98
    assert 0.92 < new_in / 400 < 0.98


def test_show_prints_all_rows_and_draws_from_four_scored_ones_on(tmp_path, capsys):
    for i, name in enumerate("abcd"):
        path = enter(tmp_path, f"{name}.zip", name * 64, honest=0.30 + 0.03 * i)
        add_score(path, f"{name}.zip", 0.25 + 0.02 * i, "A", "2021-01-02")
        lines = show(path)
        assert len(lines) == (i == 3)
    enter(tmp_path, "unscored-and-of-a-very-long-name.zip", "9" * 64)
    show(path)
    printed = capsys.readouterr().out
    assert "rank correlation 1.00" in printed
    assert "unscored-and-of" in printed
    assert max(len(line) for line in printed.splitlines() if not line.startswith("plot")) <= 100
    with Image.open(tmp_path / "ledger.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20  # not an empty sheet


@pytest.mark.parametrize("apart", [1e-3, 5e-3, 1e-2])
@pytest.mark.parametrize("name", ["blend", "demo.mmww", "ill.i"])
def test_names_of_zips_with_nearly_equal_scores_can_be_read(apart, name):
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    axes = figure.add_subplot()
    rows = pd.DataFrame({"zip": [f"{name}{i}.zip" for i in range(6)], "honest_miou": 0.5 + np.arange(6) * apart})
    rows["score"] = 0.45 + rows.honest_miou * 1e-3
    axes.set(xlim=(0.4, 0.6), ylim=(0.4, 0.5))
    name_points(figure, axes, rows)
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the lines to the points
    assert len(boxes) == 6
    assert not any(a.overlaps(b) for a, b in combinations([b.shrunk(1, 0.9) for b in boxes], 2))
    points = axes.transData.transform(rows[["honest_miou", "score"]].to_numpy())
    assert not [box for box in boxes for point in points if box.contains(*point)]


def test_the_line_is_written_as_json_also_where_ranks_have_no_meaning(tmp_path):
    config = write_config(tmp_path / "c.yaml", tiny_values(tmp_path / "data", tmp_path))
    for i, name in enumerate("abcd"):
        path = enter(tmp_path, f"{name}.zip", name * 64, honest=0.30 + 0.03 * i)
        add_score(path, f"{name}.zip", 0.25, "A", "2021-01-02")
    main(["show", "--json", str(tmp_path / "line.json"), "--config", str(config)])
    line = read_json(tmp_path / "line.json")["A"]
    assert (line["rows"], line["slope"], line["slope_interval"], line["rank_correlation"]) == (4, 0, [0, 0], None)


def test_the_command_scores_and_shows(tmp_path, capsys):
    config = write_config(tmp_path / "c.yaml", tiny_values(tmp_path / "data", tmp_path))
    with pytest.raises(UserError, match="no zip yet"):
        main(["--config", str(config)])
    enter(tmp_path)
    main(["score", "zips/a.zip", "0.3820", "--board", "B", "--date", "2021-02-03", "--config", str(config)])
    main(["--config", str(config), "show", "name=other"])
    main(["--config", str(config), "name=other"])
    assert "a.zip ab12cd34" in capsys.readouterr().out
    assert read_ledger(ledger_path_of(config)).score.tolist() == [0.382]
    for wrong, message in ((["score", "a.zip", "38.2"], "0..1"), (["score", "a.zip"], "none of"), (["sum"], "none of")):
        with pytest.raises(UserError, match=message):
            main([*wrong, "--config", str(config)])


def ledger_path_of(config):
    from config import load_experiment

    return ledger_path(load_experiment(config))
