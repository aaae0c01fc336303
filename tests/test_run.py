"""Staleness: what is finished and unchanged is left alone, what would come out different stops the run."""

import pytest
import yaml

from base.errors import UserError
from base.files import read_json, write_json, write_text
from base.locks import held
from config import Experiment, Member, Run, load_experiment, open_run, refuse_unwritable
from tests.tiny import tiny_values, write_config


def experiment_of(tmp_path, *overrides: str) -> Experiment:
    return load_experiment(write_config(tmp_path / "tiny.yaml", tiny_values(tmp_path / "data", tmp_path)), overrides)


@pytest.fixture
def finished(tmp_path) -> Run:
    """A run with one finished and one begun member, without any training."""
    run = open_run(experiment_of(tmp_path))
    write_text(run.tiles_csv, "tiles")
    write_text(run.folds_csv, "folds")
    done, begun = list(run.members())[:2]
    write_text(run.member_dir(done) / "weights" / "last.safetensors", "weights")
    run.member_result(done).finish([run.member_dir(done) / "weights" / "last.safetensors"])
    run.member_result(begun).begin()
    return run


def test_members_are_the_whole_grid(tmp_path):
    run = Run(experiment_of(tmp_path, "seeds=[3, 5]"))
    assert [str(member) for member in run.members()] == [
        f"unet/fold{fold}-seed{seed}" for seed in (3, 5) for fold in (0, 1, 2)
    ]


def test_experiment_yaml_holds_every_default_and_reads_back_the_same(tmp_path):
    run = open_run(experiment_of(tmp_path, "train.lr=0.5"))
    written = load_experiment(run.dir / "experiment.yaml")
    assert written == run.experiment
    assert yaml.safe_load((run.dir / "experiment.yaml").read_text())["train"]["weight_decay"] == 0.01


def test_the_same_experiment_goes_on(finished, tmp_path):
    run = open_run(experiment_of(tmp_path))
    done, begun, missing = run.members()
    for member, fresh in ((done, True), (begun, False), (missing, False)):
        assert run.member_result(member).is_fresh() is fresh


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ("train.lr=0.5", "train.lr 0.001 -> 0.5"),
        ("train.epochs=3", "train.epochs 2 -> 3"),
        ("folds.k=2", "folds.k 3 -> 2"),
        ("data.normalize=tile", "data.normalize dataset -> tile"),
        ("models.unet.encoder=resnet34", "models.unet.encoder resnet18 -> resnet34"),
        ("models.unet.train={lr: 0.25}", "train.lr 0.001 -> 0.25"),
    ],
)
def test_a_key_that_members_depend_on_stops_the_run(finished, tmp_path, override, shown):
    with pytest.raises(UserError) as refused:
        open_run(experiment_of(tmp_path, override))
    message = str(refused.value)
    assert shown in message
    assert "unet/fold0-seed0, unet/fold1-seed0" in message
    assert "redo=stale" in message
    assert load_experiment(finished.dir / "experiment.yaml") == finished.experiment  # nothing was written


def test_all_differing_keys_are_listed_at_once(finished, tmp_path):
    with pytest.raises(UserError, match=r"train\.batch 3 -> 4, train\.lr 0\.001 -> 0\.5"):
        open_run(experiment_of(tmp_path, "train.lr=0.5", "train.batch=4"))


@pytest.mark.parametrize(
    "override",
    [
        "blend.name=other",
        "predict.tta=d4",
        "jobs.threads=1",
        "name=other",
        "data.root=elsewhere",
        "train.tensorboard=true",
        "data.test_images=B/*.tif",
        "data.train_masks=masks/{name}.png",
        "data.classes.field.color=[1, 2, 3]",
        "data.mask_values=colors",
        "data.ignore_label=9",
    ],
)
def test_other_keys_leave_members_alone(finished, tmp_path, override):
    open_run(experiment_of(tmp_path, override))


def test_a_second_test_set_of_the_demo_trains_nothing():
    """What was drawn is told by the tiles: data.generate=null, which another test set needs, is no change."""
    demo, second = (load_experiment("configs/demo.yaml", keys) for keys in ([], ["data.generate=null"]))
    assert Run(demo).member_keys(demo.models[0]) == Run(second).member_keys(second.models[0])
    assert Run(demo).data_keys != Run(second).data_keys


