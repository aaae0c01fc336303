"""Laws of the ensemble over random inputs: what must hold whatever the models say."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.ensemble import Blend
from ensemble.apply import apply_blend, apply_pixels
from ensemble.fit import fit_blend
from ensemble.fitted import FittedBlend, FittedSpecialist, uniform_blend
from ensemble.honest import fit_honestly
from ensemble.labels import class_order, top_class
from ensemble.patches import clean_labels
from ensemble.sample import draw_sample
from tests.posteriors import random_source, soft

CLASSES = ("crop", "wood", "sand", "lake")
seeds = st.integers(0, 2**32 - 1)
combinations = st.sampled_from(["mean", "gmean"])
few = settings(max_examples=4)
many = settings(max_examples=60)


def random_blend(rng: np.random.Generator, combination: str, models: int = 3, specialists: int = 1) -> FittedBlend:
    """A blend with every part at work."""
    weight_M = rng.dirichlet(np.ones(models))
    return replace(
        uniform_blend(CLASSES, [f"m{m}" for m in range(models)]),
        weight_MC=tuple((float(weight),) * 4 for weight in weight_M),
        combination=combination,
        temperature_M=tuple(rng.uniform(0.5, 2, models).tolist()),
        slope_C=tuple(rng.uniform(0.7, 1.3, 4).tolist()),
        bias_C=tuple(rng.uniform(-0.5, 0.5, 4).tolist()),
        specialists=tuple(FittedSpecialist(f"s{i}", 2, 1.2, -0.3, share=0.4) for i in range(specialists)),
        gain_C=tuple(rng.uniform(0.2, 1, 4).tolist()),
        offset_C=tuple(rng.uniform(-0.2, 0, 4).tolist()),
        min_px_C=(0, 4, 9, 2),
        hole_px_C=(5, 0, 3, 8),
    )


def random_tile(rng: np.random.Generator, models: int = 3, px: tuple[int, int] = (11, 14)) -> tuple:
    return soft(rng, (models, 4, *px)), rng.integers(0, 256, (1, *px)).astype(np.uint8)


def permuted(blend: FittedBlend, order: list[int]) -> FittedBlend:
    """The blend of the same classes in another order."""
    rows = {name: tuple(getattr(blend, name)[c] for c in order)
            for name in ("classes", "slope_C", "bias_C", "gain_C", "offset_C", "min_px_C", "hole_px_C")}  # fmt: skip
    return replace(
        blend,
        **rows,
        weight_MC=tuple(tuple(row[c] for c in order) for row in blend.weight_MC),
        specialists=tuple(replace(s, target=order.index(s.target)) for s in blend.specialists),
    )


@many
@given(seeds, combinations)
def test_identical_members_are_the_member(seed, combination):
    rng = np.random.default_rng(seed)
    probs_CHW = soft(rng, (4, 9, 13))
    blend = replace(random_blend(rng, combination, specialists=0), temperature_M=(1.0,) * 3)
    alone = replace(blend, models=("m0",), weight_MC=((1.0,) * 4,), temperature_M=(1.0,))
    together, index_HW = apply_blend(blend, [probs_CHW] * 3, [])
    single, index_alone_HW = apply_blend(alone, [probs_CHW], [])
    np.testing.assert_allclose(together, single, atol=2e-6)
    assert (index_HW == index_alone_HW).mean() > 0.99  # rounding may turn over what is equal to 6 digits


@many
@given(seeds, combinations)
def test_uniform_blend_of_identical_members_gives_their_argmax(seed, combination):
    probs_CHW = soft(np.random.default_rng(seed), (4, 9, 13))
    blend = replace(uniform_blend(CLASSES, ("m0", "m1", "m2")), combination=combination)
    index_HW = apply_blend(blend, [probs_CHW] * 3, [])[1]
    flat_CP = probs_CHW.reshape(4, -1)
    assert (index_HW.ravel() == top_class(flat_CP, class_order(CLASSES))).all()


@many
@given(seeds, combinations)
def test_weight_zero_is_absence(seed, combination):
    rng = np.random.default_rng(seed)
    probs_MCHW, evidence_SHW = random_tile(rng)
    blend = random_blend(rng, combination)
    zero_MC = np.array(blend.weight_MC)
    zero_MC[1] = 0
    silent = replace(blend, weight_MC=tuple(map(tuple, zero_MC.tolist())))
    absent = blend.weighted(blend.models, zero_MC, "direct")
    assert absent.models == ("m0", "m2")
    with_silent = apply_blend(silent, probs_MCHW, evidence_SHW)
    without = apply_blend(absent, probs_MCHW[[0, 2]], evidence_SHW)
    assert all((a == b).all() for a, b in zip(with_silent, without, strict=True))


@many
@given(seeds, combinations)
def test_specialist_without_share_changes_nothing(seed, combination):
    rng = np.random.default_rng(seed)
    probs_MCHW, evidence_SHW = random_tile(rng)
    blend = random_blend(rng, combination)
    idle = replace(blend, specialists=(replace(blend.specialists[0], share=0.0),))
    absent = replace(blend, specialists=())
    assert (apply_blend(idle, probs_MCHW, evidence_SHW)[1] == apply_blend(absent, probs_MCHW, [])[1]).all()


@many
@given(seeds, combinations, st.permutations(range(4)))
def test_permuting_classes_permutes_the_labels(seed, combination, order):
    rng = np.random.default_rng(seed)
    probs_MCHW, evidence_SHW = random_tile(rng)
    blend = random_blend(rng, combination)
    index_HW = apply_blend(blend, probs_MCHW, evidence_SHW)[1]
    other_HW = apply_blend(permuted(blend, order), probs_MCHW[:, order], evidence_SHW)[1]
    assert (np.array(order)[other_HW] == index_HW).mean() > 0.98  # sums in another order: the last digits differ


@many
@given(seeds, combinations, st.sampled_from([(-1,), (-2,), (-1, -2)]))
def test_flipping_the_tile_flips_the_labels(seed, combination, axes):
    rng = np.random.default_rng(seed)
    probs_MCHW, evidence_SHW = random_tile(rng)
    blend = random_blend(rng, combination)
    probs_CHW, index_HW = apply_blend(blend, probs_MCHW, evidence_SHW)
    flipped = apply_blend(blend, np.flip(probs_MCHW, axes), np.flip(evidence_SHW, axes))
    assert (flipped[0] == np.flip(probs_CHW, axes)).all()
    assert (flipped[1] == np.flip(index_HW, axes)).all()


@many
@given(seeds)
def test_blend_survives_json(seed):
    import json

    blend = random_blend(np.random.default_rng(seed), "gmean")
    assert FittedBlend.of_json(json.loads(json.dumps(blend.to_json()))) == blend


@few
@given(seeds)
def test_a_blend_fitted_twice_is_the_same_to_the_bit(seed):
    source = random_source(seed)
    first, second = (fit_blend(draw_sample(source, 4_000), Blend()) for _ in range(2))
    assert first.stages == second.stages
    assert first.choices == second.choices


@few
@given(seeds, st.permutations(range(3)))
def test_order_of_members_changes_nothing(seed, order):
    source = random_source(seed)
    shuffled = replace(source, models=tuple(source.models[m] for m in order), probs_NMCHW=source.probs_NMCHW[:, order])
    first, second = (fit_blend(draw_sample(s, 4_000), Blend()) for s in (source, shuffled))
    assert first.stages == second.stages


@few
@given(seeds, st.permutations(range(4)))
def test_order_of_classes_changes_nothing(seed, order):
    source = random_source(seed)
    rank = np.argsort(order).astype(np.uint8)
    shuffled = replace(
        source,
        classes=tuple(source.classes[c] for c in order),
        probs_NMCHW=source.probs_NMCHW[:, :, order],
        truth_NHW=rank[source.truth_NHW],
        specialists={name: int(rank[c]) for name, c in source.specialists.items()},
    )
    # Weights, whose search is exact; calibration sums floats over the classes in their order.
    wanted = Blend(weights="per_class", calibration="none", decision="argmax", specialists="none", combination="mean")
    first, second = (fit_blend(draw_sample(s, 4_000), wanted).blend for s in (source, shuffled))
    assert permuted(first, order) == second


@few
@given(seeds, st.integers(0, 2))
def test_no_tile_influences_the_rule_that_labels_it(seed, fold):
    source = random_source(seed)
    rng = np.random.default_rng(seed)
    tile = int(rng.choice(np.flatnonzero(source.fold_N == fold)))
    changed_NMCHW = source.probs_NMCHW.copy()
    changed_NMCHW[tile] = soft(rng, changed_NMCHW[tile].shape)
    evidence_NSHW = source.evidence_NSHW.copy()
    evidence_NSHW[tile] = 255 - evidence_NSHW[tile]
    changed = replace(source, probs_NMCHW=changed_NMCHW, evidence_NSHW=evidence_NSHW)
    before, after = (fit_honestly(draw_sample(s, 4_000), Blend()) for s in (source, changed))
    assert before.without[fold].stages == after.without[fold].stages


@many
@given(seeds, st.permutations(range(5)))
def test_top_class_is_the_first_of_the_best_in_order(seed, order):
    score_CP = np.random.default_rng(seed).integers(0, 4, (5, 200))  # few values: many ties
    expected = np.array(order)[score_CP[order].argmax(0)]
    assert (top_class(score_CP, order) == expected).all()


def test_ties_go_to_the_class_whose_name_comes_first():
    assert class_order(("sand", "crop", "wood")) == [1, 0, 2]
    blend = uniform_blend(("sand", "crop", "wood"), ["m"])
    assert (apply_pixels(blend, np.full((1, 3, 5), 85, np.uint8), [])[1] == 1).all()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_evidence_follows_its_formula(share):
    rng = np.random.default_rng(4)
    p, s = soft(rng, (1, 4, 1, 60)).reshape(1, 4, 60), rng.integers(20, 236, 60).astype(np.uint8)
    specialist = FittedSpecialist("s", 2, slope=1.5, bias=-0.4, share=share)
    blend = replace(uniform_blend(CLASSES, ["m"]), specialists=(specialist,))
    found = apply_pixels(blend, p, [s])[0]
    expected = np.maximum(p[0] / p[0].sum(0), 2**-12 if share else 0)
    expected /= expected.sum(0)
    calibrated = 1 / (1 + np.exp(-(1.5 * np.log(s / (255.0 - s)) - 0.4)))
    expected[2] = expected[2] ** (1 - share) * calibrated**share
    np.testing.assert_allclose(found, expected / expected.sum(0), atol=1e-5)


@pytest.mark.parametrize("combination", ["mean", "gmean"])
def test_bytes_and_floats_blend_alike(combination):
    rng = np.random.default_rng(3)
    probs_MCP = soft(rng, (3, 4, 500))
    blend = random_blend(rng, combination, specialists=0)
    from_bytes = apply_pixels(blend, probs_MCP, [])[0]
    from_floats = apply_pixels(blend, probs_MCP.astype(np.float32) / 255, [])[0]
    np.testing.assert_allclose(from_bytes, from_floats, atol=1e-5)


def test_blend_without_sizes_is_not_cleaned():
    rng = np.random.default_rng(5)
    index_HW = rng.integers(0, 4, (12, 17)).astype(np.uint8)
    blend = uniform_blend(CLASSES, ["m"])
    assert (clean_labels(blend, index_HW, rng.random((4, 12, 17)).astype(np.float32)) == index_HW).all()
