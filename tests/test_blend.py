"""The blend of a run: fitted, scored, kept, shown, handed in, made again, compared."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from base.errors import UserError
from base.files import hash_file, read_json, write_json
from base.stamps import folder_stamp
from config import Run, load_experiment
from config.data import OOF_COLUMNS
from config.ensemble import PLAIN_MEAN
from ensemble import blend as blend_command
from ensemble import compare as compare_command
from ensemble import oof as oof_command
from ensemble.apply import apply_blend, labels_of
from ensemble.blend import gain_of_fold_means, make_again
from ensemble.build import build_blend, candidate_table, read_blend, refuse_outdated
from ensemble.compare import compare
from ensemble.oof import oof_table
from ensemble.show import show_blend, show_models
from ensemble.stores import ProvenStores
from folds.metrics import confusion, iou_per_class, mean_iou
from pipeline.store import MANIFEST, Store, open_store, write_store
from tests.played_run import play, played_config
from tests.stored import read_many

PLAIN = [f"blend.{step}={kind}" for step, kind in PLAIN_MEAN.items()]


@pytest.fixture(scope="module")
def played(tmp_path_factory) -> Path:
    """The config of a run whose members are played, with two blends: `blend`, and `plain`."""
    config = played_config(tmp_path_factory.mktemp("blend"))
    values = yaml.safe_load(config.read_text()) | {"blend": {"sample_pixels": 30_000}}
    values["models"] = [{"name": "one"}, {"name": "two", "encoder": "resnet34"}, {"name": "roads", "target": "road"}]
    config.write_text(yaml.safe_dump(values, sort_keys=False))
    play(config)
    blend_command.main(["--config", str(config)])
    blend_command.main(["--config", str(config), "--name", "plain", *PLAIN])
    return config


def run_of(config: Path, *overrides: str) -> Run:
    return Run(load_experiment(config, list(overrides)))


def receipt_of(config: Path, name: str = "played") -> Path:
    return Path(load_experiment(config).zips_dir) / f"{name}.receipt.json"


def test_the_table_has_a_row_per_member_model_and_step(played):
    run = run_of(played)
    build_blend(ProvenStores(run))
    oof_command.main(["--config", str(played)])
    table = oof_table(run.dir)
    (special,) = table[table.kind == "specialist"].to_dict("records")
    assert special["name"] == "roads"
    assert special["road"] > 0.2
    assert pd.isna([special["miou"], special["forest"]]).all()
    members = table[table.kind == "member"]
    assert len(members) == 6
    assert members.groupby("name").tiles.sum().tolist() == [54, 54]
    assert set(table[table.kind == "model"].name) == {"one", "two"}
    steps = table[table.kind == "step"].name.tolist()
    assert steps[0] == "blend: uniform"
    assert steps[-1] == "blend: postprocess"
    assert tuple(table.columns) == (*OOF_COLUMNS, *ProvenStores(run).oof.classes)
    whole = table.iloc[-1]
    assert whole.kind == "blend"
    assert pd.isna(whole.fold)
    assert whole.miou == read_blend(run).row.miou
    scored = table[table.kind.isin(["member", "model", "blend"])]
    assert (scored.miou_low <= scored.miou).all()
    assert (scored.miou <= scored.miou_high).all()


def test_the_blend_is_scored_on_the_tiles_of_each_fold(played):
    """Labelled by the blend that never saw the fold: the tiles of the members of that fold, to the pixel."""
    run = run_of(played)
    oof_command.main(["--config", str(played)])
    table, built, source = oof_table(run.dir), read_blend(run), ProvenStores(run).oof
    members = table[(table.kind == "member") & (table.name == "one")].set_index("fold")
    rows = table[(table.kind == "blend") & table.fold.notna()].set_index("fold")
    assert rows.index.tolist() == [0, 1, 2]
    for fold, row in rows.iterrows():
        assert row.tiles == members.tiles[fold]
        conf_CC = np.zeros((10, 10), np.int64)
        fitted = built.blend_of[fold]
        for i in np.flatnonzero(source.fold_N == fold):
            evidence = source.evidence(i, [specialist.name for specialist in fitted.specialists])
            conf_CC += confusion(apply_blend(fitted, source.probs(i, fitted.models), evidence)[1], source.truth(i), 10)
        assert row.miou == pytest.approx(mean_iou(conf_CC))
        assert row[list(source.classes)].to_numpy(float) == pytest.approx(iou_per_class(conf_CC), nan_ok=True)


def test_other_weights_and_views_stand_beside(played, capsys):
    """Members that predicted without views, too: a row each, of their own stores; the blend does not change."""
    run, plain = run_of(played), run_of(played, "predict.tta=none")
    oof_command.main(["--config", str(played)])
    before = oof_table(run.dir)
    assert not (before.kind == "variant").any()
    for member in run.members():
        shutil.copytree(run.oof_store(member), plain.oof_store(member))
        manifest = plain.oof_store(member) / "manifest.json"
        write_json(manifest, read_json(manifest) | {"variant": plain.variant})
        if member == next(run.members()):
            oof_command.main(["--config", str(played)])  # not all have predicted: not said yet
            assert not (oof_table(run.dir).kind == "variant").any()
    capsys.readouterr()
    oof_command.main(["--config", str(played)])
    table = oof_table(run.dir)
    variants = table[table.kind == "variant"]
    members = table[table.kind.isin(["member", "model", "specialist member", "specialist"])]
    assert set(variants.tta) == {"none"}
    assert set(members.tta) == {"flips"}
    what = ["name", "fold", "seed", "weights", "tiles", "miou", "road"]
    pd.testing.assert_frame_equal(variants[what].reset_index(drop=True), members[what].reset_index(drop=True))
    pd.testing.assert_frame_equal(table[table.kind != "variant"].reset_index(drop=True), before)
    assert "Weights and views" in capsys.readouterr().out
    # Of other weights than the members have now, they are no part of the table, and stop nothing.
    manifest = plain.oof_store(next(run.members())) / "manifest.json"
    whole = read_json(manifest)
    write_json(manifest, whole | {"weights_sha256": "0" * 64})
    oof_command.main(["--config", str(played)])
    assert not (oof_table(run.dir).kind == "variant").any()
    assert "predictions with last-none are left out of the table: run" in capsys.readouterr().err
    write_json(manifest, whole)
    # Nor do test predictions that they left, of another test set than there is now.
    for model in run.experiment.models:
        shutil.copytree(run.test_store(model), plain.test_store(model))
    oof_command.main(["--config", str(played)])
    assert (oof_table(run.dir).kind == "variant").any()
    for member in run.members():
        shutil.rmtree(plain.oof_store(member))
    for model in run.experiment.models:
        shutil.rmtree(plain.test_store(model))
    oof_command.main(["--config", str(played)])
    pd.testing.assert_frame_equal(oof_table(run.dir), before)


def test_the_uniform_step_is_the_mean_of_all_probabilities(played):
    run = run_of(played)
    source = ProvenStores(run).oof
    conf_CC = np.zeros((10, 10), np.int64)
    for i in range(len(source.names)):
        mean_CHW = source.probs(i, source.models).astype(float).sum(0)
        conf_CC += confusion(mean_CHW.argmax(0), source.truth(i), 10)
    steps = read_blend(run).steps.set_index("step")
    assert steps.miou["uniform"] == pytest.approx(mean_iou(conf_CC), abs=2e-3)  # ties go by name, not by position
    assert steps.miou["uniform"] == steps.miou_in_sample["uniform"]


def test_the_honest_score_can_be_had_from_what_lies_on_disk(played):
    run = run_of(played)
    built, source = read_blend(run), ProvenStores(run).oof
    conf_CC = np.zeros((10, 10), np.int64)
    for i in range(len(source.names)):
        fitted = built.blend_of[int(source.fold_N[i])]
        evidence = source.evidence(i, [specialist.name for specialist in fitted.specialists])
        conf_CC += confusion(apply_blend(fitted, source.probs(i, fitted.models), evidence)[1], source.truth(i), 10)
    assert (built.honest_conf_CC == conf_CC).all()
    assert built.row.miou == pytest.approx(mean_iou(conf_CC))
    receipt = read_json(receipt_of(played))
    assert receipt["honest_miou"] == pytest.approx(mean_iou(conf_CC))
    assert receipt["honest_confusion"] == conf_CC.tolist()


def test_nothing_is_fitted_twice(played, capsys):
    run = run_of(played)
    files = [*run.blend_dir.iterdir(), run.oof_csv, run.zip_path]
    before = {path: path.stat().st_mtime_ns for path in files}
    blend_command.main(["--config", str(played)])
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_one_command_proves_each_member_once(played, tmp_path, monkeypatch):
    """From the fit to the zip: each member's weights are hashed once, each store is opened to prove it and to read."""
    run = run_of(played, f"runs_dir={tmp_path}")
    shutil.copytree(run_of(played).dir, run.dir)
    hashed, opened = Counter(), Counter()

    def hash_and_count(path: Path) -> str:
        hashed[path] += path.suffix == ".safetensors"
        return hash_file(path)

    def open_and_count(path: Path) -> Store:
        opened[path] += 1
        return open_store(path)

    monkeypatch.setattr("pipeline.check.hash_file", hash_and_count)
    for module in ("pipeline.check", "ensemble.stores"):
        monkeypatch.setattr(f"{module}.open_store", open_and_count)
    blend_command.main(
        ["--config", str(played), "--name", "counted", f"runs_dir={tmp_path}", f"zips_dir={tmp_path}", *PLAIN]
    )
    weights = [run.member_dir(member) / "weights" / "last.safetensors" for member in run.members()]
    assert +hashed == Counter(weights)
    stores = [run.oof_store(member) for member in run.members()]
    stores += [run.test_store(model) for model in run.experiment.models]
    assert opened == Counter(stores * 2)


