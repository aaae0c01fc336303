"""What a blend reads of a tile: the mean over the members that count for it, rounded as a store rounds."""

from pathlib import Path

import numpy as np
import pytest

from config import Member
from config.training import Model
from ensemble.stores import FoldStores, OofStores, Stores, UnseenStores
from pipeline.quantise import dequantise, quantise
from pipeline.store import Store, open_store, write_store
from tests.posteriors import soft

NAMES = ["a", "b", "c", "d"]
ONE, TWO, RARE = (Model(name=name, target=target) for name, target in (("one", "all"), ("two", "all"), ("rare", "hut")))
KINDS = {"classes": ("field", "forest", "hut"), "models": ("one", "two"), "specialists": {"rare": 2}}
SIZE = 5, 7


def write(path: Path, names: list[str], channels: int, seed: int) -> Store:
    """A store of random probabilities: other ones for each seed, tile, class and pixel."""
    probs_NCHW = dequantise(soft(np.random.default_rng(seed), (len(names), max(2, channels), *SIZE)))[:, :channels]
    with write_store(path, names, [f"c{c}" for c in range(channels)], *SIZE, {}) as writer:
        writer.append(probs_NCHW)
    return open_store(path)


def mean(*raw_CHW: np.ndarray) -> np.ndarray:
    return quantise(np.mean([dequantise(raw) for raw in raw_CHW], axis=0, dtype=np.float32)[None])[0]


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> dict[Member, Store]:
    """Of two seeds; each fold's members hold its tiles in an order of their own."""
    folder = tmp_path_factory.mktemp("stores")
    held_out = {0: ["d", "a"], 1: ["c", "b"]}
    members = [Member(model, fold, seed) for model in (ONE, TWO, RARE) for seed in (0, 1) for fold in held_out]
    names = [held_out[member.fold][:: 1 - 2 * member.seed] for member in members]
    channels = [1 if member.model == RARE else 3 for member in members]
    return {member: write(folder / str(n), names[n], channels[n], seed=n) for n, member in enumerate(members)}


def check(source: Stores, i: int, expected: dict[str, np.ndarray]) -> None:
    """Models in the order asked for; a specialist's only channel; without any, still of the tile's size."""
    assert np.array_equal(source.probs(i, ["two", "one"]), np.stack([expected["two"], expected["one"]]))
    assert np.array_equal(source.probs(i, ["one"])[0], expected["one"])
    assert np.array_equal(source.model_probs(i, "two"), expected["two"])
    assert np.array_equal(source.evidence(i, ["rare"]), expected["rare"])
    assert source.evidence(i, []).shape == (0, *SIZE)


def test_oof_tiles_are_the_mean_over_the_seeds_of_their_fold(stores):
    row_of = {member: {name: row for row, name in enumerate(store.names)} for member, store in stores.items()}
    nothing = dict.fromkeys(("group_N", "hist_NC", "mask_NHW", "row_N"), np.zeros(4))
    source = OofStores(**KINDS, names=NAMES, fold_N=np.array([0, 1, 1, 0]), **nothing, stores=stores, row_of=row_of)
    for i, name in enumerate(NAMES):
        expected = {}
        for model in (ONE, TWO, RARE):
            members = [Member(model, int(source.fold_N[i]), seed) for seed in (0, 1)]
            assert source.members(i, model.name) == members
            raw = [stores[member].read_raw(stores[member].names.index(name)) for member in members]
            assert np.array_equal([source.member_probs(i, member) for member in members], raw)
            expected[model.name] = mean(*raw)
        check(source, i, expected)


def test_one_folds_tiles_are_the_mean_over_its_seeds(stores, tmp_path):
    of = {name: [write(tmp_path / f"{name}{seed}", NAMES[:2], 1 if name == "rare" else 3, 40 + 2 * n + seed)
                 for seed in (0, 1)] for n, name in enumerate(("one", "two", "rare"))}  # fmt: skip
    source = FoldStores(**KINDS, names=NAMES[:2], stores=of)
    for i in (0, 1):
        check(source, i, {name: mean(*(store.read_raw(i) for store in each)) for name, each in of.items()})


def test_unseen_tiles_are_as_stored(tmp_path):
    of = {name: write(tmp_path / name, NAMES, 1 if name == "rare" else 3, 20 + n)
          for n, name in enumerate(("one", "two", "rare"))}  # fmt: skip
    source = UnseenStores(**KINDS, names=NAMES, stores=of)
    for i in range(4):
        check(source, i, {name: store.read_raw(i) for name, store in of.items()})
