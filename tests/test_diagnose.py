"""Diagnose: each planted fault is found and named, and a clean submission is blamed for nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from base.errors import UserError
from base.files import read_json, write_json
from config import Run, load_experiment, open_run
from config.data import IGNORE_INDEX
from ensemble.blend import make_submission
from ensemble.build import build_blend
from ensemble.stores import ProvenStores
from folds.assign import make_folds
from folds.classes import ClassTable
from folds.images import read_image, read_mask
from folds.metrics import confusion, mean_iou
from folds.tiles import make_tiles, read_tiles
from reports import causes
from reports.causes import CAUSES, Finding
from reports.diagnose import Predictions, diagnose, main, predictions_of, score_from_zip
from submissions import png
from submissions.receipt import read_receipt, receipt_path
from submissions.write import write_submission
from tests.corruptions import Zip
from tests.played_run import play, played_config
from tests.tiny import TINY_CLASSES, tiny_values, write_config, write_mask, write_tif

PX, SIDE = 48, 3


def write_scenes(root: Path, gain: float = 1.0) -> None:
    """Nine train and five test scenes of 3x3 tiles that continue across their borders; scenes.csv names them.

    Args:
        gain: of the test tiles' sensor.
    """
    rng = np.random.default_rng(0)
    rows, count = ["name,scene"], {"train": 0, "test": 0}
    for scene in range(14):
        split = "train" if scene < 9 else "test"
        shape = (PX * SIDE, PX * SIDE, 4)
        height = gaussian_filter(rng.normal(size=shape), (6, 6, 0)) * 18 + gaussian_filter(rng.normal(size=shape), 1)
        image = 90 + rng.normal(0, 4, 4) + 22 * height
        image = np.clip(image * (gain if split == "test" else 1), 1, 254).astype(np.uint8)
        mask = np.array([1, 2, 4], np.uint8)[np.digitize(height[:, :, 0], (-0.3, 0.9))]
        for row in range(SIDE):
            for col in range(SIDE):
                part = np.s_[row * PX : (row + 1) * PX, col * PX : (col + 1) * PX]
                name = f"{count[split]:06d}"
                count[split] += 1
                write_tif(root / split / f"{name}.tif", image[part])
                write_mask(root / split / f"{name}.png", mask[part])
                if split == "train":
                    rows.append(f"{name},scene{scene}")
    (root / "scenes.csv").write_text("\n".join(rows) + "\n")


KINDS = {"weights": "greedy", "calibration": "vector", "specialists": "none", "decision": "argmax"}


class World:
    """A run whose networks are played by masks with errors, so that no network is needed."""

    def __init__(self, folder: Path, gain: float = 1.0, *overrides: str) -> None:
        write_scenes(folder / "data", gain)
        config = write_config(folder / "config.yaml", tiny_values(folder / "data", folder))
        self.run = open_run(load_experiment(config, list(overrides)))
        self.tiles = make_tiles(self.run)
        make_folds(self.run)
        self.classes = ClassTable.of(self.run.experiment.data)
        self.folder = folder
        self.receipt = {}

    def labels(self, split: str):
        rng = np.random.default_rng(1)
        for name in self.tiles.name[self.tiles.split == split]:
            index_HW = self.classes.to_index(read_mask(self.folder / "data" / split / f"{name}.png"))
            wrong = rng.random(index_HW.shape) < 0.1
            yield name, np.where(wrong, 0, index_HW).astype(np.uint8)

    def predictions(self) -> Predictions:
        """What clean stores would say."""
        train = self.tiles[self.tiles.split == "train"].set_index("name")["mask"]
        conf_CC = sum(
            confusion(index_HW, self.classes.to_index(read_mask(self.folder / "data" / train[name])), 3)
            for name, index_HW in self.labels("train")
        )
        members = {"unet": {"fold0-seed0": 0.61, "fold1-seed0": 0.55, "fold2-seed0": 0.58}}
        miou = mean_iou(conf_CC)
        self.receipt.setdefault("honest_miou", miou - 0.003)
        return Predictions([], lambda: self.labels("train"), miou, members, {"unet": 0.84}, {"unet": 0.82}, KINDS)

    def findings(self, predictions: Predictions | None = None) -> list[Finding]:
        predictions = predictions or self.predictions()
        path = write_submission(self.run, self.tiles, self.labels("test"), self.receipt)
        return [finding for found in diagnose(self.run, path, predictions).values() for finding in found or []]


def named(findings: list[Finding]) -> list[str]:
    return sorted({finding.cause for finding in findings})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("clean"))


def test_a_clean_submission_is_blamed_for_nothing(world):
    findings = world.findings()
    assert findings == []
    assert "no cause found" in causes.verdict(findings)


def test_folds_that_cut_scenes_apart(tmp_path):
    findings = World(tmp_path, 1.0, "folds.groups=none").findings()
    assert named(findings) == ["leak"]
    assert "leak: folds leak" in causes.verdict(findings)


def test_test_tiles_of_another_sensor(tmp_path):
    """Bands are moved by what the audit measures: the distance of the means in stds of all train pixels."""
    findings = World(tmp_path, 1.4).findings()
    assert named(findings) == ["shift"]
    train_PB, test_PB = (
        np.concatenate([read_image(path).reshape(-1, 4) for path in (tmp_path / "data" / split).glob("*.tif")])
        for split in ("train", "test")
    )
    shift_B = (test_PB.mean(0) - train_PB.mean(0)) / train_PB.std(0)
    said = findings[0].what.split("band means moved, in standard deviations of train: ")[1].split(", ")
    expected = [f"{band} {shift:+.2f}" for band, shift in zip(("red", "green", "blue", "nir"), shift_B, strict=True)]
    assert sorted(said) == sorted(expected)
    assert len(set(expected)) == 4
    assert "predict.adapt=true blend.name=adapt" in findings[0].advice


@pytest.mark.parametrize(
    "spoil",
    [
        lambda encode: lambda label_HW: encode(np.where(label_HW == 2, 4, label_HW).astype(np.uint8)),
        lambda encode: lambda label_HW: encode(np.ascontiguousarray(label_HW.T)),
        lambda encode: lambda label_HW: encode(np.roll(label_HW, 1, axis=1)),
    ],
    ids=["a label too many", "transposed", "a pixel aside"],
)
def test_a_writer_that_changes_labels(world, monkeypatch, spoil):
    predictions = world.predictions()
    monkeypatch.setattr(png, "encode", spoil(png.encode))
    findings = world.findings(predictions)
    assert "labels" in named(findings)
    assert causes.verdict(findings).startswith("likeliest cause: labels")


def test_a_zip_that_lost_a_tile(world):
    path = write_submission(world.run, world.tiles, world.labels("test"), {"honest_miou": 0.9})
    from submissions.layout import Layout

    layout = Layout.of(world.run.experiment, world.tiles)
    spoiled = Zip(layout, {name: world.classes.to_label(index_HW) for name, index_HW in world.labels("test")})
    del spoiled.entries[0]
    spoiled.write(path)
    findings = [f for found in diagnose(world.run, path, world.predictions()).values() for f in found]
    assert causes.verdict(findings).startswith("likeliest cause: zip")


def test_a_blend_that_flatters_itself(world):
    predictions = world.predictions()
    world.receipt = {"honest_miou": predictions.oof_miou - 0.04}
    findings = world.findings(predictions)
    world.receipt = {}
    assert named(findings) == ["in_sample"]


def test_a_member_that_learned_nothing(world):
    members = {"unet": {"fold0-seed0": 0.61, "fold1-seed0": 0.12, "fold2-seed0": 0.58}}
    findings = world.findings(replace(world.predictions(), miou_of=members))
    assert named(findings) == ["weak_member"]
    assert "fold1-seed0" in findings[0].what


def test_fold_means_that_are_less_sure(world):
    findings = world.findings(replace(world.predictions(), sure_test={"unet": 0.6}))
    assert named(findings) == ["fold_mean"]
    assert findings[0].what.endswith("fitted on the first: calibration vector")


@pytest.mark.parametrize("step", ["temperatures", "calibration", "specialists", "decision"])
def test_fold_means_are_blamed_only_where_a_fit_went_by_how_sure_members_are(step):
    sure = {"unet": 0.84, "fpn": 0.71}, {"unet": 0.6, "fpn": 0.7}
    plain = {"weights": "greedy", "temperatures": "none", "calibration": "none", "specialists": "none",
             "decision": "argmax", "postprocess": "clean"}  # fmt: skip
    assert causes.fold_mean(*sure, plain) == []
    (finding,) = causes.fold_mean(*sure, plain | {step: "fitted"})
    assert finding.what.startswith("unet:")
    assert f"{step} fitted" in finding.what


def test_a_run_that_went_on_after_the_zip(world):
    findings = world.findings(replace(world.predictions(), changed=["weights.unet 0.4 -> 0.6"]))
    assert named(findings) == ["stale"]


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A run of real stores, blend and zip, in which the members are played."""
    config = played_config(tmp_path_factory.mktemp("played"))
    run = play(config)
    stores = ProvenStores(run)
    make_submission(stores, build_blend(stores))
    return config, run


