"""The report: what it says, that it says what is missing, that it stands by itself, and that wrong masks are found."""

import base64
import os
import re
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.colors import to_hex
from matplotlib.figure import Figure as Canvas

from base import lettering
from base.errors import UserError
from config import Run, load_experiment
from ensemble.apply import apply_blend
from ensemble.blend import make_submission
from ensemble.build import build_blend
from ensemble.calibration import calibration_error
from ensemble.evidence import class_intervals, tally_of_counts
from ensemble.oof import make_table, oof_table
from ensemble.stores import ProvenStores
from folds.landscape import make_landscape
from pipeline.job_state import log_path
from pipeline.record import read_log
from reports import build, data, oof, submission, suspects, training
from reports.bands import bin_edges
from reports.build import summary
from reports.data import class_shares
from reports.figures import DARK, HEAT, LIGHT, MUTED, SERIES, color_and_mark, share_floor, text_on
from reports.folds import draw_deviation
from reports.look import BINS, draw_tiles, reliability_bins, tally_by_group
from reports.material import Material
from reports.page import Figure, Note, Section, TableView
from reports.patches import Habits, Patch, find_patches, habits_of, probability_bin, summed
from reports.render import built, write_pngs
from reports.steps import blend_steps
from reports.submission import draw_boards
from reports.suspects import make_suspects, suspects_table, suspicion
from reports.tile_view import TileView
from reports.tiles import around, ranked_tiles
from submissions.ledger import fit_line, ledger_path
from submissions.plot import draw_scores
from tests.chromium import contrast, open_browser, open_tab, text_colors
from tests.planted import plant_flips, planted_share
from tests.played_run import play, played_config

NUMBERS = ["01", "02", "03"]  # of classes


@pytest.fixture(scope="module")
def played(tmp_path_factory) -> Run:
    return play(played_config(tmp_path_factory.mktemp("played")))


@pytest.fixture(scope="module")
def page(played) -> str:
    build.make_report(played)
    return (played.dir / "report.html").read_text(encoding="utf-8")


def texts_in(drawn: Figure) -> set[str]:
    return {text.text for text in ElementTree.fromstring(drawn.svg).iter("{http://www.w3.org/2000/svg}text")}


def text_of(html: str) -> str:
    body = re.sub(r"<(script|style)>.*?</\1>", "", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


# The page


def test_the_page_holds_every_section_and_the_score(page, played):
    for name, (title, _) in build.SECTIONS.items():
        assert f'<section id="{name}"' in page
        assert f">{title}</h2>" in page
    blend = pd.read_csv(played.oof_csv).query("kind == 'blend'").miou.iloc[-1]
    assert f"{blend:.4f}" in text_of(page)


def test_the_page_needs_nothing_else(page):
    assert not re.findall(r"""(?:src|href)=["'](?!data:|\#)[^"']*""", page)
    assert "url(" not in page
    assert "http://" not in re.sub(r"data:image[^\"]*", "", page)
    svgs = [base64.b64decode(found).decode() for found in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)]
    assert len(svgs) >= 8
    assert not [svg for svg in svgs if "<image" in svg and 'xlink:href="http' in svg]


def test_every_figure_is_also_a_png_that_opens(played, page):
    pictures = sorted((played.dir / "report").glob("*.png"))
    assert len(pictures) >= page.count("<figure>") >= 7
    for path in pictures:
        assert cv2.imread(str(path)).std() > 1, path


def test_pictures_that_a_section_has_no_more_are_removed(tmp_path):
    drawn = draw_deviation(np.array([[0.0, 0.1, 0.0], [0.0, -0.3, 0.0]]), ("field", "bare"))
    for name in ("folds-gone.png", "oof-iou.png", "data-samples.png", "mine.png"):
        (tmp_path / name).write_bytes(b"old")
    missing = Section("oof", "Out of fold", "", [Note("no OOF table yet", "missing")])
    written = write_pngs(tmp_path, [Section("folds", "Folds", "", [drawn]), missing])
    assert written == [tmp_path / "folds-deviation.png"]
    assert {path.name for path in tmp_path.iterdir()} == {"folds-deviation.png", "data-samples.png", "mine.png"}


def test_every_picture_says_what_it_shows(page):
    pictures = re.findall(r"<img [^>]*>", page)
    assert len(pictures) > 100
    assert all(re.search(r'alt="[^"]{8,}"', picture) for picture in pictures)


def holds(run: Run) -> bool:
    return build.report_result(run, build.report_inputs(run)).is_fresh()


def test_a_report_that_holds_is_left_alone_and_one_that_does_not_is_made_again(played, page):
    path = played.dir / "report.html"
    before = path.stat().st_mtime_ns
    assert not build.make_report(played)
    assert path.stat().st_mtime_ns == before
    assert holds(played)
    for name in ("jobs.csv", "blend/blend/oof.csv", "tiles.csv", "suspects.csv"):
        path = played.dir / name
        text, stat = path.read_text(), path.stat()
        path.write_text(f"{text}\n")
        assert not holds(played)
        path.write_text(text)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert holds(played)
    masks = {"data": played.experiment.data.model_copy(update={"test_masks": "train/{name}.png"})}
    assert not holds(Run(played.experiment.model_copy(update=masks)))  # a score by them would stand in it