@pytest.mark.parametrize("spoil", [lambda data: data[:500], lambda data: b"another zip altogether"])
def test_a_zip_that_is_not_what_was_written_is_written_again(played, spoil):
    path = run_of(played).zip_path
    before = path.read_bytes()
    path.write_bytes(spoil(before))
    blend_command.main(["--config", str(played)])
    assert path.read_bytes() == before


def test_a_receipt_that_was_lost_is_written_again(played):
    run, path = run_of(played), receipt_of(played)
    before, zipped = read_json(path), hash_file(run.zip_path)
    path.unlink()
    blend_command.main(["--config", str(played)])
    assert {**read_json(path), "created": before["created"]} == before
    assert hash_file(run.zip_path) == zipped


def test_what_changes_no_probability_fits_no_blend_anew(played):
    run = run_of(played, "predict.batch=3")
    before = (run.blend_dir / "blend.json").stat().st_mtime_ns, run.zip_path.stat().st_mtime_ns
    blend_command.main(["--config", str(played), "predict.batch=3"])
    assert ((run.blend_dir / "blend.json").stat().st_mtime_ns, run.zip_path.stat().st_mtime_ns) == before


def test_members_without_a_held_out_fold_that_came_later_are_counted(played, tmp_path):
    run = run_of(played, f"runs_dir={tmp_path}", "models.one.folds=each+all")
    shutil.copytree(run_of(played).dir, run.dir)
    models = build_blend(ProvenStores(run)).models.set_index("model")
    assert models.loc["one", ["members", "on_all_tiles"]].tolist() == [4, 1]
    assert models.loc["two", ["members", "on_all_tiles"]].tolist() == [3, 0]