def test_the_round_trip_of_a_real_blend_is_exact(played, tmp_path, capsys):
    config, run = played
    main([str(run.zip_path), "--config", str(config), "--json", str(tmp_path / "figures.json")])
    printed = capsys.readouterr().out
    assert "yes  OOF labels survive the way into a zip" in printed
    assert "yes  the run is still what the zip was made from" in printed
    assert read_json(tmp_path / "figures.json")["cause"] not in ("zip", "stale", "labels")


def test_advice_stands_under_what_it_is_against(played, monkeypatch, capsys):
    config, run = played
    found = {"copies": [Finding("leak", "3 of 7")], "like train": [Finding("shift", "AUC 0.97", "run this")]}
    monkeypatch.setattr("reports.diagnose.diagnose", lambda *given: found)
    main([str(run.zip_path), "--config", str(config)])
    printed = capsys.readouterr().out
    assert "     AUC 0.97\n     try: run this\n" in printed
    assert printed.count("try:") == 1


def test_the_round_trip_knows_the_values_of_the_zip(played):
    config, run = played
    tiles, classes = read_tiles(run.tiles_csv), ClassTable.of(run.experiment.data)
    values = [(3 * c + 5) % 250 for c in range(len(classes))]
    other = Run(load_experiment(config, [f"submission.labels={values}"]))
    train = tiles[tiles.split == "train"]
    masks = (
        (row.name, classes.read_index(Path(run.experiment.data.root) / row.mask))
        for row in train.itertuples(index=False)
    )
    labels = ((name, np.where(index_HW == IGNORE_INDEX, 0, index_HW)) for name, index_HW in masks)
    assert score_from_zip(other, tiles, labels) == 1


