"""Laws of every augmentation in the table, for every dtype and several band counts."""

import inspect

import albumentations as A  # noqa: N812
import numpy as np
import pytest

from base.errors import UserError
from config.augmentations import AUGMENTATIONS, Augmentation
from pipeline.augment import BUILDERS, Augment, build_augment, turned
from pipeline.pixels import PixelScale, stretched
from tests.tiny import draw_image, draw_mask

NAMES = ["field", "forest", "bare"]
PX = 48
ARGUMENTS = {"copy_paste": {"classes": ["bare"]}}
ALBUMENTATIONS = {
    "shift_scale_rotate": A.Affine,
    "grid_distortion": A.GridDistortion,
    "random_resized_crop": A.RandomResizedCrop,
    "coarse_dropout": A.CoarseDropout,
    "brightness_contrast": A.RandomBrightnessContrast,
    "gamma": A.RandomGamma,
    "noise": A.GaussNoise,
    "blur": A.GaussianBlur,
}
# Set here and not by a YAML: the mask's values are labels, p is ours, the size is the tile's, clipping is PixelScale's.
OURS = {"p", "mask_interpolation", "fill_mask", "size", "fit_output", "rotate_method", "keypoint_remapping_method",
        "area_for_downscale", "ensure_safe_range"}  # fmt: skip
RADIOMETRY = ["brightness_contrast", "gamma", "noise", "blur", "band_gain", "percent_stretch"]
SYMMETRIES = ["d4", "hflip", "vflip", "rotate90", "transpose"]

EVERY = pytest.mark.parametrize("name", AUGMENTATIONS)
DTYPES = pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
BANDS = pytest.mark.parametrize("bands", [1, 2, 3, 4, 7])


def draw_tile(seed=0, bands=4, dtype="uint8", height=PX):
    """An asymmetric tile with an ignored corner. uint16 has 12 bits and float32 lies around -3, as real sensors do."""
    rng = np.random.default_rng(seed)
    mask = draw_mask(rng, PX, [0, 1, 2])[:height]
    image = draw_image(rng, mask, bands)
    if dtype == "uint16":
        image = image.astype(np.uint16) * 16
    if dtype == "float32":
        image = image.astype(np.float32) / 50 - 5
    mask[:5, :9] = 255
    return image, mask


def statistics(image):
    full = np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1.0
    return image.dtype, image.mean((0, 1)) / full, image.std((0, 1)) / full


def build(*names, image, p=1.0, params=None, empty=None):
    entries = [
        Augmentation(name=name, p=p, params=ARGUMENTS.get(name, {}) if params is None else params) for name in names
    ]
    return build_augment(entries, NAMES, PixelScale.of(*statistics(image), empty))


def partner_of(tile):
    other = draw_tile(99, tile[0].shape[-1], str(tile[0].dtype))
    return lambda rng, index: (other[0][: tile[1].shape[0]], other[1][: tile[1].shape[0]])


def apply(augment, tile, seed=0):
    return augment(tile, seed, partner_of(tile))


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_names_and_arguments_are_those_of_the_config():
    assert BUILDERS.keys() == AUGMENTATIONS.keys()
    for name, kind in ALBUMENTATIONS.items():
        theirs = set(inspect.signature(kind.__init__).parameters) - {"self"}
        assert theirs - OURS == AUGMENTATIONS[name], name


@EVERY
@DTYPES
@BANDS
def test_shape_dtype_and_labels_stay(name, dtype, bands):
    tile = draw_tile(1, bands, dtype)
    augment = build(name, image=tile[0])
    for seed in range(6):
        sample = apply(augment, tile, seed)
        assert sample.image.shape == tile[0].shape
        assert sample.image.dtype == tile[0].dtype
        assert np.isfinite(sample.image.astype(np.float64)).all()
        for mask in (sample.mask, sample.second):
            assert mask.shape == tile[1].shape
            assert mask.dtype == np.uint8
            assert set(np.unique(mask)) <= {0, 1, 2, 255}
        assert 0 <= sample.share <= 1
        assert sample.image.flags.c_contiguous
        assert sample.mask.flags.c_contiguous


