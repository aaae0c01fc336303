import numpy as np
import pytest

from folds.duplicates import MIN_CORRELATION, SYMMETRIES, UPRIGHT, find_duplicates
from tests.scenes import draw_texture, scan_of

PX = 64
INVERSE = {"rot90": "rot270", "rot270": "rot90"}  # the others undo themselves


def textures(count: int, seed: int = 0, height: int = PX, width: int = PX, dtype: str = "uint8") -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [draw_texture(rng, height, width, 4, dtype) for _ in range(count)]


def turned(image: np.ndarray, symmetry: str) -> np.ndarray:
    return np.ascontiguousarray(SYMMETRIES[symmetry](image[None])[0])


def pairs_of(images: list[np.ndarray]) -> dict[tuple[int, int], str]:
    pairs = find_duplicates(scan_of(images)).pairs
    return {(row.a, row.b): row.symmetry for row in pairs.itertuples()}


ALTERED = {
    "noise": lambda image, rng: image + rng.normal(0, 6, image.shape),
    "brighter": lambda image, rng: image * 1.15 + 8,
    "compressed": lambda image, rng: np.round(image / 12) * 12,
}


def test_there_are_eight_symmetries_and_each_undoes_itself_or_another():
    image = np.arange(4 * 4 * 2).reshape(4, 4, 2)
    assert len({turned(image, symmetry).tobytes() for symmetry in SYMMETRIES}) == 8
    for symmetry in SYMMETRIES:
        np.testing.assert_array_equal(turned(turned(image, symmetry), INVERSE.get(symmetry, symmetry)), image)


@pytest.mark.parametrize("symmetry", SYMMETRIES)
@pytest.mark.parametrize("altered", [None, *ALTERED])
def test_planted_copies_are_found_in_every_position_and_none_invented(symmetry, altered):
    rng = np.random.default_rng(1)
    images = textures(30)
    copy = images[11].astype(float)
    if altered:
        copy = np.clip(ALTERED[altered](copy, rng), 0, 255)
    images.append(turned(copy.astype(np.uint8), symmetry))
    # What turns the copy back is said, the inverse of what made it.
    assert pairs_of(images) == {(11, 30): INVERSE.get(symmetry, symmetry)}
    exact = find_duplicates(scan_of(images)).pairs.exact.tolist()
    assert exact == [symmetry == "same" and altered is None]


@pytest.mark.parametrize("px", range(8, 71))
def test_turned_copies_are_found_whatever_the_side_of_a_tile(px):
    images = textures(9, seed=px, height=px, width=px)
    copies = [turned(images[n], symmetry) for n, symmetry in enumerate(SYMMETRIES)]
    backwards = [INVERSE.get(symmetry, symmetry) for symmetry in SYMMETRIES]
    assert pairs_of([*images, *copies]) == {(n, 9 + n): symmetry for n, symmetry in enumerate(backwards)}


def test_a_copy_two_pixels_off_is_a_copy():
    images = textures(6, height=256, width=256)
    images.append(np.roll(images[2], 2, axis=1))
    assert pairs_of(images) == {(2, 6): "same"}


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_other_dtypes(dtype):
    images = textures(8, dtype=dtype)
    assert pairs_of([*images, images[3].copy(), turned(images[5], "rot90")]) == {(3, 8): "same", (5, 9): "rot270"}


def test_oblong_tiles_are_compared_in_the_positions_that_keep_their_shape():
    images = textures(6, height=32, width=64)
    planted = [turned(images[n], symmetry) for n, symmetry in enumerate(UPRIGHT)]
    assert pairs_of([*images, *planted]) == {(n, 6 + n): symmetry for n, symmetry in enumerate(UPRIGHT)}


def test_many_copies_are_linked_to_their_original_alone():
    images = textures(3)
    found = find_duplicates(scan_of([images[0], *[images[1].copy() for _ in range(40)], images[2]]))
    assert set(zip(found.pairs.a, found.pairs.b, strict=True)) == {(1, n) for n in range(2, 41)}
    assert np.flatnonzero(found.copy_N).tolist() == list(range(2, 41))


def test_flat_tiles_are_no_copies_of_each_other():
    rng = np.random.default_rng(2)
    water = [rng.normal(80, 2, (PX, PX, 4)).astype(np.uint8) for _ in range(40)]
    constant = [np.full((PX, PX, 4), value, np.uint8) for value in (0, 0, 0, 255, 255)]
    assert pairs_of([*water, *constant]) == {}
    assert pairs_of(constant) == {}  # nothing is left to compare


def test_equal_pixels_in_another_shape_are_no_copy():
    flat = textures(1, height=32, width=128)[0]
    assert scan_of([flat]).digest_N[0] != scan_of([flat.reshape(64, 64, 4)]).digest_N[0]


def test_a_negative_is_no_copy():
    image = textures(1)[0]
    assert pairs_of([image, 255 - image]) == {}


def test_the_same_fields_under_another_texture_are_no_copy():
    rng = np.random.default_rng(4)
    fields = rng.uniform(40, 210, (8, 8, 4)).repeat(8, 0).repeat(8, 1)
    first, second = (fields + rng.normal(0, 1, (16, 16, 4)).repeat(4, 0).repeat(4, 1) * 25 for _ in range(2))
    images = [np.clip(image, 0, 255).astype(np.uint8) for image in (first, second)]
    coarse = [image.reshape(8, 8, 8, 8, 4).mean((1, 3)).ravel() for image in images]
    assert np.corrcoef(*coarse)[0, 1] > MIN_CORRELATION  # they pass the first sieve
    assert pairs_of(images) == {}


@pytest.mark.parametrize("block", [3, 7])
def test_blocks_change_nothing(monkeypatch, block):
    images = textures(20)
    images += [turned(images[n], symmetry) for n, symmetry in enumerate(SYMMETRIES)]
    whole = pairs_of(images)
    assert len(whole) == 8
    monkeypatch.setattr("folds.duplicates.BLOCK", block)
    assert pairs_of(images) == whole
