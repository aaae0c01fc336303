import hashlib
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import UserError
from base.stamps import FileResult
from config import Run, load_experiment, open_run
from config.data import Folds
from folds.assign import assign_folds, few_groups, least_deviation, make_folds, relative_deviation
from folds.balance import PARTS, greedy_folds, search_folds, worst_excess
from folds.fold_audit import AuditedFolds, fold_findings
from folds.folds_csv import folds_of, import_folds, read_folds, refuse_bad_folds
from folds.georeference import Beside
from folds.images import read_mask
from folds.links import Links
from folds.tiles import make_tiles, read_tiles, tiles_of
from tests.tiny import tiny_values, write_config, write_mask, write_tiny

NO_LINKS = Links(*[pd.DataFrame({"a": [], "b": []}, dtype=np.int64)] * 2, pd.DataFrame(), {})
COMPETITION = np.array([16.49, 74.63, 0.58, 1.69, 0.52, 1.84, 0.44, 0.33, 3.40, 0.083]) / 100


def hists(rng: np.random.Generator, tiles: int, classes: int = 10) -> np.ndarray:
    """(N, C) pixels of tiles that hold some of the classes each; shares as uneven as the competition's."""
    amount_NC = rng.lognormal(0, 1, (tiles, classes)) * COMPETITION[:classes]
    amount_NC *= rng.random((tiles, classes)) < np.clip(3 * np.sqrt(COMPETITION[:classes]), 0.2, 0.9)
    return np.rint(65536 * amount_NC / np.maximum(amount_NC.sum(1, keepdims=True), 1e-9)).astype(np.int64)


def worst(hist_NC, fold_N, k) -> float:
    return float(np.abs(relative_deviation(hist_NC, fold_N, k)).max())


@settings(max_examples=12)
@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(0, 40), st.booleans())
def test_every_tile_gets_a_fold_and_no_group_is_split(seed, k, more_groups, unlabelled):
    rng = np.random.default_rng(seed)
    groups = k + more_groups
    group_N = np.concatenate([np.arange(groups), rng.integers(0, groups, 2 * groups)])
    hist_NC = hists(rng, len(group_N), 4)
    if unlabelled:
        hist_NC[rng.random(len(hist_NC)) < 0.5] = 0
    fold_N = assign_folds(hist_NC, group_N, k, seed)
    assert fold_N.shape == (len(group_N),)
    assert set(fold_N) == set(range(k))
    assert all(len(set(fold_N[group_N == group])) == 1 for group in range(groups))


@settings(max_examples=6)
@given(st.integers(0, 10**6), st.integers(2, 5))
def test_folds_follow_the_tiles_whatever_their_order(seed, k):
    rng = np.random.default_rng(seed)
    group_N = np.array([f"scene-{n}" for n in rng.integers(0, 20, 90)])
    hist_NC = hists(rng, 90)
    order = rng.permutation(90)
    np.testing.assert_array_equal(
        assign_folds(hist_NC[order], group_N[order], k, seed), assign_folds(hist_NC, group_N, k, seed)[order]
    )


def test_the_same_folds_come_out_on_every_machine():
    """Pinned: integers only, so neither the processor nor the version of BLAS may change them."""
    rng = np.random.default_rng(0)
    n = np.arange(600)
    hist_NC = np.stack([(n * step) % modulus for step, modulus in ((7, 101), (13, 997), (1, 3), (29, 31))], 1)
    fold_N = assign_folds(hist_NC, rng.integers(0, 60, 600), 5, seed=3)
    assert hashlib.sha256(fold_N.astype("<i8").tobytes()).hexdigest()[:16] == "aa5c9ddc0e44d79a"


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_few_groups_are_shared_out_as_well_as_possible(k, seed):
    """All assignments tried: the worst deviation beyond the unavoidable is the least there is."""
    rng = np.random.default_rng(seed)
    share_GC = np.rint(rng.dirichlet(np.full(8, 0.5), 5).T * PARTS).astype(np.int64)
    best = min(worst_excess(share_GC, np.array(fold_G), k) for fold_G in product(range(k), repeat=8))
    found_G = search_folds(share_GC, greedy_folds(share_GC, k, rng), k, rng)
    assert worst_excess(share_GC, found_G, k) == best


