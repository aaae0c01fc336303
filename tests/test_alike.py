from collections.abc import Sequence

import numpy as np
import pytest
from scipy.fft import dctn, idctn

from folds import alike
from folds.alike import TABLES, alike_pairs
from folds.duplicates import SYMMETRIES, UPRIGHT

EIGHT = tuple(SYMMETRIES)
FREQUENCY = np.hypot(*np.indices((8, 8)))[..., None]


def land(rng: np.random.Generator, count: int, bands: int = 1, power: float = 1.0) -> np.ndarray:
    """(N, 8, 8, B) tiles whose waves are weaker by `power` of their frequency, as land's are by 1."""
    return cells_of(rng.standard_normal((count, 8, 8, bands)), power)


def cells_of(wave_NEEB: np.ndarray, power: float) -> np.ndarray:
    """Tiles of mean 0 and length 1, the amplitudes of their waves divided by a power of the frequency."""
    strength_EE1 = np.divide(1, FREQUENCY**power, where=FREQUENCY > 0, out=np.zeros_like(FREQUENCY))
    return unit(idctn(wave_NEEB * strength_EE1, axes=(1, 2), norm="ortho")).astype(np.float32)


def weighted(unit_NEEB: np.ndarray) -> np.ndarray:
    """Waves that weigh as their frequency, of length 1."""
    return unit(dctn(unit_NEEB, axes=(1, 2), norm="ortho") * FREQUENCY)


def unit(x_NEEB: np.ndarray) -> np.ndarray:
    return x_NEEB / np.sqrt((x_NEEB**2).sum((1, 2, 3), keepdims=True))


def like(rng: np.random.Generator, unit_NEEB: np.ndarray, correlation: float) -> np.ndarray:
    """Other tiles that correlate with these by as much in weighted waves."""
    wave_NEEB = weighted(unit_NEEB)
    noise_NEEB = rng.standard_normal(wave_NEEB.shape) * (FREQUENCY > 0)
    noise_NEEB = unit(noise_NEEB - (noise_NEEB * wave_NEEB).sum((1, 2, 3), keepdims=True) * wave_NEEB)
    return cells_of(correlation * wave_NEEB + np.sqrt(1 - correlation**2) * noise_NEEB, 1)


def in_mixed_turns(rng: np.random.Generator, unit_NEEB: np.ndarray, names: Sequence[str] = EIGHT) -> np.ndarray:
    turned_SNEEB = np.stack([SYMMETRIES[name](unit_NEEB) for name in names])
    return turned_SNEEB[rng.integers(len(names), size=len(unit_NEEB)), np.arange(len(unit_NEEB))]


def found(unit_NEEB: np.ndarray, names: Sequence[str] = EIGHT, least: float = 0.9) -> set[tuple[int, int]]:
    a_P, b_P = alike_pairs(unit_NEEB, {name: SYMMETRIES[name] for name in names}, least)
    assert (a_P < b_P).all()
    assert (np.diff(a_P * len(unit_NEEB) + b_P) > 0).all()
    return set(zip(a_P.tolist(), b_P.tolist(), strict=True))


def all_against_all(unit_NEEB: np.ndarray, names: Sequence[str] = EIGHT) -> np.ndarray:
    """(N, N) correlations in the best position."""
    rows_NC = unit_NEEB.reshape(len(unit_NEEB), -1)
    return np.max([rows_NC @ SYMMETRIES[name](unit_NEEB).reshape(rows_NC.shape).T for name in names], axis=0)


def pairs_from(alike_NN: np.ndarray) -> set[tuple[int, int]]:
    return {(int(a), int(b)) for a, b in np.argwhere(np.triu(alike_NN, 1))}


@pytest.fixture
def hashing(monkeypatch):
    """Hashing whatever it takes: of so few tiles as here all would be compared with all."""
    monkeypatch.setattr("folds.alike.HASHING_COST", np.inf)


@pytest.mark.parametrize("names", [EIGHT, UPRIGHT])
@pytest.mark.parametrize("bands", [1, 4])
def test_hashing_finds_the_pairs_of_all_against_all(hashing, bands, names):
    rng = np.random.default_rng(0)
    tiles = land(rng, 300, bands)
    copies = [in_mixed_turns(rng, like(rng, tiles, correlation), names) for correlation in (0.93, 0.95, 0.98, 1)]
    tiles = np.concatenate([tiles, *copies])[rng.permutation(1500)]
    true = pairs_from(all_against_all(tiles, names) >= 0.9)
    pairs = found(tiles, names)
    assert pairs <= true
    # Below .88 of the weighted waves are pairs of two copies, and tiles that the longest waves alone make alike.
    back = idctn(weighted(tiles), axes=(1, 2), norm="ortho")
    sure = pairs_from(all_against_all(back, names) >= 0.88) & true
    assert len(sure) > 1500
    assert sure <= pairs


KINDS = {
    "land": lambda rng, count: land(rng, count),
    "noise": lambda rng, count: land(rng, count, power=0),
    "hazy": lambda rng, count: land(rng, count, power=2),
    "smooth": lambda rng, count: cells_of(rng.standard_normal((count, 8, 8, 1)) * (FREQUENCY < 4), 1),
    "mirrored": lambda rng, count: cells_of(
        rng.standard_normal((count, 8, 8, 1)) * (np.arange(8) % 2 == 0)[:, None], 1
    ),
}