@pytest.mark.parametrize("key", ["blend.weights=greedy", "blend.decision=bias"])
def test_a_blend_labels_nothing_by_keys_that_it_was_not_fitted_with(played, key):
    refuse_outdated(run_of(played, "predict.tta=none", "submission.format=rle"))
    with pytest.raises(UserError, match=rf"fit it anew .*{key.split('=')[0]}"):
        refuse_outdated(run_of(played, key))


@pytest.mark.parametrize("name", ["2", "no", "1e3"])
def test_a_blend_may_be_called_like_a_number(played, name, tmp_path):
    blend_command.main(["--config", str(played), "--name", name, f"zips_dir={tmp_path}", *PLAIN])
    assert (tmp_path / f"played.{name}.zip").exists()
    shutil.rmtree(run_of(played).blend_dir.parent / name)


def test_models_may_be_called_by_numbers(tmp_path, capsys):
    config = played_config(tmp_path)
    values = yaml.safe_load(config.read_text()) | {"blend": {"sample_pixels": 10_000}}
    values["models"] = [{"name": "018"}, {"name": "34", "encoder": "resnet34"}]
    config.write_text(yaml.safe_dump(values, sort_keys=False))
    play(config)
    blend_command.main(["--config", str(config), *PLAIN])
    run = run_of(config)
    assert read_blend(run).models.model.tolist() == ["018", "34"]
    assert set(oof_table(run.dir).query("kind == 'model'").name) == {"018", "34"}
    assert read_blend(run).errors.index.tolist() == ["018", "34"]
    assert " 018 " in capsys.readouterr().out


