"""The store gives back what it was given, to the rounding it promises, or says what is wrong with it."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from base.errors import UserError
from base.files import hash_file
from pipeline import store as module
from pipeline.quantise import STORE_DTYPES, dequantise, quantise
from pipeline.store import INDEX, MANIFEST, PROBS, StoreWriter, content_problems, open_store, write_store
from tests.stored import read_many

CLASSES = ["field", "forest", "bare"]
STEP = {"uint8": 1 / 255, "float16": 2**-11}  # the largest distance of two stored values in 0..1


def softmax(logits: np.ndarray) -> np.ndarray:
    power = np.exp(logits - logits.max(1, keepdims=True))
    return (power / power.sum(1, keepdims=True)).astype(np.float32)


def random_probs(tiles: int, channels: int = 3, height: int = 24, width: int = 40, seed: int = 0) -> np.ndarray:
    """From certain to torn between classes: low spread makes many near ties."""
    rng = np.random.default_rng(seed)
    spread = rng.choice([0.005, 0.3, 6.0], (tiles, 1, height, width))
    return softmax(rng.normal(0, 1, (tiles, channels, height, width)) * spread)


def write(path: Path, probs: np.ndarray, names: list[str] | None = None, dtype: str = "uint8", batch: int = 4) -> Path:
    names = names or [f"{i:06d}" for i in range(len(probs))]
    classes = CLASSES if probs.shape[1] == 3 else [f"class{c}" for c in range(probs.shape[1])]
    manifest = {"kind": "oof", "model": "unet", "fold": 1, "seed": 0}
    with write_store(path, names, classes, *probs.shape[2:], manifest, dtype) as writer:
        for first in range(0, len(probs), batch):
            writer.append(probs[first : first + batch])
    return path


@pytest.mark.parametrize("dtype", STORE_DTYPES)
@pytest.mark.parametrize("channels", [2, 3, 10, 255])
def test_argmax_of_the_stored_is_argmax_of_the_float(dtype, channels):
    probs = random_probs(3, channels)
    stored = quantise(probs, dtype)
    assert (stored.argmax(1) == probs.argmax(1)).all()
    assert (dequantise(stored).argmax(1) == probs.argmax(1)).all()
    assert np.abs(dequantise(stored) - probs).max() <= 1.5 * STEP[dtype] + 1e-6


def test_plain_rounding_would_change_classes_and_only_ties_pay_for_it():
    probs = random_probs(8, 10)
    rounded = np.rint(probs * 255).astype(np.uint8)
    assert 0.05 < (rounded.argmax(1) != probs.argmax(1)).mean() < 0.5
    tied = (rounded == rounded.max(1, keepdims=True)).sum(1) > 1
    stored = quantise(probs)
    assert np.array_equal((stored != rounded).any(1), tied)
    assert ((stored == stored.max(1, keepdims=True)).sum(1) == 1).all(), "one top channel, whatever breaks ties"


@pytest.mark.parametrize("dtype", STORE_DTYPES)
@given(numbers=arrays(np.float32, (1, 4, 3, 5), elements=st.integers(0, 600).map(lambda n: np.float32(n / 600))))
@settings(max_examples=150)
def test_argmax_holds_for_any_numbers_and_exact_ties_give_the_first(dtype, numbers):
    probs = (numbers + 1e-3) / (numbers + 1e-3).sum(1, keepdims=True)
    assert (quantise(probs, dtype).argmax(1) == probs.argmax(1)).all()


@pytest.mark.parametrize("dtype", STORE_DTYPES)
def test_a_specialist_stays_on_its_side_of_one_half(dtype):
    around = np.float32(0.5) + np.arange(-3000, 3000, dtype=np.float32) * np.float32(2**-25)
    probs = np.concatenate([around, np.linspace(0, 1, 4000, dtype=np.float32)]).reshape(1, 1, 100, 100)
    assert ((dequantise(quantise(probs, dtype)) >= 0.5) == (probs >= 0.5)).all()


@pytest.mark.parametrize("dtype", STORE_DTYPES)
def test_tiles_come_back_by_number_whatever_the_batches(tmp_path, dtype):
    probs = random_probs(11)
    expected = dequantise(quantise(probs, dtype))
    store = open_store(write(tmp_path / "store", probs, dtype=dtype, batch=4))
    assert len(store) == 11
    assert store.names[3] == "000003"
    assert store.classes == CLASSES
    assert store.size_px == (24, 40)
    assert store.manifest["fold"] == 1
    for tile in (10, 0, 5):
        assert np.array_equal(store.read(tile), expected[tile])
        assert np.array_equal(store.read_raw(tile), quantise(probs, dtype)[tile])
    assert np.array_equal(read_many(store, [7, 2, 2, 9]), expected[[7, 2, 2, 9]])
    assert store.read(4).dtype == np.float32
    assert content_problems(store) == []


def test_the_same_probabilities_give_the_same_bytes(tmp_path):
    probs = random_probs(9, height=128, width=192)
    one, two = (write(tmp_path / f"store{batch}", probs, batch=batch) for batch in (2, 9))
    for name in (MANIFEST, INDEX, PROBS):
        assert (one / name).read_bytes() == (two / name).read_bytes()


@pytest.mark.parametrize("in_turn", [False, True])
def test_what_waits_and_what_is_synced_changes_no_byte(tmp_path, monkeypatch, in_turn):
    probs, names = random_probs(9), [f"{i}" for i in range(9)]
    written = []
    for name, waiting, unsynced, threads in (("many", 2**27, 2**26, 16), ("few", 0, 1, 16), ("one", 2**27, 1, 1)):
        monkeypatch.setattr(module, "WAITING_BYTES", waiting)
        monkeypatch.setattr(module, "SYNC_BYTES", unsynced)
        monkeypatch.setattr(module, "THREADS", threads)
        with write_store(tmp_path / name, names, CLASSES, *probs.shape[2:], {}, in_turn=in_turn, threads=16) as writer:
            for first, last in ((0, 1), (1, 6), (6, 9)):
                writer.append(probs[first:last])
        written.append([(tmp_path / name / file).read_bytes() for file in (MANIFEST, INDEX, PROBS)])
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize(("given", "cores", "threads"), [(None, 3, 3), (2, 3, 2), (None, 64, 16), (5, 3, 5)])
def test_threads_are_those_of_the_job_or_of_the_cores_that_this_process_may_have(
    tmp_path, monkeypatch, given, cores, threads
):
    pools = []

    def pool(size: int) -> ThreadPoolExecutor:
        pools.append(size)
        return ThreadPoolExecutor(size)

    monkeypatch.setattr(module, "ThreadPoolExecutor", pool)
    monkeypatch.setattr(module, "cpu_count", lambda: cores)
    probs = random_probs(7)
    with write_store(tmp_path / "store", list("abcdefg"), CLASSES, *probs.shape[2:], {}, threads=given) as writer:
        writer.append(probs)
    assert pools == [threads, 1]  # one writes


def test_two_batches_may_wait_however_large_they_are(tmp_path, monkeypatch):
    """So that a GPU works on one while the one before is compressed."""
    encode, taken = StoreWriter._frames, Event()

    def frames(self, *given):
        assert taken.wait(20), "a batch was waited for while another one could have been taken"
        return encode(self, *given)

    monkeypatch.setattr(module, "WAITING_BYTES", 1)
    monkeypatch.setattr(StoreWriter, "_frames", frames)
    probs = random_probs(4)
    with write_store(tmp_path / "store", list("abcd"), CLASSES, *probs.shape[2:], {}, threads=2) as writer:
        writer.append(probs[:2])
        writer.append(probs[2:])
        taken.set()
    assert len(open_store(tmp_path / "store")) == 4


def test_a_disk_that_fails_while_tiles_wait_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def fails_once(fd: int) -> None:  # as the kernel does, which tells of lost pages once
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(module, "SYNC_BYTES", 1)
    monkeypatch.setattr(module.os, "fsync", fails_once)
    with pytest.raises(OSError, match="Input/output"):
        write(tmp_path / "store", random_probs(6))
    assert list(tmp_path.iterdir()) == []


def test_threads_and_other_processes_read_the_same(tmp_path):
    probs = random_probs(12)
    store = open_store(write(tmp_path / "store", probs))
    again = pickle.loads(pickle.dumps(store))
    expected = read_many(store, range(12))
    with ThreadPoolExecutor(4) as threads:
        for tile, read in enumerate(threads.map(again.read, list(range(12)))):
            assert np.array_equal(read, expected[tile])


@pytest.mark.parametrize("count", [3, 7])
def test_a_count_that_differs_from_the_names_leaves_nothing(tmp_path, count):
    with pytest.raises(ValueError, match="tiles for 5 names"):
        write(tmp_path / "store", random_probs(count), [f"{i}" for i in range(5)])
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_the_older_store(tmp_path):
    path = write(tmp_path / "store", random_probs(3))
    before = hash_file(path / PROBS)
    with pytest.raises(KeyboardInterrupt), write_store(path, ["a", "b"], CLASSES, 24, 40, {}) as writer:
        writer.append(random_probs(1, seed=5))
        raise KeyboardInterrupt
    assert hash_file(path / PROBS) == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("value", [np.nan, -0.01, 1.01, np.inf])
def test_what_is_no_probability_is_refused_with_the_tile(tmp_path, value):
    probs = random_probs(6)
    probs[4, 1, 2, 3] = value
    with pytest.raises(UserError, match="000004"):
        write(tmp_path / "store", probs)
    assert list(tmp_path.iterdir()) == []


def test_names_twice_are_refused(tmp_path):
    with pytest.raises(ValueError, match="twice"):
        write(tmp_path / "store", random_probs(2), ["a", "a"])


def test_names_that_look_like_numbers_or_nothing_stay_text(tmp_path):
    names = ["007", "1e3", "NA", "null", "a,b"]
    assert open_store(write(tmp_path / "store", random_probs(5), names)).names == names


def test_what_is_wrong_is_said_all_at_once_with_what_to_run(tmp_path):
    path = write(tmp_path / "store", random_probs(6))
    with open(path / PROBS, "rb+") as file:
        file.truncate((path / PROBS).stat().st_size - 5)
    with open(path / INDEX, "a") as file:
        file.write("999999,5,5\n")
    with pytest.raises(UserError) as refusal:
        open_store(path)
    message = str(refusal.value)
    assert PROBS in message
    assert INDEX in message
    assert "pipeline.predict --config FILE --model unet --fold 1 --seed 0 --split oof" in message


def test_what_is_missing_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match=r"no probabilities at .*Run: python -m pipeline"):
        open_store(tmp_path / "nothing")
    path = write(tmp_path / "store", random_probs(2))
    (path / INDEX).unlink()
    with pytest.raises(UserError, match=rf"{INDEX} is missing"):
        open_store(path)
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(UserError, match="format 99"):
        open_store(path)


@pytest.mark.parametrize(
    ("about", "advice"),
    [
        ({"kind": "oof", "fold": 2}, "--model unet --fold 2 --seed 5 --split oof"),
        ({"kind": "test", "fold": None}, "--model unet --fold all --seed 5 --split test"),
        ({"kind": "test-excerpt", "fold": 2}, "Delete it: no result needs it"),
    ],
)
def test_what_is_said_to_be_run_can_be_run(tmp_path, about, advice):
    path = tmp_path / "store"
    with write_store(path, ["a"], ["x", "y", "z"], 24, 40, {"model": "unet", "seed": 5} | about) as writer:
        writer.append(random_probs(1))
    (path / INDEX).unlink()
    with pytest.raises(UserError, match=advice):
        open_store(path)


def test_an_edited_frame_is_found_by_whoever_reads_it(tmp_path):
    path = write(tmp_path / "store", random_probs(6))
    content = bytearray((path / PROBS).read_bytes())
    content[len(content) // 2] ^= 1
    (path / PROBS).write_bytes(content)
    store = open_store(path)  # sizes and names are right: the quick look passes
    assert len(content_problems(store)) == 1
    with pytest.raises(UserError, match="was changed after it was written"):
        read_many(store, range(6))