@pytest.mark.parametrize("names", [EIGHT, UPRIGHT])
@pytest.mark.parametrize("kind", KINDS)
def test_by_85_a_pair_is_missed_once_in_ten_thousand(hashing, monkeypatch, kind, names):
    # 96 tables miss too few to count. They are drawn independently, so 6 of them miss the 16th root of it.
    monkeypatch.setattr("folds.alike.TABLES", TABLES // 16)
    rng = np.random.default_rng(1)
    tiles = KINDS[kind](rng, 4000)
    copies = in_mixed_turns(rng, like(rng, tiles, 0.85), names)
    pairs = found(np.concatenate([tiles, copies]), names, least=0.3)
    missed = np.mean([(n, n + len(tiles)) not in pairs for n in range(len(tiles))])
    assert missed**16 <= 1e-4


def test_the_order_of_the_tiles_changes_nothing_and_a_second_search_finds_the_same(hashing):
    rng = np.random.default_rng(2)
    tiles = land(rng, 400)
    tiles = np.concatenate([tiles, in_mixed_turns(rng, like(rng, tiles, 0.8))])
    pairs = found(tiles, least=0.7)  # of which some are missed
    assert 50 < len(pairs & {(n, n + 400) for n in range(400)}) < 400
    assert found(tiles, least=0.7) == pairs
    order = rng.permutation(len(tiles))
    again = found(tiles[order], least=0.7)
    assert {tuple(sorted((int(order[a]), int(order[b])))) for a, b in again} == pairs


def test_of_a_cluster_of_look_alikes_every_pair_is_found(hashing):
    rng = np.random.default_rng(3)
    cluster = in_mixed_turns(rng, like(rng, np.repeat(land(rng, 1), 200, 0), 0.98))
    tiles = np.concatenate([land(rng, 100), cluster])
    assert found(tiles) >= {(a, b) for a in range(100, 300) for b in range(a + 1, 300)}


def family(rng: np.random.Generator, count: int, of: int, correlation: float) -> np.ndarray:
    """Tiles of which some correlate by as much with each other, as those of one kind of land may."""
    members = like(rng, np.repeat(land(rng, 1), count, 0), np.sqrt(correlation))
    return np.concatenate([members, land(rng, of - count)])[rng.permutation(of)]


@pytest.mark.parametrize("names", [EIGHT, UPRIGHT])
def test_few_tiles_are_compared_all_with_all(names):
    rng = np.random.default_rng(4)
    tiles = np.concatenate([family(rng, 60, 200, 0.9), KINDS["hazy"](rng, 100)])  # of which hashing would miss some
    true = pairs_from(all_against_all(tiles, names) >= 0.9)
    assert len(true) > 100
    assert found(tiles, names) == true


@pytest.mark.parametrize(("members", "correlation", "gives_up"), [(0, 0, False), (200, 0.8, False), (1000, 0.9, True)])
def test_no_family_of_look_alikes_costs_much_more_than_all_with_all(monkeypatch, members, correlation, gives_up):
    products = 0

    def counted_hash(unit_NC, direction_DC, cell_SC):
        nonlocal products
        products += len(unit_NC) * (len(direction_DC) - 1 + len(cell_SC))
        return hash_(unit_NC, direction_DC, cell_SC)

    def counted_products(unit_GMC, turned_GMC, least):
        nonlocal products
        groups, count, _ = unit_GMC.shape
        products += groups * count * min(count, (count + alike.BLOCK) / 2)
        return products_(unit_GMC, turned_GMC, least)

    hash_, products_ = alike._hash, alike._products
    monkeypatch.setattr("folds.alike._hash", counted_hash)
    monkeypatch.setattr("folds.alike._products", counted_products)
    monkeypatch.setattr("folds.alike.TABLES", 6)  # so that a thousand tiles are enough to begin with hashing
    monkeypatch.setattr("folds.alike.BLOCK", 10)
    tiles = family(np.random.default_rng(8), members, 1000, correlation)
    pairs = found(tiles)
    all_with_all = 8 * 1000 * 1010 / 2
    hashed_alone = products <= alike.HASHING_COST * all_with_all
    assert hashed_alone != gives_up
    assert products <= (1 + alike.HASHING_COST) * all_with_all
    true = pairs_from(all_against_all(tiles) >= 0.9)
    assert pairs == true if gives_up else pairs <= true


@pytest.mark.parametrize("cost", [0, np.inf])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_tiles_without_cells_are_like_nothing(monkeypatch, count, cost):
    monkeypatch.setattr("folds.alike.HASHING_COST", cost)
    tiles = np.zeros((count + 3, 8, 8, 2), np.float32)
    tiles[3:] = land(np.random.default_rng(5), 1, 2)
    assert found(tiles) == ({(3, 4)} if count == 2 else set())


@pytest.mark.parametrize("cost", [0, np.inf])
def test_blocks_change_nothing(monkeypatch, cost):
    monkeypatch.setattr("folds.alike.HASHING_COST", cost)
    rng = np.random.default_rng(6)
    tiles = land(rng, 60)
    tiles = np.concatenate([tiles, in_mixed_turns(rng, like(rng, tiles, 0.97))])
    whole = found(tiles)
    assert len(whole) >= 60
    monkeypatch.setattr("folds.alike.BLOCK", 7)
    assert found(tiles) == whole