def test_test_stores_that_list_tiles_in_other_orders_are_refused(played, tmp_path):
    run = run_of(played, f"runs_dir={tmp_path}")
    shutil.copytree(run_of(played).dir, run.dir)
    path = run.test_store(run.experiment.model("two"))
    whole = open_store(path)
    backwards = [whole.read(i)[None] for i in reversed(range(len(whole)))]
    names = whole.names[::-1]
    dtype = whole.manifest["dtype"]
    shutil.rmtree(path)
    with write_store(path, names, whole.classes, *whole.size_px, dict(whole.manifest), dtype) as writer:
        for probs in backwards:
            writer.append(probs)
    with pytest.raises(UserError, match=r"two-.* in another order"):
        _ = ProvenStores(run).unseen


def test_a_model_or_seed_that_was_taken_out_is_in_no_blend(played, tmp_path):
    """The same run and the same keys of the blend; nothing is new, only less."""
    values = yaml.safe_load(played.read_text()) | {"runs_dir": str(tmp_path / "runs"), "zips_dir": str(tmp_path)}
    shutil.copytree(run_of(played).dir, tmp_path / "runs" / "played")
    values["models"] = [model for model in values["models"] if model["name"] != "two"]
    fewer = tmp_path / "fewer.yaml"
    fewer.write_text(yaml.safe_dump(values))
    run = run_of(fewer)
    assert "two" in read_blend(run).blend.models
    blend_command.main(["--config", str(fewer)])
    assert read_blend(run).blend.models == ("one",)
    assert set(oof_table(run.dir).query("kind == 'model'").name) == {"one"}
    assert set(read_json(receipt_of(fewer))["weights"]) == {"one"}


def test_a_blend_labels_nothing_once_its_members_have_other_weights(played, tmp_path):
    run = run_of(played, f"runs_dir={tmp_path}")
    shutil.copytree(run_of(played).dir, run.dir)
    refuse_outdated(run)
    first = next(run.members())
    shutil.rmtree(run.oof_store(first))  # labels need it no more
    refuse_outdated(run)
    stamp = folder_stamp(run.member_dir(first))
    values = read_json(stamp)
    write_json(stamp, values | {"outputs": values["outputs"] | {"last.safetensors": "0" * 64}})
    with pytest.raises(UserError, match=r"fit it anew \(python -m ensemble.blend.*one/fold0-seed0 weights has other"):
        refuse_outdated(run)


