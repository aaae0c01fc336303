"""Compare: every changed pixel is counted once, and the expected change holds where its assumption holds."""

import numpy as np
import pytest
from PIL import Image

from config import load_experiment, open_run
from folds.classes import ClassTable
from folds.metrics import confusion, mean_iou
from folds.tiles import make_tiles
from submissions.compare import compare, expected_change, main
from submissions.pictures import to_rgb
from submissions.write import write_submission
from tests.tiny import draw_mask, tiny_values, write_config, write_tiny

CLASSES = ClassTable((1, 2, 4), ("field", "forest", "bare"), ((9, 9, 9), (0, 128, 0), (128, 64, 0)))


def draw_all(seed=0, tiles=9):
    rng = np.random.default_rng(seed)
    return [(f"{i:06d}", draw_mask(rng, 32, [0, 1, 2])) for i in range(tiles)]


def test_a_submission_equals_itself():
    comparison = compare(draw_all(), draw_all(), 3)
    assert comparison.changed_share == 0
    assert comparison.examples == []
    assert comparison.pairs_CC.sum() == np.trace(comparison.pairs_CC) == 9 * 32 * 32


def test_every_changed_pixel_is_counted_in_its_pair_and_tile():
    b = [(name, index_HW.copy()) for name, index_HW in draw_all()]
    b[4][1][b[4][1] == 1] = 2
    b[7][1][3, 5:9] = 0
    comparison = compare(draw_all(), b, 3)
    back = compare(b, draw_all(), 3)
    assert np.array_equal(comparison.pairs_CC, back.pairs_CC.T)
    a = dict(draw_all())
    forest, bare = (a["000004"] == 1).sum(), (a["000007"][3, 5:9] == 2).sum()
    assert comparison.pairs_CC[1, 2] == forest
    assert comparison.pairs_CC[2, 0] == bare
    assert comparison.changed["000004"] == forest / 1024
    assert comparison.changed.index[0] == "000004"
    assert (comparison.changed > 0).sum() == len(comparison.examples) <= 2


def test_the_examples_are_the_most_changed_tiles():
    b = [(name, np.where(np.arange(32) < 3 * int(name), (index_HW + 1) % 3, index_HW).astype(np.uint8))
         for name, index_HW in draw_all()]  # fmt: skip
    comparison = compare(draw_all(), b, 3)
    assert [name for name, _, _ in comparison.examples] == comparison.changed.index[:6].tolist()


def test_tiles_out_of_step_are_a_bug():
    with pytest.raises(ValueError, match="out of step"):
        compare(draw_all(), draw_all()[::-1], 3)


def channel(rng, truth, right):
    """Predictions that are `right[t]` of the time the truth t, else another class."""
    wrong = (truth + rng.integers(1, 4, truth.shape)) % 4
    return np.where(rng.random(truth.shape) < right[truth], truth, wrong)


@pytest.mark.parametrize("seed", range(4))
def test_the_expected_change_is_the_real_one_where_errors_are_independent(seed):
    rng = np.random.default_rng(seed)
    right_a, right_b = rng.uniform(0.6, 0.95, (2, 4))
    shares = [0.6, 0.25, 0.1, 0.05]
    truth, test_truth = rng.choice(4, (2, 400_000), p=shares)
    conf_a, conf_b = (confusion(channel(rng, truth, right), truth, 4) for right in (right_a, right_b))
    a, b = (channel(rng, test_truth, right) for right in (right_a, right_b))
    if_a, expected, if_b = expected_change(confusion(b, a, 4), conf_a, conf_b)
    real = mean_iou(confusion(b, test_truth, 4)) - mean_iou(confusion(a, test_truth, 4))
    assert expected == pytest.approx(real, abs=0.01)
    assert if_a < expected < if_b


def test_no_change_is_expected_from_no_change_and_signs_turn_with_the_order():
    rng = np.random.default_rng(0)
    conf = np.diag([500.0, 300, 90]) + rng.integers(1, 40, (3, 3))
    same = np.diag([70, 20, 10])
    assert expected_change(same, conf, conf) == (0, 0, 0)
    pairs = same + np.array([[0, 5, 1], [2, 0, 3], [4, 0, 0]])
    there, back = expected_change(pairs, conf, conf * 1.0), expected_change(pairs.T, conf, conf)
    assert there == pytest.approx([-back[2], -back[1], -back[0]])


def test_classes_that_no_confusion_knows_make_no_nan():
    conf = np.diag([50.0, 30, 0])
    pairs = np.array([[40, 5, 2], [1, 20, 0], [3, 1, 6]])
    assert np.isfinite(expected_change(pairs, conf, conf)).all()


@pytest.mark.parametrize(
    ("bands", "expected"),
    [(["blue", "green", "red"], [2, 1, 0]), (["a", "b", "c", "d"], [0, 1, 2]), (["pan"], [0, 0, 0])],
)
def test_pictures_show_red_as_red(bands, expected):
    image_HWB = np.random.default_rng(0).integers(0, 250, (9, 7, len(bands))).astype(np.uint16)
    assert np.array_equal(to_rgb(image_HWB, bands), to_rgb(image_HWB[:, :, expected], ["red", "green", "blue"]))
    assert np.ptp(to_rgb(image_HWB, bands)) == 255


def test_the_command_compares_zips_of_different_formats_and_labels(tmp_path, capsys):
    values = tiny_values(write_tiny(tmp_path / "data", test=9), tmp_path)
    config = write_config(tmp_path / "c.yaml", values)
    conf = (np.diag([900, 700, 500]) + 40).tolist()
    for name, keys, seed in (
        ("a", {"format": "png"}, 0),
        ("b", {"format": "rle", "labels": [7, 3, 9]}, 1),
        ("c", {"format": "png", "folder": "deep/down", "labels": [0, 1, 2]}, 0),
    ):
        overrides = [f"submission.{key}={value}" for key, value in keys.items()]
        run = open_run(load_experiment(config, [f"blend.name={name}", *overrides]))
        about = {"honest_confusion": conf, "experiment": run.experiment.dump()}
        write_submission(run, make_tiles(run), draw_all(seed), about)
    zips = [str(tmp_path / "zips" / f"tiny.{name}.zip") for name in "ab"]
    main([*zips, "--config", str(config), "--json", str(tmp_path / "figures.json")])
    printed = capsys.readouterr().out
    assert "expected change in mIoU: " in printed
    assert "most changed tiles: " in printed
    with Image.open(tmp_path / "zips" / "tiny.a-to-tiny.b.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20
    main([zips[0], str(tmp_path / "zips" / "tiny.c.zip"), "--config", str(config)])
    assert "0.000% of the pixels changed" in capsys.readouterr().out