def test_the_excess_is_what_an_even_share_of_the_rest_leaves():
    """One group has 80 % of the first class: among 3 folds, 2.4 even shares in one, .3 in the others are no fault."""
    share_GC = np.array([[80, 0], [10, 50], [10, 50]]) * (PARTS // 100)
    # Of the second class the first fold has nothing; .75 even shares were possible there.
    assert worst_excess(share_GC, np.array([0, 1, 2]), 3) == pytest.approx(0.75 * PARTS, rel=1e-3)
    assert worst_excess(share_GC[:, :1], np.array([0, 1, 2]), 3) <= 0
    assert worst_excess(share_GC[:, :1], np.array([0, 1, 1]), 3) == pytest.approx(0.3 * PARTS, rel=1e-3)
    assert worst_excess(share_GC[:, :1], np.array([0, 0, 1]), 3) == pytest.approx(0.3 * PARTS, rel=1e-3)


def uneven(seed: int, most: int) -> tuple[np.ndarray, np.ndarray, int]:
    """hist_NC, group_N, k of data in which classes are rare, or nearly all of a class is in one group."""
    rng = np.random.default_rng(seed)
    k = int(rng.integers(2, 6))
    groups, classes = int(rng.integers(k + 1, most)), int(rng.integers(2, 9))
    group_N = np.concatenate([np.arange(groups), rng.integers(0, groups, 3 * groups)])
    hist_NC = rng.lognormal(3, rng.choice([0.5, 2, 4]), (len(group_N), classes))
    hist_NC *= rng.random(hist_NC.shape) < rng.choice([0.05, 0.2, 0.6])
    hist_NC[group_N == rng.integers(groups), rng.integers(classes)] *= 1000
    return np.rint(hist_NC).astype(np.int64), group_N, k


def lacking(held_GC: np.ndarray, fold_G: np.ndarray, k: int) -> int:
    """How many folds lack a class that k groups have, over all such classes."""
    wanted = [c for c in range(held_GC.shape[1]) if held_GC[:, c].sum() >= k]
    return sum(k - len(np.unique(fold_G[held_GC[:, c]])) for c in wanted)


def test_no_fold_of_ours_lacks_a_class_that_every_fold_can_have():
    """Of few groups all folds are compared: of 40 such cases, in one the search finds none where there are some."""
    could = missed = 0
    for seed in range(60):
        hist_NC, group_N, k = uneven(seed, 8 if seed < 40 else 20)
        k = min(k, 3) if seed < 40 else k
        groups = group_N.max() + 1
        held_GC = np.stack([(hist_NC[group_N == g] > 0).any(0) for g in range(groups)])
        fold_N = assign_folds(hist_NC, group_N, k)
        ours = lacking(held_GC, fold_N[:groups], k)
        assert len(np.unique(fold_N)) == k
        names = tuple(map(str, range(hist_NC.shape[1])))
        train = pd.DataFrame({"name": map(str, range(len(group_N))), "group": group_N.astype(str)})
        folds = AuditedFolds(train, fold_N, hist_NC, names, Folds(k=k), train.group.to_numpy(), ours=True)
        found = fold_findings(folds, NO_LINKS, Beside.nothing_known(len(train)))
        assert {f.severity for f in found if f.kind == "class_absent_in_fold"} == ({"warning"} if ours else set())
        if ours and seed < 40:
            every = (np.array(folds) for folds in product(range(k), repeat=groups))
            missed += any(not lacking(held_GC, fold_G, k) for fold_G in every if len(np.unique(fold_G)) == k)
        could += not ours
    assert could >= 55
    assert missed <= 1


def test_search_gains_where_groups_are_few():
    rng = np.random.default_rng(5)
    share_GC = np.rint(rng.dirichlet(np.ones(60), 11).T * PARTS).astype(np.int64)
    greedy_G = greedy_folds(share_GC, 5, np.random.default_rng(0))
    found_G = search_folds(share_GC, greedy_G, 5, np.random.default_rng(0))
    assert worst_excess(share_GC, found_G, 5) < 0.6 * worst_excess(share_GC, greedy_G, 5)


@pytest.mark.parametrize(
    ("changed", "of_tiles"),
    [
        ({"folds": {"k": 2}}, False),
        ({"folds": {"seed": 5}}, False),
        ({"folds": {"groups": "none"}}, True),
        ({"data": {"test_images": "testB/*.tif"}}, True),
        ({"data": {"test_images": None}}, True),
        ({"data": {"train_masks": "masks/{name}.png"}}, True),
    ],
)
def test_whoever_goes_on_refuses_tables_of_other_keys(tmp_path, changed, of_tiles):
    """A stage by hand would train on the old folds, or label the old test set, and say that it was of the new keys."""
    root = write_tiny(tmp_path / "data")
    values = tiny_values(root, tmp_path)
    run = Run(load_experiment(write_config(tmp_path / "a.yaml", values)))
    make_folds(run)
    assert len(tiles_of(run)) == 13
    assert len(folds_of(run)) == 9
    for section, keys in changed.items():
        values[section] |= keys
    other = Run(load_experiment(write_config(tmp_path / "b.yaml", values)))
    (key,) = [f"{section}.{key}" for section, keys in changed.items() for key in keys]
    if of_tiles:
        with pytest.raises(UserError, match=rf"tiles.csv was made with other keys: {key} .*python -m folds\.tiles"):
            tiles_of(other)
    else:
        tiles_of(other)
    with pytest.raises(UserError, match=rf"folds.csv was made with other keys: {key} .*python -m folds\.assign"):
        folds_of(other)


def test_a_tile_table_that_was_cut_short_is_no_reason_to_train_again(tmp_path):
    run = Run(load_experiment(write_config(tmp_path / "a.yaml", tiny_values(write_tiny(tmp_path / "data"), tmp_path))))
    make_folds(run)
    whole = run.tiles_csv.read_bytes()
    for damaged in (b"", whole[:200], whole.replace(b"scene0", b"scene1")):
        run.tiles_csv.write_bytes(damaged)
        with pytest.raises(UserError, match=r"tiles\.csv was changed after it was made.*folds\.tiles"):
            open_run(run.experiment)
        make_tiles(run)
        assert run.tiles_csv.read_bytes() == whole
    stamp = run.tiles_csv.with_name("tiles.csv.stamp.json")
    stamp.write_text("{")
    with pytest.raises(UserError, match=r"tiles\.csv\.stamp\.json: no JSON .*Delete it and run the same command again"):
        make_tiles(run)
    stamp.unlink()
    make_tiles(run)
    assert open_run(run.experiment)


def test_single_tiles_are_shared_out_to_two_thousandths():
    hist_NC = hists(np.random.default_rng(6), 2000)
    assert worst(hist_NC, assign_folds(hist_NC, np.arange(2000), 5), 5) < 0.002


def test_tiles_without_labels_are_shared_out_too():
    hist_NC = np.zeros((100, 3), np.int64)
    hist_NC[:10] = 7
    fold_N = assign_folds(hist_NC, np.arange(100), 5)
    assert np.bincount(fold_N).tolist() == [20] * 5
    assert np.bincount(fold_N[:10]).tolist() == [2] * 5


def test_deviation_is_relative_to_an_even_share():
    hist_NC = np.array([[30, 0, 0], [10, 4, 0], [20, 0, 0]])
    deviation_KC = relative_deviation(hist_NC, np.array([0, 1, 1]), 2)
    np.testing.assert_allclose(deviation_KC, [[0, -1, 0, -1 / 3], [0, 1, 0, 1 / 3]])


def test_no_folds_go_below_the_least_deviation():
    rng = np.random.default_rng(7)
    hist_NC, group_N = hists(rng, 40, 4), rng.integers(0, 6, 40)
    least = least_deviation(hist_NC, group_N, 3)
    assert least > 0
    for fold_G in product(range(3), repeat=6):
        assert worst(hist_NC, np.array(fold_G)[group_N], 3) >= least - 1e-12


@pytest.mark.parametrize("k", [1, 6])
def test_k_must_fit_the_groups(k):
    with pytest.raises(UserError, match=rf"folds.k={k}: 10 tiles form 5 groups, and a fold needs one"):
        assign_folds(np.ones((10, 2)), np.arange(10) % 5, k)


def test_classes_in_few_groups_are_named_with_their_groups():
    hist_NC = np.array([[5, 1, 0], [5, 2, 0], [5, 0, 0], [5, 3, 0]])
    assert few_groups(hist_NC, np.array(["a", "a", "b", "c"]), 3, ("x", "y", "z")) == {"y": ["a", "c"]}


@pytest.fixture
def config(tmp_path) -> Path:
    """Nine train tiles in three scenes."""
    root = write_tiny(tmp_path / "data")
    return write_config(tmp_path / "config.yaml", tiny_values(root, tmp_path))


def run_of(config: Path, *overrides: str) -> Run:
    return open_run(load_experiment(config, list(overrides)))


def leave_bare_in_the_first_scene(config: Path) -> None:
    for n in range(9):
        mask_HW = np.where(np.indices((32, 32)).sum(0) % 5 < n % 3 + 1, 1, 2).astype(np.uint8)
        if n < 3:
            mask_HW[: 4 + n] = 4
        write_mask(config.parent / "data" / "train" / f"{n:06d}.png", mask_HW)


def test_the_file_has_the_train_tiles_in_the_order_of_the_table(config):
    run = run_of(config)
    folds = make_folds(run)
    train = make_tiles(run).query("split == 'train'")
    assert folds.name.tolist() == train.name.tolist()
    assert folds.group.tolist() == train.group.tolist() == [f"scene{n // 3}" for n in range(9)]
    pd.testing.assert_frame_equal(read_folds(run.folds_csv), folds)
    before = run.folds_csv.stat().st_mtime_ns
    make_folds(run_of(config))
    assert run.folds_csv.stat().st_mtime_ns == before


def test_a_class_in_fewer_groups_than_folds_is_refused_with_the_ways_out(config):
    leave_bare_in_the_first_scene(config)
    with pytest.raises(UserError, match=r"bare lives in 1 groups \(scene0\)") as refusal:
        make_folds(run_of(config))
    for way_out in ("folds.split_groups_of=[bare]", "folds.allow=[class_in_few_groups]"):
        assert way_out in str(refusal.value)
    assert "block_tiles" not in str(refusal.value)  # no blocks are cut where a column says what belongs together
    with pytest.raises(UserError, match=r"folds\.block_tiles is for mosaics and georeference; folds\.groups is column"):
        make_folds(run_of(config, "folds.block_tiles=8"))
    assert "lower folds.k" not in str(refusal.value)  # no two folds can share one group either
    assert not run_of(config).folds_csv.exists()


def test_ways_that_lead_nowhere_are_not_named(config):
    """A class in two groups and two tiles: two folds could hold it, three cannot by any cut."""
    data = Path(load_experiment(config).data.root)
    for path in sorted((data / "train").glob("*.png")):
        mask_HW = np.where(read_mask(path) == 4, 1, read_mask(path)).astype(np.uint8)
        mask_HW[:3, :3] = 4 if path.stem in ("000001", "000007") else mask_HW[:3, :3]
        write_mask(path, mask_HW)
    with pytest.raises(UserError, match=r"bare in 2\)\. Ways out: lower folds\.k; accept it: folds\.allow") as refusal:
        make_folds(run_of(config))
    assert "block_tiles" not in str(refusal.value)
    assert make_folds(run_of(config, "folds.k=2")).fold.nunique() == 2


@pytest.mark.parametrize(
    ("folds", "way_out"),
    [
        ("{groups: column, groups_csv: scenes.csv}", "form 3 groups.* or name another folds.groups_column"),
        ("{groups: none}", "form 9 groups, and a fold needs one at least. Change folds.k$"),
        ("{groups: mosaic}", "form 9 groups.* or make more groups: folds.block_tiles=8 cuts"),
        ("{groups: mosaic, block_tiles: 8}", "form 9 groups.* or make more groups: a lower folds.block_tiles cuts"),
    ],
)
def test_more_groups_are_made_as_the_kind_of_groups_lets_them(config, folds, way_out):
    with pytest.raises(UserError, match=way_out):
        make_folds(run_of(config, f"folds={folds}", "folds.k=10"))


def test_each_way_out_works(config):
    leave_bare_in_the_first_scene(config)
    allowed = make_folds(run_of(config, "folds.allow=[class_in_few_groups]"))
    assert allowed.groupby("group").fold.nunique().max() == 1
    split = make_folds(run_of(config, "folds.split_groups_of=[bare]"))
    assert split.group.tolist()[:3] == [f"scene0/{n:06d}" for n in range(3)]
    assert split.group.tolist()[3:] == [f"scene{n // 3}" for n in range(3, 9)]
    assert set(split.fold[:3]) == {0, 1, 2}
    pd.testing.assert_series_equal(read_tiles(run_of(config).tiles_csv).group[:9], split.group, check_names=False)


def test_folds_from_elsewhere_come_in_with_the_groups_of_the_tiles(config, tmp_path):
    file = tmp_path / "mine.csv"
    rows = [f"{n:06d},{2 - n // 3}" for n in reversed(range(9))]
    file.write_text("\n".join(["name,fold", *rows]) + "\n")
    run = run_of(config, f"folds.file={file}")
    folds = make_folds(run)
    assert folds.fold.tolist() == [2, 2, 2, 1, 1, 1, 0, 0, 0]
    assert folds.group.tolist() == [f"scene{n // 3}" for n in range(9)]
    refuse_bad_folds(make_tiles(run), folds, 3)
    file.write_text("\n".join(["name,fold", *[row[:-1] + str(2 - int(row[-1])) for row in rows]]) + "\n")
    assert make_folds(run_of(config, f"folds.file={file}")).fold.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_folds_from_elsewhere_are_refused_with_all_that_is_wrong(config, tmp_path):
    file = tmp_path / "mine.csv"
    rows = ["000000,0", "000001,1", "000002,0", "000003,7", "000003,7", "000099,0"]
    file.write_text("\n".join(["name,fold", *rows]) + "\n")
    with pytest.raises(UserError) as refusal:
        make_folds(run_of(config, f"folds.file={file}"))
    for problem in (
        "5 train tiles have no fold: 000004, 000005, 000006, 000007, 000008",
        "1 names are no train tile: 000099",
        "1 tiles stand in two rows: 000003",
        "1 fold numbers are outside 0..2: 7",
        "1 folds are empty: 2",
        "1 groups stand on both sides of a split: scene0",
    ):
        assert problem in str(refusal.value)
    assert not run_of(config).folds_csv.exists()


def test_an_edited_folds_file_is_refused_until_it_is_named_or_deleted(config, tmp_path):
    run = run_of(config)
    made = make_folds(run)
    made.assign(fold=(made.fold + 1) % 3).to_csv(run.folds_csv, index=False)
    with pytest.raises(UserError, match=r"edited after it was made.*folds.file=FILE"):
        make_folds(run_of(config))
    moved = run.folds_csv.rename(tmp_path / "mine.csv")
    assert make_folds(run_of(config, f"folds.file={moved}")).fold.tolist() == ((made.fold + 1) % 3).tolist()
    run.folds_csv.unlink()
    pd.testing.assert_frame_equal(make_folds(run_of(config)), made)


def test_folds_that_were_stopped_before_their_stamp_are_made_again(config, monkeypatch):
    """Between the table and its stamp, at the first time and after a change of keys; nobody edited anything."""

    def stop(*args, **keys):
        raise KeyboardInterrupt

    make_tiles(run_of(config))
    for overrides in ([], ["folds.k=2"]):
        with monkeypatch.context() as patch:
            patch.setattr(FileResult, "finish", stop)
            with pytest.raises(KeyboardInterrupt):
                make_folds(run_of(config, *overrides))
        with pytest.raises(UserError, match=r"folds.csv: .* was stopped.* python -m folds.assign"):
            folds_of(run_of(config, *overrides))
        made = make_folds(run_of(config, *overrides))
        pd.testing.assert_frame_equal(folds_of(run_of(config, *overrides)), made)
    assert made.fold.nunique() == 2


def test_folds_that_a_user_laid_into_the_run_folder_are_not_overwritten(config, tmp_path):
    run, names = run_of(config), make_tiles(run_of(config)).name[:9]
    run.folds_csv.write_text("name,fold\n" + "".join(f"{name},{n // 3}\n" for n, name in enumerate(names)))
    before = run.folds_csv.read_text()
    with pytest.raises(UserError, match=r"folds.csv was not made here.*folds.file=FILE"):
        make_folds(run)
    assert run.folds_csv.read_text() == before
    moved = run.folds_csv.rename(tmp_path / "mine.csv")
    assert make_folds(run_of(config, f"folds.file={moved}")).fold.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,part\na,1\n", "no column fold"),
        ("name,fold\na,1\nb,\nc,1.5\nd,-1\n", r"3 tiles have no fold number: b '', c '1.5', d '-1'"),
        ("", "unreadable as csv"),
    ],
)
def test_a_file_that_is_no_folds_file_is_refused(tmp_path, text, message):
    file = tmp_path / "folds.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_folds(file)
    with pytest.raises(UserError, match="no folds yet"):
        read_folds(tmp_path / "none.csv")