def test_a_blend_fitted_again_is_the_same_to_the_byte(played):
    run = run_of(played)
    before = hash_file(run.blend_dir / "blend.json")
    shutil.rmtree(run.blend_dir)
    build_blend(ProvenStores(run))
    assert hash_file(run.blend_dir / "blend.json") == before


def test_a_blend_of_another_version_is_not_read_but_fitted_again(played):
    run = run_of(played)
    path = run.blend_dir / "blend.json"
    now, stamp = read_json(path), read_json(run.blend_dir / "stamp.json")
    write_json(path, now | {"format": 1})
    with pytest.raises(UserError, match="another version"):
        read_blend(run)
    stamp["keys"]["format"] = 1
    write_json(run.blend_dir / "stamp.json", stamp)
    assert build_blend(ProvenStores(run)).blend == read_blend(run).blend
    assert read_json(path) == now


def test_two_blends_stand_side_by_side(played):
    zips = receipt_of(played).parent
    assert (zips / "played.zip").exists()
    assert (zips / "played.plain.zip").exists()
    plain = read_json(receipt_of(played, "played.plain"))
    assert plain["decision"] == "argmax"
    assert plain["weights"] == {"one": 0.5, "two": 0.5}
    assert plain["honest_miou"] == pytest.approx(plain["oof_miou"])
    assert read_json(receipt_of(played))["honest_miou"] >= plain["honest_miou"]


@pytest.mark.parametrize("name", ["played", "played.plain"])
def test_a_receipt_gives_the_same_bytes_again(played, name, capsys):
    receipt = receipt_of(played, name)
    path = receipt.with_name(f"{name}.zip")
    before = hash_file(path)
    path.unlink()
    blend_command.main(["--config", str(played), "--from", str(receipt)])  # the blend's keys are in the receipt
    assert hash_file(path) == before


def test_test_labels_are_no_part_of_a_zip(played, tmp_path, capsys):
    """They may come later, or go; and one that cannot be scored is said, with the zip as it was."""
    make_again(load_experiment(played, ["data.test_masks=null"]), receipt_of(played))
    older = read_json(receipt_of(played))
    older["experiment"]["data"]["test_masks"] = "truth/{name}.png"  # as receipts had it
    path = receipt_of(played).with_name("older.receipt.json")
    write_json(path, older)
    make_again(load_experiment(played), path)
    path.unlink()
    capsys.readouterr()
    blend_command.main(["--config", str(played), "--name", "plain", *PLAIN, "data.test_masks='nowhere/{name}.png'"])
    said = capsys.readouterr()
    assert "not scored by data.test_masks: " in said.err
    assert "have no mask nowhere/{name}.png" in said.err
    assert "zip: " in said.out


def test_a_receipt_says_what_has_changed(played, tmp_path):
    receipt = read_json(receipt_of(played))
    receipt["stores_sha256"]["one"] = "0" * 64
    receipt["folds_sha256"] = "1" * 64
    write_json(tmp_path / "old.receipt.json", receipt)
    with pytest.raises(UserError, match=r"folds_sha256 1111.*stores_sha256.one 0000"):
        make_again(load_experiment(played), tmp_path / "old.receipt.json")
    with pytest.raises(UserError, match=r"changed: experiment\.submission\.folder results -> elsewhere$"):
        make_again(load_experiment(played, ["submission.folder=elsewhere"]), receipt_of(played))


def test_a_receipt_of_another_run_says_whose_it_is(played):
    with pytest.raises(
        UserError, match=r"receipt is of run 'played', the experiment is 'other': give --config .*played"
    ):
        make_again(load_experiment(played, ["name=other"]), receipt_of(played))


def test_another_rule_gives_other_bytes_and_they_are_not_kept(played, tmp_path):
    receipt = read_json(receipt_of(played))
    receipt["fitted"]["gain_C"][0] *= 3
    write_json(tmp_path / "bent.receipt.json", receipt)
    with pytest.raises(UserError, match="other bytes came out"):
        make_again(load_experiment(played), tmp_path / "bent.receipt.json")
    assert not (tmp_path / "played.zip").exists()