def test_a_report_tells_of_its_own_blend_whatever_was_built_after_it(played, without):
    run = without()
    values = run.experiment.blend.model_copy(update={"name": "alone", "models": ["deeplab_r18"]})
    other = Run(run.experiment.model_copy(update={"blend": values}))
    stores = ProvenStores(other)
    make_table(stores, build_blend(stores))
    ours, theirs = (oof_table(each.blend_dir) for each in (run, other))
    assert set(ours[ours.kind == "model"].name) == {"deeplab_r18", "upernet_r18"}
    assert set(theirs[theirs.kind == "model"].name) == {"deeplab_r18"}
    pd.testing.assert_frame_equal(oof_table(run.dir), theirs)  # the last one, for notebooks
    for each, table in ((run, ours), (other, theirs)):
        assert summary(Material(each)).items[0][0] == f"{table.miou.iloc[-1]:.4f}"
    assert ours.miou.iloc[-1] != theirs.miou.iloc[-1]


# What is missing


@pytest.fixture
def without(played, tmp_path):
    """The played run in a folder of its own, parts of it taken away."""

    def made(*gone: str) -> Run:
        shutil.copytree(Path(played.experiment.runs_dir), tmp_path / "runs")
        values = played.experiment.dump() | {
            "runs_dir": str(tmp_path / "runs"),
            "zips_dir": str(tmp_path / "zips" / "zips"),
        }
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump(values))
        run = Run(load_experiment(config))
        for pattern in gone:
            for path in sorted(run.dir.glob(pattern)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return run

    return made


@pytest.mark.parametrize(
    ("gone", "name", "said"),
    [
        ("tiles.csv", "data", "no tile table yet. Run: python -m folds.tiles"),
        ("folds.csv", "folds", "no folds yet. Run: python -m folds.assign"),
        ("members", "training", "no member has begun to train. Run: python -m pipeline.cv"),
        ("members/deeplab_r18/fold2-seed0", "training", "1 members have not begun to train"),
        ("blend/blend/oof.csv", "oof", "no OOF table yet. Run: python -m ensemble.oof"),
        ("members/*/*/oof-*", "tiles", "have no OOF predictions"),
        ("test", "tiles", "no test predictions"),
        ("zips", "submission", "no zip yet. Run: python -m ensemble.blend"),
    ],
)
def test_what_is_missing_is_said(without, gone, name, said):
    title, section = build.SECTIONS[name]
    made = built(name, title, section, Material(without(gone)))
    assert made.title == title
    assert said in " ".join(part.text for part in made.parts if isinstance(part, Note))


@pytest.mark.parametrize(
    ("section", "change", "said"),
    [
        ("blend", lambda blend: blend.model_copy(update={"models": ["deeplab_r18"]}), "None -> ['deeplab_r18']"),
        ("models", lambda models: models[:1], "members.upernet_r18.members 3 -> (none)"),
        ("seeds", lambda seeds: [*seeds, 5], "members.deeplab_r18.members 3 -> 6"),
        ("predict", lambda predict: predict.model_copy(update={"tta": "none"}), "-> last-none"),
    ],
    ids=["keys", "models", "seeds", "views"],
)
def test_a_blend_that_is_not_of_the_keys_given_is_not_shown_as_theirs(played, section, change, said):
    ours = Material(played)
    assert summary(ours).items[0][0] == f"{ours.fitted.row.miou:.4f}"
    values = {section: change(getattr(played.experiment, section))}
    material = Material(Run(played.experiment.model_copy(update=values)))
    for shown in ("fitted", "scores"):
        with pytest.raises(UserError, match=re.escape(said)):
            getattr(material, shown)
    assert summary(material).items[0] == ("–", "OOF mIoU of the blend", "not there yet: see Out of fold")
    (note,) = built("oof", *build.SECTIONS["oof"], material).parts
    assert note.kind == "missing"
    assert "python -m ensemble.blend" in note.text
    assert TileView(material).missing
    assert not holds(material.run)


def test_a_zip_of_another_blend_than_the_one_shown_says_so(without):
    run = without()
    stores = ProvenStores(run)
    make_submission(stores, build_blend(stores))

    def said_of_zip(run: Run) -> tuple[str, str]:
        material = Material(run)
        section = built("submission", *build.SECTIONS["submission"], material)
        return summary(material).items[-1][2], " ".join(part.text for part in section.parts if isinstance(part, Note))

    assert "another blend" not in " ".join(said_of_zip(run))
    honest = Material(run).fitted.row.miou
    values = run.experiment.blend.model_copy(update={"models": ["deeplab_r18"]})
    other = Run(run.experiment.model_copy(update={"blend": values}))
    stores = ProvenStores(other)
    make_table(stores, build_blend(stores))
    assert f"{Material(other).fitted.row.miou:.4f}" != f"{honest:.4f}"
    for each in (other, run):  # to the keys of the zip no blend is there
        head, note = said_of_zip(each)
        assert head.endswith(f"of another blend (honest mIoU {honest:.4f})")
        assert f"The zip is of another blend (honest mIoU {honest:.4f}), which this report does not show." in note


def test_a_run_that_does_not_exist_is_not_reported_on(played, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(played.experiment.dump() | {"name": "plaid"}))
    with pytest.raises(UserError, match=r"plaid: no such run\. Run: bash run_cv\.sh"):
        build.main(["--config", str(config)])
    assert not (Path(played.experiment.runs_dir) / "plaid").exists()


def test_the_report_of_a_run_that_has_nothing_yet(without):
    run = without("*")
    build.make_report(run)
    text = text_of((run.dir / "report.html").read_text(encoding="utf-8"))
    assert text.count("Not here") == len(build.SECTIONS)


def test_a_data_set_without_test_tiles(tmp_path):
    config = played_config(tmp_path)
    values = yaml.safe_load(config.read_text())
    make_landscape(load_experiment(config).data)
    values["data"] |= {"generate": None, "test_images": None, "test_masks": None}
    config.write_text(yaml.safe_dump(values))
    material = Material(play(config, to_the_end=False))
    for name, said in (("data", "No test tiles"), ("tiles", "No test tiles"), ("submission", "nothing to hand in")):
        made = built(name, *build.SECTIONS[name], material)
        assert said in " ".join(part.text for part in made.parts if isinstance(part, Note))


# Pieces


def test_class_shares_add_up(played):
    material = Material(played)
    shares = class_shares(material)
    assert shares["pixel share"].sum() == pytest.approx(1)
    assert shares.pixels.sum() == len(material.train) * 64 * 64
    assert (shares.groups <= shares.tiles).all()


def test_the_speed_of_a_member_is_that_of_its_newest_attempt(played, tmp_path):
    """And stands also where much was said after it."""
    member = next(iter(played.members()))
    run = Run(played.experiment.model_copy(update={"runs_dir": str(tmp_path)}))
    logs = {member: read_log(played.member_dir(member))}
    said = {"first": "# attempt 1: today\nepoch 3/9 77 img/s\n", "second": "# attempt 2: now\nepoch 4/9 9 img/s\n"}
    log = log_path(run.jobs_dir, str(member))
    log.parent.mkdir(parents=True)
    log.write_text(said["first"] + said["second"] + "a warning\n" * 30)
    assert training.member_table(run, logs)["img/s"].tolist() == [9]
    log.write_text(said["first"] + "# attempt 2: now\nnothing of speed\n")
    assert training.member_table(run, logs)["img/s"].isna().all()


@pytest.mark.parametrize("levels", [(3, 180), (0, 255), (40, 60), (100, 40_000)])
def test_every_bin_of_a_histogram_holds_equally_many_levels(levels):
    level = 1 / 65_535 if levels[1] > 255 else 1 / 255
    values = np.arange(*levels) * level
    count = np.histogram(values, bin_edges(values, level))[0]
    assert len(set(count[1:-1])) == 1
    assert count.sum() >= 0.99 * len(values)
    assert len(count) <= 1.5 * 64


def test_the_sample_is_all_tiles_or_a_random_part_with_holders_of_rare_classes():
    hist_NC = np.zeros((500, 3), int)
    hist_NC[:, 0] = 9
    hist_NC[100:400, 1] = 5
    hist_NC[[3, 77, 498], 2] = 4
    tile_n, drawn_n = draw_tiles(hist_NC, at_most=50)
    assert drawn_n.sum() == 50
    assert set(tile_n) >= {3, 77, 498}
    assert len(set(tile_n)) == len(tile_n) <= 50 + 2 * 12
    everything, drawn = draw_tiles(hist_NC, at_most=500)
    assert everything.tolist() == list(range(500))
    assert drawn.all()


def test_reliability_of_a_network_that_knows_how_sure_it_is():
    rng = np.random.default_rng(1)
    top_P = rng.uniform(0.5, 1, 200_000)
    honest_CP = np.stack([top_P, 1 - top_P])
    truth_P = (rng.random(len(top_P)) > top_P).astype(np.uint8)
    index_P, weight_P = np.zeros(len(top_P), np.uint8), np.ones(len(top_P))
    for probs_CP, error in ((honest_CP, 0.0), (honest_CP**4 / (honest_CP**4).sum(0), 0.15)):
        count_B, sure_B, right_B = reliability_bins(7 * probs_CP, index_P, truth_P).T
        assert len(count_B) == BINS
        assert count_B.sum() == len(top_P)
        assert abs(sure_B - right_B).sum() / count_B.sum() == pytest.approx(error, abs=0.02)
        assert abs(sure_B - right_B).sum() / count_B.sum() == pytest.approx(
            calibration_error(probs_CP, index_P, truth_P, weight_P), abs=1e-9
        )
    truth_P[:50_000] = 255
    assert reliability_bins(honest_CP, index_P, truth_P)[:, 0].sum() == 150_000


def test_confidence_is_that_of_the_label_and_not_of_the_likeliest_class():
    """A decision rule may prefer a class that is not the likeliest."""
    probs_CP, index_P = np.array([[0.7, 0.55], [0.3, 0.45]]), np.array([1, 0], np.uint8)
    count_B, sure_B, right_B = reliability_bins(probs_CP, index_P, truth_P=np.array([1, 1], np.uint8)).T
    bins = [int(0.3 * BINS), int(0.55 * BINS)]
    assert count_B[bins].tolist() == [1, 1]
    np.testing.assert_allclose(sure_B[bins], [0.3, 0.55])
    assert right_B[bins].tolist() == [1, 0]


def test_the_diagram_and_the_table_of_steps_name_one_calibration_error(played):
    """Of what ships; post-processing, which comes last, has no probabilities."""
    material = Material(played)
    steps = material.fitted.steps.set_index("step")
    assert steps.ece["uniform"] != steps.ece[material.fitted.stage]
    drawn = oof.draw_reliability(material.look, material.fitted)
    labels = {f"plain mean, ece {steps.ece['uniform']:.4f}", f"blend, ece {steps.ece[material.fitted.stage]:.4f}"}
    assert labels <= texts_in(drawn)
    cleaned = pd.concat([steps, steps.iloc[[-1]].rename({material.fitted.stage: "postprocess"}).assign(ece=np.nan)])
    fitted = replace(material.fitted, stage="postprocess", steps=cleaned.reset_index())
    assert oof.calibration_errors(fitted)["blend"] == steps.ece[material.fitted.stage]


def test_intervals_hold_the_score_and_shrink_with_more_groups(played):
    seen = Material(played).look
    conf_nCC = np.stack([tile.conf_CC for tile in seen.tiles])
    few = class_intervals(tally_by_group(conf_nCC, np.arange(len(conf_nCC)) % 6))
    many = class_intervals(tally_by_group(np.concatenate([conf_nCC] * 8), np.arange(8 * len(conf_nCC))))
    iou_C = tally_by_group(conf_nCC, np.zeros(len(conf_nCC))).iou_C
    assert ((many[:, 0] <= iou_C) & (iou_C <= many[:, 1])).all()
    assert np.diff(many).sum() < np.diff(few).sum()


def test_a_class_of_few_groups_is_not_called_0_where_a_draw_lacks_it():
    """Twenty groups, of which three hold the second class; elsewhere it is said wrongly now and then."""
    truth_GC = np.array([[90, 10]] * 3 + [[100, 0]] * 17)
    hit_GC = np.array([[88, 8]] * 3 + [[99, 0]] * 17)
    said_GC = np.array([[90, 10]] * 3 + [[99, 1]] * 17)
    low, high = class_intervals(tally_of_counts(hit_GC, said_GC, truth_GC))[1]
    assert 0.15 < low < 24 / (30 + 30 - 24 + 17) < high


def test_ranked_tiles_are_worst_median_best_of_those_that_hold_the_class():
    iou_nC = np.array([[0.9, 0.0], [0.1, 0.5], [0.5, np.nan], [0.3, 0.2], [0.7, 0.1]])
    share_nC = np.array([[0.5, 0.0], [0.5, 0.2], [0.5, 0.0], [0.5, 0.004], [0.5, 0.0]])
    assert ranked_tiles(iou_nC, share_nC) == {0: {"worst": 1, "median": 2, "best": 0}, 1: {"worst": 1}}


def test_a_window_lies_in_the_tile_and_holds_its_box():
    for box in ((0, 0, 5, 9), (60, 58, 4, 6), (10, 0, 54, 64), (30, 31, 2, 2)):
        rows, columns = around(box, (64, 64))
        assert 0 <= rows.start <= box[0] < box[0] + box[2] <= rows.stop <= 64
        assert 0 <= columns.start <= box[1] < box[1] + box[3] <= columns.stop <= 64


def test_a_table_shows_what_is_missing_as_a_dash_and_sorts_by_value():
    frame = pd.DataFrame({"name": ["a", "b"], "score": [0.12345, np.nan], "count": pd.array([1200, None], "Int64")})
    rows = TableView("t", "T", frame, {"score": "{:.2f}", "count": "{:,}"}).rows()
    assert [[cell["text"] for cell in row] for row in rows] == [["a", "0.12", "1,200"], ["b", "–", "–"]]
    assert rows[0][1]["sort"] == 0.12345
    assert rows[1][1]["sort"] == ""


def test_an_alt_text_names_the_worst_fold():
    figure = draw_deviation(np.array([[0.0, 0.1, 0.0], [0.0, -0.3, 0.0]]), ("field", "bare"))
    assert "bare in fold 1, -30.0%" in figure.alt


@pytest.mark.parametrize("count", [3, 14, 15, 44, 120])
def test_a_confusion_matrix_fills_its_picture_however_many_classes_there_are(count):
    conf_CC = np.eye(count) * 70 + np.arange(count) % 7
    drawn = oof.draw_confusion(conf_CC, tuple(f"class number {c}" for c in range(count)), "all tiles")
    width, height = drawn.size_px
    assert height <= width <= 960
    picture = cv2.imdecode(np.frombuffer(drawn.png, np.uint8), cv2.IMREAD_COLOR).astype(int)
    blank_HW = (picture == picture[0, 0]).all(2)
    assert blank_HW.all(1).mean() < 0.3
    assert blank_HW.all(0).mean() < 0.3


def test_no_two_folds_share_colour_and_mark():
    assert len({color_and_mark(fold) for fold in range(64)}) == 64
    assert len({color for color, _ in map(color_and_mark, range(8))}) == 8
    assert len({mark for _, mark in map(color_and_mark, range(8))}) == 8


def test_names_are_drawn_as_they_are_written():
    """No mathematics, though two dollars or a backslash would be some."""
    names = ("cost $5 and $6", r"$\frac$", "a_b^2", "field")
    drawn = draw_deviation(np.array([[0.0, 0.1, 0.2, -0.1, 0.0], [0.0, -0.3, 0.0, 0.1, 0.0]]), names)
    assert set(names) <= texts_in(drawn)


SHARES = [(0.37, 0.12, 0.51), (0.6, 0.3999, 0.0001), (0.31, 0.69, 0.0)]


@pytest.mark.parametrize("share_C", SHARES, ids=["large", "of all sizes", "a class that is not there"])
def test_axes_of_shares_name_decades_in_percent_and_begin_one_below_the_smallest(share_C):
    names, share_C = ("field", "forest", "bare"), np.array(share_C)
    classes = SimpleNamespace(names=names, colors=((9, 8, 7), (99, 3, 200), (1, 255, 40)))
    shares = pd.DataFrame({"pixel share": share_C, "tile share": np.minimum(2 * share_C, 1)})
    drawn = (
        data.draw_shares(shares, SimpleNamespace(classes=classes)),
        submission.draw_shares(names, share_C, share_C[::-1], share_C),
    )
    for figure in drawn:
        ticks = {text for text in texts_in(figure) if re.fullmatch(r"[0-9.]+ %", text)}
        assert {"10 %", "100 %"} <= ticks <= {"0.001 %", "0.01 %", "0.1 %", "1 %", "10 %", "100 %"}
        assert "mathdefault" not in figure.svg
    assert share_floor(share_C) == pytest.approx(share_C[share_C > 0].min() / 10)


def test_a_single_epoch_is_named_by_its_number(played):
    one = pd.DataFrame({"epoch": [1], "lr": [3e-4], "loss": [2.75], "val_miou": [0.31]})
    ticks = texts_in(training.draw_curves(dict.fromkeys(played.members(), one)))
    assert "1" in ticks
    assert not ticks & {"0.96", "0.98", "1.00", "1.02", "1.04"}


@pytest.mark.parametrize(
    ("scored", "drawn"),
    [
        ([("played.zip", "A", 0.31), ("other.zip", "A", 0.36), ("far.zip", "B", 0.7)], {"played.zip", "other.zip"}),
        ([("played.mine.zip", "A", 0.31), ("other.zip", "A", 0.36)], {"played.mine.zip", "other.zip"}),
        ([("played.zip", "A", 0.31), ("played.zip", "B", 0.31), ("far.zip", "C", 0.7)], set()),
        ([("played.zip", None, 0.31), ("far.zip", "B", 0.7), ("farther.zip", "B", 0.8)], None),
    ],
    ids=["its board", "another blend", "one zip", "none of its"],
)
def test_boards_are_drawn_that_have_scored_a_zip_of_the_run(without, scored, drawn):
    run = without()
    (run.dir / "blend" / "mine").mkdir()
    rows = [
        {"zip": name, "sha256": f"{n:064x}", "created": "2026-01-01", "oof_miou": honest, "honest_miou": honest}
        | {"board": board, "score": None if board is None else 0.9 * honest, "date": "2026-01-02"}
        for n, (name, board, honest) in enumerate(scored)
    ]
    ledger_path(run.experiment).parent.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(ledger_path(run.experiment), index=False)
    parts = submission.ledger_parts(Material(run))
    (table,) = [part for part in parts if isinstance(part, TableView)]
    assert table.frame["zip"].tolist() == [name for name, _, _ in scored]
    named = set().union(*(re.findall(r"\S+\.zip", part.alt) for part in parts if isinstance(part, Figure)))
    assert named == (drawn or set())
    said = [part.text for part in parts if isinstance(part, Note)]
    assert [text[:37] for text in said] == (["No board has scored a zip of this run"] if drawn is None else [])


def test_boards_are_drawn_as_beside_the_ledger():
    """A band where there are enough zips for a line, which a board of two has not."""
    honest = np.array([0.31, 0.36, 0.38, 0.44, 0.47])
    rows = pd.DataFrame({"zip": "a.zip", "honest_miou": honest, "score": 0.9 * honest + [0.01, 0.02, 0, 0.01, 0.015]})
    drawn = draw_boards({"A": rows, "B": rows[:2]})
    axes = Canvas().add_subplot()
    draw_scores(axes, {"A": rows, "B": rows[:2]}, [fit_line("A", honest, rows.score.to_numpy())], SERIES, MUTED)
    labels = set(axes.get_legend_handles_labels()[1])
    assert labels == {"board = honest", "board A", "board A: 95 % for a new zip", "board B"}
    assert labels <= texts_in(drawn)


def test_letters_that_no_font_has_are_said_once(capsys, recwarn, monkeypatch):
    monkeypatch.setattr(lettering, "FALLBACKS", ("No Such Font",))
    lettering._say_that_letters_miss.cache_clear()
    for _ in range(2):
        drawn = draw_deviation(np.array([[0.0, 0.1, 0.0], [0.0, -0.3, 0.0]]), ("\ue0f2", "\ue0f3"))
        assert "\ue0f2" in drawn.svg
    assert capsys.readouterr().err.count("no installed font has the letters") == 1
    assert not [each for each in recwarn if "Glyph" in str(each.message)]


def test_letters_come_from_the_fonts_that_are_installed(capsys, monkeypatch):
    """U+1D81 is not in DejaVu Sans, but in STIXGeneral, which comes with matplotlib too."""
    monkeypatch.setattr(lettering, "FALLBACKS", ("No Such Font", "STIXGeneral"))
    lettering._say_that_letters_miss.cache_clear()
    draw_deviation(np.array([[0.0, 0.1, 0.0], [0.0, -0.3, 0.0]]), ("\u1d81", "bare"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("role", sorted(LIGHT.keys() - {"surface", "grid"}))
def test_colours_stand_out_from_the_surface(theme, role):
    assert contrast(theme[role], theme["surface"]) >= 4.5


@pytest.mark.parametrize("share", np.linspace(0, 1, 21))
def test_numbers_in_the_confusion_matrix_stand_out_from_their_cell(share):
    cell = HEAT(share)
    assert contrast(text_on(cell), to_hex(cell)) >= 4.5


def test_specialists_are_shown_with_their_part_and_their_absence_is_said(played, tmp_path):
    said = " ".join(part.text for part in oof.section(Material(played)).parts if isinstance(part, Note))
    assert "No specialists" in said
    config = played_config(tmp_path)
    values = yaml.safe_load(config.read_text())
    values["models"].append({"name": "water_only", "arch": "Unet", "encoder": "resnet18", "target": "water"})
    config.write_text(yaml.safe_dump(values))
    run = play(config)
    parts = oof.section(Material(run)).parts
    assert "No specialists" not in " ".join(part.text for part in parts if isinstance(part, Note))
    (table,) = [part.frame for part in parts if isinstance(part, TableView) and part.name == "specialists"]
    oof_csv = pd.read_csv(run.oof_csv)
    assert table[["specialist", "class"]].to_numpy().tolist() == [["water_only", "water"]]
    assert table["own IoU"].item() == oof_csv.query("kind == 'specialist'").water.item()
    assert table["blend IoU"].item() == oof_csv.query("kind == 'blend'").water.iloc[-1]


def test_where_the_plain_mean_ships_the_candidates_say_so(played, monkeypatch):
    def caption() -> str:
        (table,) = [part for part in blend_steps(Material(played)) if getattr(part, "name", "") == "candidates"]
        return table.caption

    fitted = Material(played).fitted
    steps = fitted.steps.assign(ships=fitted.steps.step == "uniform")
    assert "plain mean" not in caption()
    monkeypatch.setattr(Material, "fitted", replace(fitted, stage="uniform", steps=steps))
    assert "plain mean ships" in caption()


# Likely label errors


def test_a_patch_is_a_thick_connected_region_of_one_pair():
    truth_HW = np.zeros((64, 64), np.uint8)
    pred_HW = truth_HW.copy()
    pred_HW[5:15, 8:20] = 1  # an object
    pred_HW[30, :] = 1  # a border drawn differently
    pred_HW[40:43, 3:6] = 2  # a speck
    truth_HW[50:60, 50:60] = 255  # ignored
    pred_HW[50:60, 50:60] = 1
    probs_CHW = np.full((3, 64, 64), 0.2, np.float32)
    np.put_along_axis(probs_CHW, pred_HW[None].astype(int), 0.6, axis=0)
    (patch,) = find_patches(probs_CHW, pred_HW, truth_HW)
    assert (patch.label, patch.suggested, patch.box, patch.px) == (0, 1, (5, 8, 10, 12), 120)
    assert (patch.p_label, patch.p_suggested) == pytest.approx((0.2, 0.6))


def test_habits_count_the_pixels_of_every_pair():
    rng = np.random.default_rng(3)
    probs_CHW = rng.dirichlet(np.ones(4), (40, 30)).transpose(2, 0, 1).astype(np.float32)
    pred_HW, truth_HW = probs_CHW.argmax(0).astype(np.uint8), rng.integers(0, 4, (40, 30)).astype(np.uint8)
    truth_HW[:7] = 255
    habits = habits_of(probs_CHW, pred_HW, truth_HW)
    pred_P, truth_P, probs_CP = (a[..., ::2, ::2].reshape(*a.shape[:-2], -1) for a in (pred_HW, truth_HW, probs_CHW))
    for j in range(4):
        for i in range(4):
            inside = (pred_P == j) & (truth_P == j)
            bins = np.bincount([probability_bin(p) for p in probs_CP[i, inside]], minlength=8)
            np.testing.assert_array_equal(habits.agree_CCB[j, i], bins)
            inside = (pred_P == j) & (truth_P == i) & (i != j)
            bins = np.bincount([probability_bin(p) for p in probs_CP[i, inside]], minlength=8)
            np.testing.assert_array_equal(habits.differ_CCB[j, i], bins)


def test_the_habits_of_many_large_tiles_are_counted_whole():
    """Each tile's counts fit in 32 bits; those of all do not."""
    one = Habits(np.full((1, 1, 8), 2**30, np.int32), np.full((1, 1, 8), 2**29 + 1, np.int32))
    many = summed([one] * 5)
    assert many.agree_CCB.tolist() == [[[5 * 2**30] * 8]]
    assert many.differ_CCB.tolist() == [[[5 * (2**29 + 1)] * 8]]


def test_suspicion_grows_with_the_margin_and_shrinks_with_habit():
    agree_CCB, differ_CCB = np.full((2, 2, 8), 1000), np.full((2, 2, 8), 100)
    differ_CCB[0, 1] = 10  # 1 is rarely called 0
    habits = Habits(agree_CCB, differ_CCB)
    patch = Patch(0, 1, (0, 0, 9, 9), 81, 9.0, 0.11, 0.8)
    surer = Patch(0, 1, (0, 0, 9, 9), 81, 9.0, 0.1, 0.9)
    rarer = Patch(1, 0, (0, 0, 9, 9), 81, 9.0, 0.11, 0.8)
    assert suspicion(patch, habits) < suspicion(surer, habits)
    assert suspicion(patch, habits) < suspicion(rarer, habits)
    table = suspects_table([("a", 0, patch, True), ("b", 1, surer, True)], habits, ["field", "bare"])
    assert table.name.tolist() == ["b", "a"]


def test_only_pixels_that_the_habits_counted_are_taken_off_them():
    """A patch in a tile that was added for its rare class is none of the tiles that the habits were drawn from."""
    differ_CCB = np.full((2, 2, 8), 10)
    large = Patch(0, 1, (0, 0, 20, 20), 400, 9.0, 0.11, 0.8)
    counted, added = (suspicion(large, Habits(np.full((2, 2, 8), 1000), differ_CCB), each) for each in (True, False))
    assert counted - added == pytest.approx(np.log((10 + 12) / (0 + 12)))
    table = suspects_table([("a", 0, large, False)], Habits(np.full((2, 2, 8), 1000), differ_CCB), ["field", "bare"])
    assert table.score.tolist() == pytest.approx([added])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_flips_lead_the_suspects(played, seed):
    """5 % of the objects are given another label: at least half of as many first suspects are these."""
    material = Material(played)
    source, num_classes = material.oof, len(material.classes)
    truth_NHW = np.stack([np.array(source.truth(i)) for i in range(len(source.names))])
    planted = plant_flips(truth_NHW, num_classes, 0.05, seed)
    habits, found = [], []
    for i, name in enumerate(source.names):
        blend = material.blend_of[int(source.fold_N[i])]
        probs_CHW, pred_HW = apply_blend(blend, source.probs(i, blend.models), source.evidence(i, []))
        habits.append(habits_of(probs_CHW, pred_HW, truth_NHW[i]))
        patches = find_patches(probs_CHW, pred_HW, truth_NHW[i])
        found += [(name, int(source.fold_N[i]), patch, True) for patch in patches]
    table = suspects_table(found, summed(habits), source.classes)
    assert len(planted) >= 10
    precision = planted_share(table.head(len(planted)), planted, source.names)
    assert precision >= 0.5


def test_suspects_are_written_and_a_wider_search_is_kept(played, page):
    path = played.dir / "suspects.csv"
    table, tiles = make_suspects(Material(played), everything=True)
    assert tiles == 54
    assert len(table) > 0
    assert table.score.is_monotonic_decreasing
    before = path.stat().st_mtime_ns
    again, _ = make_suspects(Material(played))
    assert path.stat().st_mtime_ns == before
    pd.testing.assert_frame_equal(again, pd.read_csv(path, dtype={"name": str}))


def test_names_of_tiles_and_classes_that_are_numbers_stay_texts(tmp_path, monkeypatch):
    """What was searched for before is read back as it was found: "02" is no 2."""
    habits = Habits(np.full((3, 3, 8), 1000), np.full((3, 3, 8), 10))
    patch = Patch(2, 1, (0, 3, 9, 8), 72, 8.0, 0.11, 0.8)
    monkeypatch.setattr(suspects, "suspects_of", lambda *_: suspects_table([("007", 1, patch, True)], habits, NUMBERS))
    material = SimpleNamespace(
        run=SimpleNamespace(dir=tmp_path, blend_keys={}),
        oof=SimpleNamespace(names=["007"]),
        look=SimpleNamespace(tiles=[None]),
        oof_inputs=dict,
    )
    found, _ = make_suspects(material)
    again, _ = make_suspects(material)
    named = ["name", "label", "suggested"]
    assert found[named].values.tolist() == again[named].values.tolist() == [["007", "03", "02"]]


# In a browser


@pytest.fixture(scope="module")
def browser():
    with open_browser() as opened:
        yield opened


@pytest.fixture
def opened(browser, played, page):
    """(page in a browser of a given width and theme, what it complained of)."""

    def of(width: int, theme: str = "light"):
        tab, complaints = open_tab(browser, width, theme, offline=True)
        tab.goto((played.dir / "report.html").as_uri())
        return tab, complaints

    yield of
    for context in browser.contexts:
        context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [380, 1400])
def test_the_page_fits_and_complains_of_nothing(opened, width, theme):
    tab, complaints = opened(width, theme)
    tab.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert not complaints


def test_all_pictures_load(opened):
    tab, _ = opened(1400)
    broken = tab.evaluate(
        """async () => {
            document.querySelectorAll('details').forEach(each => { each.open = true; });
            const all = [...document.images];
            all.forEach(each => { each.loading = 'eager'; });
            await Promise.all(all.map(each => each.decode().catch(() => {})));
            return all.filter(each => !each.naturalWidth).map(each => each.alt);
        }"""
    )
    assert not broken


def test_tables_sort_by_click_and_by_key(opened):
    tab, _ = opened(1400)
    tab.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    heads = tab.locator("#table-class-shares thead th")
    column = heads.all_inner_texts().index("pixels")

    def values() -> list[int]:
        cells = tab.locator(f"#table-class-shares tbody tr > :nth-child({column + 1})").all_inner_texts()
        return [int(cell.replace(",", "")) for cell in cells]

    unsorted = values()
    heads.nth(column).get_by_role("button").click()
    assert values() == sorted(unsorted, reverse=True)
    assert heads.nth(column).get_attribute("aria-sort") == "descending"
    tab.keyboard.press("Enter")
    assert values() == sorted(unsorted)
    assert heads.nth(column).get_attribute("aria-sort") == "ascending"


def test_the_page_has_an_outline_and_names_for_all_controls(opened):
    tab, _ = opened(1400)
    levels = tab.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(each => +each.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert tab.evaluate("document.documentElement.lang") == "en"
    assert tab.evaluate("[...document.querySelectorAll('table')].every(each => each.caption && each.tHead)")
    ids = tab.evaluate("[...document.querySelectorAll('[id]')].map(each => each.id)")
    assert len(ids) == len(set(ids))
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.innerText") == "Skip to the content"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(opened, theme):
    """Computed colours of every text against the page's background: 4.5 to 1 (WCAG 2.2, AA)."""
    tab, _ = opened(1400, theme)
    tab.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    colors, behind = text_colors(tab)
    assert len(colors) >= 3
    for color in colors:
        assert contrast(color, behind) >= 4.5, color
    assert behind == {"light": LIGHT, "dark": DARK}[theme]["surface"]


def test_paper_gets_everything_unfolded(opened):
    tab, _ = opened(1400)
    assert tab.locator("details:not([open])").count()
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert not tab.locator("details:not([open])").count()


def test_nothing_is_cut_off_on_paper(opened):
    """A4 with margins of 1 cm is 718 px wide."""
    tab, _ = opened(718)
    tab.emulate_media(media="print")
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 718


def test_paper_is_light_whatever_the_screen(opened):
    tab, _ = opened(1400, "dark")
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"  # what drawings go by
    colors, behind = text_colors(tab)
    assert behind == LIGHT["surface"]
    for color in colors:
        assert contrast(color, behind) >= 4.5, color
