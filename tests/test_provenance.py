"""A run whose predictions are not what they say is refused, every contradiction at once; a clean one passes."""

import shutil
from pathlib import Path

import pytest

from base.errors import UserError
from config import Run, load_experiment
from pipeline.check import _unlike, check_stores, leak_problems, main
from pipeline.finished import steps_left
from pipeline.store import open_store
from tests.spoiled import (
    SPOILED,
    edited_checkpoint,
    edited_mean,
    edited_probabilities,
    edited_specialist,
    member,
    member_of_other_folds,
    no_record,
    store_of_another_fold,
    store_of_another_tta,
    store_of_other_keys,
    trained_anew,
    truncated_manifest,
    write_clean,
)
from tests.stored import read_many


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    write_clean(folder)
    return folder


@pytest.fixture
def run(clean, tmp_path) -> Run:
    """A copy that a test may spoil."""
    shutil.copytree(clean / "runs", tmp_path / "runs")
    return Run(load_experiment(clean / "tiny.yaml", [f"runs_dir={tmp_path / 'runs'}"]))


def test_a_clean_run_is_proven(clean, run, capsys):
    assert len(check_stores(run)) == 6 + 3 + 1
    assert len(check_stores(run, content=True)) == 10
    assert main(["--config", str(clean / "tiny.yaml")]) is None
    assert "10 stores proven\n6 of 6 members" in capsys.readouterr().out


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda spoil: spoil.__name__)
def test_what_contradicts_is_found(run, spoil):
    spoil(run)
    with pytest.raises(UserError, match=SPOILED[spoil]) as refusal:
        check_stores(run, content=True)
    assert "pipeline.cv --config FILE" in str(refusal.value)


@pytest.mark.parametrize("spoil", [store_of_other_keys, trained_anew, store_of_another_fold])
def test_what_contradicts_is_predicted_again(run, spoil):
    """One list of facts for who writes a store, who proves it and who asks whether it is there."""
    first = member(run)
    assert steps_left(run, first, has_test=True) == []
    spoil(run)
    assert "oof" in steps_left(run, first, has_test=True)


def test_all_contradictions_are_listed_at_once(run):
    # A store that cannot be opened hides nothing of the member behind it.
    for fault in (truncated_manifest, edited_checkpoint, no_record):
        fault(run)
    with pytest.raises(UserError) as refusal:
        check_stores(run, content=True)
    for told in ("manifest.json is not JSON", "last.safetensors were changed", "has no record"):
        assert told in str(refusal.value)


def test_all_contradictions_of_whole_stores_are_listed_at_once(run):
    spoiled = [edited_checkpoint, member_of_other_folds, store_of_another_tta, edited_specialist, edited_mean]
    for spoil in spoiled:
        spoil(run)
    with pytest.raises(UserError) as refusal:
        check_stores(run, content=True)
    for spoil in spoiled:
        assert SPOILED[spoil] in str(refusal.value)
    assert "6 contradictions" in str(refusal.value)  # the foreign training tile brings its group along


def test_the_quick_look_leaves_contents_to_whoever_reads_them(run):
    edited_probabilities(run)
    check_stores(run)
    with pytest.raises(UserError, match="changed after it was written"):
        store = open_store(run.oof_store(member(run)))
        read_many(store, range(len(store)))


def test_what_is_not_there_yet_is_no_contradiction(run):
    shutil.rmtree(run.oof_store(member(run)))
    shutil.rmtree(run.member_dir(member(run, 1)))
    shutil.rmtree(run.test_store(run.experiment.models[0]))
    assert len(check_stores(run, content=True)) == 10 - 3


def test_a_leak_is_a_tile_or_a_neighbour_of_its_group():
    group_of = {"a": "river", "b": "river", "c": "hill", "d": "town"}
    assert leak_problems(["c", "d"], ["a", "b"], group_of) == []
    assert "1 of the tiles that it predicts: c" in leak_problems(["c"], ["c", "d"], group_of)[0]
    assert "the groups of 1 tiles that it predicts: b" in leak_problems(["a", "d"], ["b", "c"], group_of)[0]
    assert len(leak_problems(["a", "c"], ["b", "c"], group_of)) == 2


def test_a_fold_where_there_should_be_none_is_told():
    """As when a fold member's folder is copied to one that is trained on every tile."""
    assert _unlike({"fold": 0, "seed": 1}, {"fold": None, "seed": 1}) == ["fold is 0, not None"]