def test_training_refuses_folds_that_do_not_agree_with_the_tiles_row_by_row(config):
    run = run_of(config)
    folds, tiles = make_folds(run), make_tiles(run)
    refuse_bad_folds(tiles, folds, 3)
    with pytest.raises(UserError, match=r"not in the order of tiles.csv"):
        refuse_bad_folds(tiles, folds[::-1], 3)
    with pytest.raises(UserError, match="groups are not those"):
        refuse_bad_folds(tiles, folds.assign(group="x"), 3)
    with pytest.raises(UserError, match=r"9 train tiles have no fold.*3 folds are empty"):
        refuse_bad_folds(tiles, folds[:0], 3)
    swapped = folds.assign(fold=[1, *folds.fold[1:]] if folds.fold[0] != 1 else [0, *folds.fold[1:]])
    with pytest.raises(UserError, match="1 groups stand on both sides of a split: scene0"):
        refuse_bad_folds(tiles, swapped, 3)


def test_import_keeps_the_order_of_the_train_tiles(tmp_path):
    train = pd.DataFrame({"name": ["b", "a", "c"], "group": ["y", "x", "y"]})
    file = tmp_path / "mine.csv"
    file.write_text("name,group,fold\na,other,0\nb,other,1\nc,another,1\n")
    expected = pd.DataFrame({"name": ["b", "a", "c"], "group": ["y", "x", "y"], "fold": [1, 0, 1]})
    pd.testing.assert_frame_equal(import_folds(file, train, 2), expected)