@EVERY
def test_the_same_seed_gives_the_same_tile_whatever_came_before(name):
    tile, other = draw_tile(1), draw_tile(2)
    augment = build(name, image=tile[0])
    first = apply(augment, tile, 7)
    for seed in range(5):
        apply(augment, other, seed)
    assert same(first, apply(augment, tile, 7))
    assert same(first, apply(build(name, image=tile[0]), tile, 7))


@EVERY
def test_other_seeds_give_other_tiles(name):
    tile = draw_tile(1)
    augment = build(name, image=tile[0], p=0.5)
    outcomes = [apply(augment, tile, seed) for seed in range(40)]
    assert sum(same(outcomes[0], each) for each in outcomes) < 40
    untouched = sum(same(each, (*tile, tile[1], 1.0)) for each in outcomes)
    assert 5 <= untouched < 40


@EVERY
def test_what_comes_in_is_not_written_to(name):
    tile = draw_tile(1)
    before = [array.copy() for array in tile]
    for array in tile:
        array.setflags(write=False)
    for seed in range(3):
        apply(build(name, image=tile[0]), tile, seed)
    assert same(before, tile)


def test_d4_has_eight_outcomes_equally_often():
    tile = draw_tile(1)
    augment = build("d4", image=tile[0])
    outcomes = {}
    for seed in range(800):
        sample = apply(augment, tile, seed)
        outcomes.setdefault((sample.image.tobytes(), sample.mask.tobytes()), []).append(seed)
    assert len(outcomes) == 8
    assert min(map(len, outcomes.values())) > 60


@pytest.mark.parametrize(("name", "count"), [("hflip", 1), ("vflip", 1), ("rotate90", 4), ("transpose", 1)])
def test_the_other_symmetries(name, count):
    tile = draw_tile(1)
    theirs = {"hflip": [np.fliplr], "vflip": [np.flipud], "transpose": [lambda a: a.swapaxes(0, 1)],
              "rotate90": [lambda a, k=k: np.rot90(a, k) for k in range(4)]}[name]  # fmt: skip
    outcomes = {apply(build(name, image=tile[0]), tile, seed).image.tobytes() for seed in range(40)}
    assert outcomes == {np.ascontiguousarray(turn(tile[0])).tobytes() for turn in theirs}
    assert len(outcomes) == count


@pytest.mark.parametrize("name", [*SYMMETRIES, "copy_paste"])
def test_tiles_that_are_not_square_keep_their_shape(name):
    tile = draw_tile(1, height=31)
    augment = build(name, image=tile[0])
    assert {apply(augment, tile, seed).image.shape for seed in range(20)} == {tile[0].shape}


@pytest.mark.parametrize("name", [*SYMMETRIES, "shift_scale_rotate", "random_resized_crop", "grid_distortion"])
def test_image_and_mask_move_together(name):
    """The image is a picture of its mask: afterwards the two must still agree nearly everywhere."""
    _, mask = draw_tile(1)
    image = np.stack([np.where(mask == 255, 200, mask * 60 + 20)] * 4, -1).astype(np.uint8)
    for seed in range(6):
        sample = apply(build(name, image=image), (image, mask), seed)
        seen = sample.mask != 255
        assert np.mean(sample.image[seen][:, 0] == sample.mask[seen] * 60 + 20) > 0.8


def test_a_shift_in_pixels_takes_the_place_of_the_usual_one_in_percent():
    image = np.random.default_rng(0).integers(1, 255, (32, 32, 3), dtype=np.uint8)
    shift = {"translate_px": [5, 5], "scale": [1, 1], "rotate": [0, 0]}
    sample = apply(build("shift_scale_rotate", image=image, params=shift), (image, image[..., 0]))
    assert np.array_equal(sample.image[5:, 5:], image[:-5, :-5])
    assert (sample.mask[:5] == 255).all()


@pytest.mark.parametrize("name", ["shift_scale_rotate", "random_resized_crop", "grid_distortion", "coarse_dropout"])
def test_geometry_keeps_the_values_of_floats(name):
    tile = draw_tile(1, dtype="float32")
    for seed in range(4):
        sample = apply(build(name, image=tile[0]), tile, seed)
        seen = sample.mask != 255
        for band in range(4):
            pixels, before = sample.image[seen][:, band], tile[0][..., band]
            assert before.min() - 1e-4 <= pixels.min()
            assert pixels.max() <= before.max() + 1e-4
            assert abs(pixels.mean() - before.mean()) < before.std()


