"""The table of ingredients: one thing changed at a time, tiles that are still the same tiles, honest noise."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from PIL import Image
from scipy.stats import t as student

from base.errors import UserError
from benchmarks.ingredients import BASE, BY_NAME, COMMON, CONFIG, VARIANTS, compare, halve, main, majority
from config import load_experiment
from config.experiment import flat
from tests.tiny import write_tiny


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read().astype(float)


def keys_of(variant) -> dict:
    own = BY_NAME[variant.members_of] if variant.members_of else variant
    return flat(load_experiment(CONFIG, [*COMMON, *own.overrides, *variant.overrides]).dump())


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_a_variant_is_an_experiment_that_differs_in_one_section(variant):
    base, changed = keys_of(BY_NAME[BASE]), keys_of(variant)
    differing = {key for key in base.keys() | changed.keys() if base.get(key) != changed.get(key)}
    sections = {".".join(key.split(".")[:2]) for key in differing} - {"predict.weights"}
    assert len(sections) == (variant.name not in (BASE, "ema")), sections
    assert (variant.members_of or variant.name) in BY_NAME
    if variant.name != BASE:
        assert differing
        assert set(variant.seeds) <= set(BY_NAME[BASE].seeds)


def test_the_majority_is_what_most_of_four_pixels_say():
    rng = np.random.default_rng(0)
    label_HW = rng.integers(1, 4, (12, 16), dtype=np.uint8)
    halved = majority(label_HW)
    assert halved.shape == (6, 8)
    assert halved.dtype == np.uint8
    for row in range(6):
        for column in range(8):
            four = label_HW[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].ravel().tolist()
            assert halved[row, column] == Counter(four).most_common(1)[0][0]  # of equals the first


def test_half_resolution_is_the_mean_of_images_with_their_masks_beside_them(tmp_path):
    source = write_tiny(tmp_path / "data")
    (source / "tiles.csv").write_text("name,scene\n")
    halve(source, tmp_path / "half")
    names = sorted(path.name for path in (source / "train").iterdir())
    assert sorted(path.name for path in (tmp_path / "half" / "train").iterdir()) == names
    image_BHW, halved_BHW = (read(root / "train" / "000001.tif") for root in (source, tmp_path / "half"))
    assert halved_BHW.shape == (4, 16, 16)
    expected = (image_BHW[:, 4, 6] + image_BHW[:, 5, 6] + image_BHW[:, 4, 7] + image_BHW[:, 5, 7]) / 4
    assert np.abs(halved_BHW[:, 2, 3] - expected).max() <= 0.5
    mask_HW = np.array(Image.open(source / "train" / "000001.png"))
    assert (np.array(Image.open(tmp_path / "half/train/000001.png")) == majority(mask_HW)).all()
    with pytest.raises(UserError, match=r"no tiles\.csv"):
        halve(tmp_path, tmp_path / "nothing")


def test_a_difference_is_taken_seed_by_seed_and_its_noise_is_that_of_independent_runs():
    def frame(**miou):
        return pd.DataFrame({"miou": miou.values()}, index=[int(seed[1:]) for seed in miou])

    table = compare({BASE: frame(s0=0.5, s1=0.6, s2=0.7), "ce": frame(s0=0.55, s1=0.67)})
    assert table.difference["ce"] == pytest.approx(0.06)
    assert (table.least["ce"], table.most["ce"]) == pytest.approx((0.05, 0.07))
    assert table.difference[BASE] == 0
    variance = (0.1**2 + 0 + 0.1**2 + 0.06**2 + 0.06**2) / (2 + 1)  # pooled: residuals over the degrees of freedom
    assert table.noise["ce"] == pytest.approx(np.sqrt(variance / 2 + variance / 2))


@pytest.mark.parametrize(("variants", "spread"), [(3, 1), (3, 5)])
def test_chance_makes_a_difference_beyond_reach_one_time_in_twenty(variants, spread):
    """Also of a variant whose own seeds lie further apart than the others', which twice the pooled noise calls one of
    three times."""
    rng = np.random.default_rng(1)
    beyond = []
    for _ in range(150):
        miou_V2 = 0.7 + rng.normal(0, 0.01, (variants, 2)) * np.where(np.arange(variants) == 1, spread, 1)[:, None]
        names = [BASE, *(f"v{i}" for i in range(1, variants))]
        table = compare({name: pd.DataFrame({"miou": row}) for name, row in zip(names, miou_V2, strict=True)})
        beyond.append(abs(table.difference["v1"]) > table.reach["v1"])
    assert np.mean(beyond) < (0.09 if spread == 1 else 0.18)


def test_reach_is_student_s_t_times_the_noise_of_the_seeds_that_count():
    def frame(*miou):
        return pd.DataFrame({"miou": miou})

    table = compare({BASE: frame(0.50, 0.51), "ce": frame(0.52, 0.53), "lr": frame(0.50, 0.52), "no": frame(0.3, 0.7)})
    others = (0.01**2 / 2 + 0.01**2 / 2 + 0.02**2 / 2) / 3
    own = 0.4**2 / 2
    freedom = (own + others) ** 2 / (own**2 / 1 + others**2 / 3)
    assert table.noise["no"] == pytest.approx(np.sqrt((own + others) / 2))
    assert table.reach["no"] == pytest.approx(table.noise["no"] * student.ppf(0.975, freedom))
    pooled = (3 * others + own) / 4
    assert table.noise["ce"] == pytest.approx(np.sqrt(pooled))
    assert table.reach["ce"] == pytest.approx(2.776 * table.noise["ce"], rel=1e-3)  # of 4 degrees of freedom


def test_noise_is_what_repeated_comparisons_scatter_by():
    rng = np.random.default_rng(0)
    names = [BASE, *(f"v{i}" for i in range(200))]
    found = {name: pd.DataFrame({"miou": rng.normal(0.7, 0.01, 2)}, index=[0, 1]) for name in names}
    table = compare(found)
    assert table.noise.iloc[1:].mean() == pytest.approx(0.01, rel=0.1)
    independent = [table.miou[f"v{i}"] - table.miou[f"v{i + 100}"] for i in range(100)]
    assert np.std(independent) == pytest.approx(table.noise.iloc[1], rel=0.2)


def test_a_variant_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="did you mean cutmix"):
        main(["--data", str(tmp_path), "--runs", str(tmp_path), "--only", "cutmx"])