def test_another_blend_than_the_zips_is_noticed(played):
    _, run = played
    receipt = read_receipt(run.zip_path)
    offset = receipt["fitted"]["offset_C"]
    fitted = receipt["fitted"] | {"offset_C": [offset[0] + 0.2, *offset[1:]]}
    write_json(receipt_path(run.zip_path), receipt | {"fitted": fitted})
    changed = predictions_of(run, run.zip_path).changed
    write_json(receipt_path(run.zip_path), receipt)
    assert len(changed) == 1
    assert changed[0].startswith("OOF mIoU ")
    del receipt["fitted"]
    write_json(receipt_path(run.zip_path), receipt)
    with pytest.raises(UserError, match="no blend in its receipt"):
        predictions_of(run, run.zip_path)


def test_every_cause_has_its_planted_fault():
    """The list of causes, the tests above and the page grow together."""
    page = Path("docs/submissions.md").read_text()
    assert [cause for cause in CAUSES if f"| {cause} |" not in page] == []
    assert set(CAUSES) == {"zip", "labels", "leak", "stale", "in_sample", "weak_member", "shift", "fold_mean"}


def test_the_verdict_names_facts_before_statistics():
    found = [Finding("shift", "a"), Finding("leak", "b"), Finding("fold_mean", "c")]
    assert causes.verdict(found).startswith("likeliest cause: leak")


def test_scenes_that_merely_differ_are_no_shift():
    """Every scene has statistics of its own: a classifier that may look at scenes it knows would always say shift."""
    rng = np.random.default_rng(0)
    group_N = np.repeat(np.arange(20), 9)
    is_test_N = group_N >= 14
    moved_by_band = pd.Series({"g": -0.49, "n": 0.51, "r": -2.25, "dead": np.nan})
    alarms = 0
    for _ in range(8):
        feature_NF = rng.normal(0, 1, (20, 8))[group_N] + rng.normal(0, 0.1, (180, 8))
        alarms += bool(causes.shift(feature_NF, is_test_N, group_N, moved_by_band, adapts=False))
    assert alarms <= 2
    feature_NF[is_test_N, 0] += 4
    assert causes.domain_auc(feature_NF, is_test_N, group_N) > 0.9
    (finding,) = causes.shift(feature_NF, is_test_N, group_N, moved_by_band, adapts=False)
    assert finding.what.endswith("standard deviations of train: r -2.25, n +0.51")
    assert "predict.adapt=true" in finding.advice
    (again,) = causes.shift(feature_NF, is_test_N, group_N, moved_by_band, adapts=True)
    assert (again.what, again.advice) == (finding.what, "")


assert TINY_CLASSES[2]["label"] == 4  # the masks above are drawn with these labels