def test_what_comes_from_outside_is_ignored():
    tile = draw_tile(1)
    tile[1][:] = 1
    augment = build("shift_scale_rotate", image=tile[0], params={"rotate": [45, 45], "scale": [0.5, 0.5]})
    mask = apply(augment, tile).mask
    assert set(np.unique(mask)) == {1, 255}
    assert (mask == 255).mean() > 0.5


@pytest.mark.parametrize("name", RADIOMETRY)
@DTYPES
def test_radiometry_leaves_the_mask_and_changes_pixels_a_little(name, dtype):
    tile = draw_tile(1, dtype=dtype)
    sample = apply(build(name, image=tile[0]), tile, 3)
    assert np.array_equal(sample.mask, tile[1])
    shift = (sample.image.astype(np.float64) - tile[0]) / tile[0].std((0, 1))
    assert 0.001 < np.abs(shift).mean() < 2  # in standard deviations: as much for 12 bits in uint16 as for uint8


@pytest.mark.parametrize("name", RADIOMETRY)
@DTYPES
def test_radiometry_leaves_pixels_without_data_alone(name, dtype):
    image, mask = draw_tile(1, dtype=dtype)
    empty_B = np.percentile(image, 30, axis=(0, 1)).astype(image.dtype)
    image[4:20, 7:] = empty_B
    out = apply(build(name, image=image, empty=empty_B), (image, mask), 3).image
    assert (out[4:20, 7:] == empty_B).all()
    assert (out[:4] != image[:4]).mean() > 0.2
    every = np.broadcast_to(empty_B, image.shape).copy()
    assert (apply(build(name, image=image, empty=empty_B), (every, mask), 3).image == empty_B).all()


@DTYPES
def test_percentiles_are_those_of_pixels_with_data(dtype):
    image, _ = draw_tile(1, dtype=dtype)
    empty_B = np.percentile(image, 5, axis=(0, 1)).astype(image.dtype)
    whole, cut = image[:, :20].copy(), image.copy()
    cut[:, 20:] = empty_B
    scale = PixelScale.of(*statistics(image), empty_B)
    np.testing.assert_array_equal(stretched(cut, 2.0, scale)[:, :20], stretched(whole, 2.0, scale))


@pytest.mark.parametrize("name", ["band_gain", "brightness_contrast", "noise"])
def test_bright_pixels_saturate_and_do_not_wrap(name):
    image, mask = draw_tile(1)
    image[:] = 250
    params = {
        "band_gain": {"gain": 0.3},
        "brightness_contrast": {"brightness_limit": [0.2, 0.2]},
        "noise": {"std_range": [0.1, 0.1]},
    }
    scale = PixelScale.of(np.dtype("uint8"), [0.5] * 4, [0.1] * 4)
    augment = build_augment([Augmentation(name=name, p=1.0, params=params[name])], NAMES, scale)
    for seed in range(5):
        assert apply(augment, (image, mask), seed).image.min() > 120


def test_pixels_beyond_the_range_survive_radiometry():
    image, mask = draw_tile(1, dtype="float32")
    augment = build(
        "brightness_contrast", image=image, params={"brightness_limit": [0.01, 0.01], "contrast_limit": [0, 0]}
    )
    image[3, 4] += 100
    out = apply(augment, (image, mask)).image
    assert (out[3, 4] > image[3, 4] - 1).all()


def test_band_gain_is_one_line_per_band():
    image, mask = draw_tile(1, dtype="float32")
    out = apply(build("band_gain", image=image, params={"gain": 0.2, "offset": 0.5}), (image, mask), 5).image
    factors = []
    for band in range(4):
        slope, offset = np.polyfit(image[..., band].ravel(), out[..., band].ravel(), 1)
        assert np.allclose(slope * image[..., band] + offset, out[..., band], atol=1e-4)
        assert 0.8 <= slope <= 1.2
        assert abs(offset) <= 0.5 * image[..., band].std() + 1e-3
        factors.append(slope)
    assert len(set(np.round(factors, 5))) == 4