def test_test_labels_are_those_of_the_fitted_blend(played):
    run = run_of(played)
    fitted, source = read_blend(run).blend, ProvenStores(run).unseen
    labels = dict(labels_of(fitted, source))
    assert list(labels) == source.names
    i = len(source.names) // 2
    evidence = source.evidence(i, [specialist.name for specialist in fitted.specialists])
    assert (labels[source.names[i]] == apply_blend(fitted, source.probs(i, fitted.models), evidence)[1]).all()


def test_the_mean_over_folds_is_asked_of_what_its_members_left(played):
    """Members that all say what their mean says gain nothing by it, where the rule is not fitted either."""
    run, plain = run_of(played), run_of(played, "blend.name=plain", *PLAIN)
    assert read_json(receipt_of(played))["fold_mean_gain"] is None  # nothing was left
    for model in run.experiment.models:
        mean = open_store(run.test_store(model))
        for member in run.members(model):
            about = {"weights_sha256": mean.manifest["members"][str(member)]}
            with write_store(run.test_excerpt(member), mean.names[1:], mean.classes, *mean.size_px, about) as writer:
                writer.append(read_many(mean, range(1, len(mean))))
    built, source = read_blend(run), ProvenStores(run).unseen
    gain = gain_of_fold_means(plain, read_blend(plain), source)
    assert (gain.value, gain.low, gain.high) == pytest.approx((0, 0, 0), abs=1e-12)  # a mean of equal numbers
    gain = gain_of_fold_means(run, built, source)
    assert gain.value == pytest.approx(0, abs=0.05)  # but for rules fitted without a fold
    assert gain.low <= gain.value <= gain.high
    last = run.test_excerpt(list(run.members())[-1])
    edit = read_json(last / MANIFEST)
    write_json(last / MANIFEST, edit | {"weights_sha256": "of other weights"})
    assert gain_of_fold_means(run, built, source) is None
    shutil.rmtree(last)
    assert gain_of_fold_means(run, built, source) is None
    for member in run.members():
        shutil.rmtree(run.test_excerpt(member), ignore_errors=True)


def test_compare_two_blends_in_pairs(played, tmp_path, capsys):
    run_dir = run_of(played).dir
    table = compare([f"{run_dir}:plain", str(run_dir), str(run_dir)])
    assert table.difference[0] == table.difference_low[0] == table.difference_high[0] == 0
    assert table.difference[1] == pytest.approx(table.miou[1] - table.miou[0])
    assert table.difference_low[1] < table.difference[1] < table.difference_high[1]
    compare_command.main([str(run_dir), f"{run_dir}:plain", "--json", str(tmp_path / "figures.json")])
    assert len(json.loads((tmp_path / "figures.json").read_text())["rows"]) == 2
    assert "difference" in capsys.readouterr().out
    with pytest.raises(UserError, match="it has blend, plain"):
        compare([f"{run_dir}:other"])


def test_models_are_worth_something_and_errors_go_together_with_themselves(played):
    built = read_blend(run_of(played))
    members = built.models[built.models.model != "roads"]
    assert (members.worth > 0).all()
    assert members.weight.sum() == pytest.approx(1)
    assert "specialist roads" in set(built.candidates.step)
    assert np.diagonal(built.errors) == pytest.approx(1)
    assert set(built.candidates.step) >= {"weights", "calibration", "decision", "postprocess"}


def test_missing_stores_are_listed_with_what_to_run(tmp_path, played):
    run = run_of(played, f"runs_dir={tmp_path}")
    shutil.copytree(run_of(played).dir, run.dir)
    for fold in (0, 2):
        shutil.rmtree(next((run.dir / "members" / "one").glob(f"fold{fold}-*/oof-*")))
    with pytest.raises(UserError, match=r"2 of 9 members have no OOF.*fold0.*fold2.*pipeline.cv"):
        _ = ProvenStores(run).oof