def test_a_member_of_before_batch_statistics_were_a_choice_is_one_of_running_ones(finished, tmp_path):
    for stamp_path in (finished.dir / "members").rglob("stamp.json"):
        stamp = read_json(stamp_path)
        del stamp["keys"]["train.batch_statistics"]
        write_json(stamp_path, stamp)
    open_run(experiment_of(tmp_path, "train.batch_statistics=running"))
    with pytest.raises(UserError, match=r"train\.batch_statistics \(none\) -> estimated"):
        open_run(experiment_of(tmp_path))


def test_an_edited_folds_file_stops_the_run(finished, tmp_path):
    write_text(finished.folds_csv, "other folds")
    with pytest.raises(UserError, match=r"folds\.csv has other content"):
        open_run(experiment_of(tmp_path))


def test_redo_throws_away_what_is_stale_and_nothing_else(finished, tmp_path):
    kept = finished.dir / "members" / "other" / "fold0-seed0" / "stamp.json"
    write_text(kept, "not of this experiment")
    run = open_run(experiment_of(tmp_path, "train.lr=0.5", "redo=stale"))
    assert not any(run.member_dir(member).exists() for member in run.members())
    assert kept.exists()
    assert "redo" not in yaml.safe_load((run.dir / "experiment.yaml").read_text())


def test_a_finished_member_whose_folder_is_gone_is_not_fresh(finished):
    member = next(iter(finished.members()))
    assert isinstance(member, Member)
    (finished.member_dir(member) / "stamp.json").unlink()
    assert not finished.member_result(member).is_fresh()


def test_stores_of_other_views_stand_side_by_side(tmp_path):
    runs = [Run(experiment_of(tmp_path, f"predict.tta={tta}")) for tta in ("none", "flips", "d4")]
    member = next(iter(runs[0].members()))
    assert len({run.oof_store(member) for run in runs}) == 3
    assert len({run.test_store(member.model) for run in runs}) == 3


TILES = """name,split,image,mask,height,width,group,sha256,field
a,train,train/a.tif,train/a.png,32,32,s1,aaaa,700
b,train,train/b.tif,train/b.png,32,32,s2,bbbb,300
a,test,test/a.tif,,32,32,,cccc,
"""


@pytest.mark.parametrize(
    ("old", "new", "train", "test"),
    [
        (",bbbb,", ",dddd,", True, False),  # other pixels in a train image, or its mask
        (",cccc,", ",dddd,", False, True),
        ("a,test,test/a.tif,,32,32,,cccc,\n", "", False, True),
        ("s2", "s1", True, False),
        ("train/b.tif,train/b.png", "images/b.tif,masks/b.png", False, False),  # other folders, the same pixels
        ("test/a.tif", "B/a.tif", False, False),
    ],
)
def test_members_depend_on_the_content_of_train_tiles_and_test_predictions_on_that_of_test_tiles(
    finished, old, new, train, test
):
    write_text(finished.tiles_csv, TILES)
    before = finished.member_inputs(), finished.test_inputs()
    write_text(finished.tiles_csv, TILES.replace(old, new))
    assert (finished.member_inputs() != before[0]) is train
    assert (finished.test_inputs() != before[1]) is test


def test_folders_that_cannot_be_written_are_named_at_once_before_anything_is_made(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "gone").symlink_to(tmp_path / "disk" / "that" / "is" / "not" / "mounted")
    with pytest.raises(UserError, match=r"runs_dir .*gone \(.*zips_dir .*zips \(Not a directory\)"):
        refuse_unwritable(
            experiment_of(tmp_path, f"runs_dir={tmp_path / 'gone'}", f"zips_dir={tmp_path / 'file' / 'zips'}")
        )


def test_a_member_that_is_being_trained_is_not_thrown_away(finished, tmp_path):
    done, begun, _ = finished.members()
    with (
        held(finished.member_lock(begun), "member"),
        pytest.raises(UserError, match=r"fold1-seed0.*is being worked on"),
    ):
        open_run(experiment_of(tmp_path, "train.lr=0.5", "redo=stale"))
    assert finished.member_dir(done).exists()
    assert finished.member_dir(begun).exists()