@DTYPES
def test_percent_stretch_spans_the_range(dtype):
    image, _ = draw_tile(1, dtype=dtype)
    image[..., 1] = image[0, 0, 1]  # a flat band
    scale = PixelScale.of(*statistics(image))
    out = stretched(image, 2.0, scale)
    low, high = np.percentile(out[..., 0], [2, 98])
    # for uint8 and float32 the pixel's grid is a grey level or none
    assert low == pytest.approx(scale.low_B[0], abs=0.02 * (scale.high_B[0] - scale.low_B[0]))
    assert high == pytest.approx(scale.high_B[0], abs=0.02 * (scale.high_B[0] - scale.low_B[0]))
    assert np.array_equal(out[..., 1], image[..., 1])


def test_dropout_hides_pixels_and_leaves_the_mask():
    tile = draw_tile(1)
    sample = apply(build("coarse_dropout", image=tile[0]), tile, 1)
    changed = (sample.image != tile[0]).any(-1)
    assert 0 < changed.mean() < 0.2
    assert np.abs(sample.image[changed] - tile[0].mean((0, 1))).max() <= 1  # the mean, cut to a whole number
    assert np.array_equal(sample.mask, tile[1])


def test_copy_paste_brings_the_class_with_its_pixels_and_nothing_else():
    tile, other = draw_tile(1), draw_tile(2)
    tile[1][tile[1] == 2] = 0
    asked = []

    def partner(rng, index):
        asked.append(index)
        return other

    augment = build("copy_paste", image=tile[0])
    for seed in range(8):
        sample = augment(tile, seed, partner)
        pasted = sample.mask == 2
        assert pasted.sum() == (other[1] == 2).sum()
        assert np.array_equal(sample.image[~pasted], tile[0][~pasted])
        assert np.array_equal(sample.mask[~pasted], tile[1][~pasted])
        turns = [turned(other[0], code)[turned(other[1], code) == 2] for code in range(8)]
        assert any(np.array_equal(sample.image[pasted], pixels) for pixels in turns)
    assert asked == [2] * 8


def test_copy_paste_without_a_tile_to_copy_from_changes_nothing():
    tile = draw_tile(1)
    sample = build("copy_paste", image=tile[0])(tile, 0, lambda rng, index: None)
    assert same(sample, (*tile, tile[1], 1.0))


def test_cutmix_is_exact_to_the_pixel():
    tile = draw_tile(1)
    other = partner_of(tile)(None, None)
    tile[1][:], other[1][:] = 0, 1
    shares = []
    for seed in range(200):
        sample = build("cutmix", image=tile[0])(tile, seed, lambda rng, index: other)
        from_other = sample.mask == 1
        assert np.array_equal(sample.image, np.where(from_other[..., None], other[0], tile[0]))
        rows, columns = np.flatnonzero(from_other.any(1)), np.flatnonzero(from_other.any(0))
        assert from_other.sum() == len(rows) * len(columns)  # a box
        shares.append(from_other.mean())
    assert np.mean(shares) == pytest.approx(0.5, abs=0.07)  # Beta(1, 1)


@DTYPES
def test_mixup_is_the_weighted_mean_and_keeps_both_masks(dtype):
    tile = draw_tile(1, dtype=dtype)
    other = partner_of(tile)(None, None)
    sample = apply(build("mixup", image=tile[0], params={"alpha": 1.0}), tile, 4)
    expected = sample.share * tile[0].astype(np.float64) + (1 - sample.share) * other[0]
    assert np.abs(sample.image - expected).max() <= (0.51 if tile[0].dtype.kind == "u" else 1e-5)
    assert np.array_equal(sample.mask, tile[1])
    assert np.array_equal(sample.second, other[1])


def test_order_is_kept():
    tile = draw_tile(1)
    tile[0][:, :24] = 10

    def holes(*names):
        return apply(build(*names, image=tile[0]), tile, 3).image

    assert not np.array_equal(holes("coarse_dropout", "blur"), holes("blur", "coarse_dropout"))


def test_a_wrong_value_is_refused_before_the_first_tile():
    image, _ = draw_tile()
    for name, params in (
        ("noise", {"std_range": "much"}),
        ("band_gain", {"gain": -1}),
        ("mixup", {"alpha": 0}),
        ("percent_stretch", {"percent": 2}),
        ("random_resized_crop", {"scale": [0.5, 1.5]}),
    ):
        with pytest.raises(UserError, match=f"train.augment: {name}"):
            build(name, image=image, params=params)


def test_no_step_is_no_change():
    tile = draw_tile(1)
    assert same(apply(Augment([]), tile, 3), (*tile, tile[1], 1.0))