def test_oof_table_compares_in_three_lines_of_pandas(played):
    key = ["kind", "name", "fold", "seed", "weights", "tta"]  # README's
    old, new = (oof_table(run_of(played).dir).set_index(key).miou for _ in range(2))
    assert new.index.is_unique
    gained = (new.sample(frac=1, random_state=0) - old.iloc[1:]).dropna()
    assert len(gained) == old.iloc[1:].notna().sum()
    assert (gained == 0).all()


def test_tables_fit_the_screen(played, capsys):
    oof_command.main(["--config", str(played)])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[:-1])) <= 100
    assert not [line for line in lines if "…" in line]


@pytest.mark.parametrize("model", ["unet", "deeplabv3plus_r50"])
def test_names_of_classes_stand_whole_where_the_screen_has_room(played, model):
    """LoveDA's: seven classes are four and three, with room for more than nine letters each."""
    names = ["background", "building", "road", "water", "barren", "forest", "agriculture"]
    table = oof_table(run_of(played).dir)
    table = table.iloc[:, : len(OOF_COLUMNS) + len(names)].set_axis([*OOF_COLUMNS, *names], axis=1)
    console = Console(width=100, record=True, file=StringIO())
    show_models(table.assign(name=table.name.replace("one", model)), console)
    text = console.export_text()
    heads = [line.strip("┃").split("┃") for line in text.splitlines() if line.startswith("┃")]
    assert [cell.strip() for head in heads[:2] for cell in head if cell.strip() not in ("", "fold", "mIoU")] == names
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text


def test_where_the_plain_mean_ships_the_tables_say_so_and_mark_nothing_else(played):
    built = read_blend(run_of(played))
    choices = built.fits.whole.choices
    assert candidate_table(choices, shipping=True).ships.any()
    none = candidate_table(choices, shipping=False)
    assert not none.ships.any()
    steps = built.steps.assign(ships=built.steps.step == "uniform")
    for shown, marked, said in (
        (built, built.stage, False),
        (replace(built, stage="uniform", steps=steps), "uniform", True),
    ):
        console = Console(width=100, record=True, file=StringIO())
        show_blend(shown, console)
        text = console.export_text()
        (line,) = [line for line in text.splitlines() if line.rstrip().endswith("◂")]
        assert line.split()[0] == marked
        assert ("the plain mean ships" in " ".join(text.split())) == said


def test_the_longest_kinds_leave_room_for_every_figure(played):
    built = read_blend(run_of(played))
    steps = built.steps.assign(kind="temperature", gain=-0.0123, gain_low=-0.1, gain_high=0.1)
    without = dict.fromkeys(range(10), built.fits.whole)  # "10/10"
    console = Console(width=100, record=True, file=StringIO())
    show_blend(replace(built, steps=steps.assign(agree=10), fits=replace(built.fits, without=without)), console)
    assert "…" not in console.export_text()


@pytest.mark.parametrize(
    ("worth", "high", "certain"),
    [
        ((0.01, -0.02, -0.004), (0.03, -0.01, -0.001), True),
        ((-0.03, -0.002, 0.0), (0.01, -0.001, 0.0), True),
        ((0.01, -0.02, np.nan), (0.02, 0.0, np.nan), False),
    ],
)
def test_a_model_that_certainly_harms_the_blend_is_named_with_the_key_that_leaves_it_out(played, worth, high, certain):
    """By its interval, not by its value; of several the one that harms most."""
    built = read_blend(run_of(played))
    assert built.models.model.tolist() == ["one", "two", "roads"]
    models = built.models.assign(worth=worth, worth_low=-0.1, worth_high=high)
    console = Console(width=100, record=True, file=StringIO())
    show_blend(replace(built, models=models), console)
    said = [line for line in console.export_text().splitlines() if "certainly" in line]
    assert said == ["without two the blend is certainly better: blend.models=[one,roads]"] * certain
