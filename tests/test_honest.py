"""Fitting step by step and the honest score: what it keeps, what it drops, and that it does not flatter."""

from dataclasses import replace

import numpy as np
import pytest

from config.ensemble import PLAIN_MEAN, Blend
from ensemble.apply import apply_blend
from ensemble.build import shipping_stage
from ensemble.evidence import SHIPS, Tally, gain
from ensemble.fit import Step, _choose, _take, fit_blend, tally_sample
from ensemble.fitted import uniform_blend
from ensemble.honest import Scored, fit_honestly, score_sample, score_tiles
from ensemble.postprocess import fit_postprocess
from ensemble.sample import draw_sample
from ensemble.specialists import fit_override
from folds.metrics import confusion, mean_iou
from tests.posteriors import memory_source, random_source

RARE = (0.8, 0.14, 0.04, 0.02)


@pytest.fixture(scope="module")
def rare():
    """A source where argmax gives rare classes away, its sample, and an honest fit of everything."""
    source = random_source(1, tiles=30, px=32, shares=RARE, noises=(1.3, 1.6, 2.0))
    sample = draw_sample(source, 10**6)
    return source, sample, fit_honestly(sample, Blend())


def test_auto_beats_uniform_and_argmax_honestly(rare):
    source, _, fits = rare
    scored = score_tiles(fits, source)
    first, last = scored["uniform"], scored[fits.stages[-1]]
    assert last.gain_over(first).low > 0
    assert last.estimate.low < last.honest.miou < last.estimate.high


def test_sample_and_tiles_give_the_same_score_when_the_sample_is_everything(rare):
    source, sample, fits = rare
    by_sample, by_tiles = score_sample(fits, sample), score_tiles(fits, source)
    assert by_sample.keys() == by_tiles.keys() == set(fits.stages)
    for stage in fits.stages:
        assert by_sample[stage].honest.miou == pytest.approx(by_tiles[stage].honest.miou, abs=1e-9)
        assert by_sample[stage].in_sample.miou == pytest.approx(by_tiles[stage].in_sample.miou, abs=1e-9)


def test_the_score_is_that_of_the_function_that_labels(rare):
    """Each tile labelled by the blend fitted without its fold, one confusion, one mIoU."""
    source, _, fits = rare
    stage = fits.stages[-1]
    conf_CC = np.zeros((4, 4), np.int64)
    for i in range(len(source.names)):
        blend = fits.without[int(source.fold_N[i])].stages[stage]
        evidence = source.evidence(i, [s.name for s in blend.specialists])
        conf_CC += confusion(apply_blend(blend, source.probs(i, blend.models), evidence)[1], source.truth(i), 4)
    scored = score_tiles(fits, source)[stage]
    assert scored.honest.miou == pytest.approx(mean_iou(conf_CC))
    assert (scored.honest.conf_CC == conf_CC).all()


def test_a_fold_without_a_labelled_pixel_is_labelled_by_the_fit_that_saw_none_of_it():
    source = random_source(3, tiles=18, px=16)
    blank_N = source.fold_N == 2
    source = replace(source, truth_NHW=np.where(blank_N[:, None, None], np.uint8(255), source.truth_NHW))
    sample = draw_sample(source, 10**6)
    assert sample.folds == [0, 1]
    fits = fit_honestly(sample, Blend(specialists="none", decision="miou"))
    scored = score_tiles(fits.of_folds(source.fold_N), source)
    assert fits.of_folds(source.fold_N).without[2] == fits.whole
    for stage, found in score_sample(fits, sample).items():
        assert scored[stage].honest.miou == pytest.approx(found.honest.miou)
    cleaned = fit_postprocess(fits.of_folds(source.fold_N), source, Blend(postprocess="clean"))
    assert set(cleaned.without) == {0, 1, 2}


def test_a_good_specialist_stays_and_a_useless_one_is_dropped():
    source = random_source(2, tiles=30, px=32, shares=RARE, noises=(1.6,), specialists=2)
    evidence = source.evidence_NSHW.copy()
    evidence[:, 1] = np.random.default_rng(2).integers(0, 256, evidence[:, 1].shape)
    source = replace(source, evidence_NSHW=evidence)
    fit = fit_blend(draw_sample(source, 10**6), Blend(specialists="auto", decision="miou"))
    assert [specialist.name for specialist in fit.blend.specialists] == ["rare0"]
    assert fit.blend.specialists[0].share > 0.3
    by_name = {choice.step: choice for choice in fit.choices}
    assert by_name["specialist rare0"].ships
    assert not by_name["specialist rare1"].ships
    assert by_name["specialist rare1"].gain.value <= 0
    joint = {choice.kind: choice for choice in fit.choices if choice.step == "specialists"}
    assert joint["evidence"].ships
    assert joint["override"].gain.value > 0  # a good specialist helps either way; this one is only compared
    assert not joint["override"].ships


def test_override_gives_the_class_to_the_specialist():
    source = random_source(3, tiles=30, px=32, shares=RARE, noises=(2.0,))
    sample = draw_sample(source, 10**6)
    plain = fit_blend(sample, Blend(specialists="none", decision="argmax", calibration="none")).blend
    fitted = fit_blend(sample, Blend(specialists="override", decision="argmax", calibration="none")).blend
    assert fitted.specialists[0].threshold is not None
    assert tally_sample(fitted, sample).miou > tally_sample(plain, sample).miou


def test_forced_steps_are_done_and_not_asked_about():
    sample = draw_sample(random_source(4), 10**6)
    wanted = Blend(combination="gmean", weights="greedy", calibration="vector", specialists="none", decision="bias")
    fit = fit_blend(sample, wanted)
    assert fit.choices == []
    assert fit.blend.kinds == {
        "members": "all", "temperatures": "tempered", "weights": "greedy", "combination": "gmean",
        "calibration": "vector", "specialists": "none", "decision": "bias",
    }  # fmt: skip


def test_without_a_second_fold_auto_leaves_everything_as_it_is():
    sample = draw_sample(random_source(5), 10**6)
    fit = fit_blend(sample.only(0), Blend())
    assert set(fit.stages.values()) == {fit.stages["uniform"]}


def test_one_model_has_no_weights_to_choose():
    fit = fit_blend(draw_sample(random_source(6, noises=(1.0,)), 10**6), Blend())
    assert list(fit.stages) == ["uniform", "calibration", "specialists", "decision"]


def test_in_sample_flatters_and_honest_does_not():
    """Labels that are pure chance: what is fitted on them looks good on them, and only there."""
    source = random_source(7, tiles=24, px=8, noises=(1.0, 1.0, 1.0), specialists=0)
    truth_NHW = np.random.default_rng(7).integers(0, 4, source.truth_NHW.shape).astype(np.uint8)
    sample = draw_sample(replace(source, truth_NHW=truth_NHW), 10**6)
    forced = Blend(weights="per_class", calibration="vector", decision="bias")
    scored = score_sample(fit_honestly(sample, forced), sample)["decision"]
    assert scored.in_sample.miou > scored.honest.miou + 0.01


@pytest.mark.parametrize("kinds", [["leave"], ["leave", "do"]])
def test_a_step_is_fitted_without_the_fold_that_judges_it(kinds):
    sample = draw_sample(random_source(8), 10**6)
    seen = []

    def fit(blend, inside, kinds):
        seen.append(tuple(inside.folds))
        return dict.fromkeys(kinds, blend)

    blends = dict.fromkeys([*sample.folds, None], uniform_blend(sample.classes, sample.models))
    _take(Step("test", "miou", kinds, fit), blends, sample)
    assert sorted(seen) == [(0, 1), (0, 1, 2), (0, 2), (1, 2)]


def test_evidence_is_from_folds_that_were_not_fitted_on():
    """Labels of pure chance: seen in-sample, every step would ship."""
    source = random_source(9, tiles=24, px=8, noises=(1.0, 1.0, 1.0), specialists=0)
    truth_NHW = np.random.default_rng(9).integers(0, 4, source.truth_NHW.shape).astype(np.uint8)
    fit = fit_blend(draw_sample(replace(source, truth_NHW=truth_NHW), 10**6), Blend(calibration="vector"))
    by_kind = {choice.kind: choice for choice in fit.choices if choice.step == "weights"}
    assert by_kind["direct"].gain.value < 0.01
    assert not by_kind["per_class"].ships


def labelled(hits: int, sure: float) -> Tally:
    """Twelve groups of 10,000 pixels of two classes, of which so many are right in each, give or take a few."""
    hit_GC = hits + np.arange(24.0).reshape(12, 2) % 5
    truth_GC = np.full((12, 2), 5_000.0)
    return Tally(hit_GC, 2 * truth_GC - hit_GC, truth_GC, np.linspace(0.9, 1.1, 12) * sure, np.zeros((2, 2)))


@pytest.mark.parametrize(("hits", "kind"), [(3_999, "surer"), (3_950, "as it was")])
def test_log_loss_ships_what_costs_mIoU_next_to_nothing_and_nothing_that_costs_more(hits, kind):
    """Both losses of mIoU are certain: one of .0002, one of .008."""
    tallies = {"as it was": labelled(4_000, 9_000.0), "surer": labelled(hits, 8_000.0)}
    assert gain(tallies["surer"], tallies["as it was"]).high < 0
    assert gain(tallies["surer"], tallies["as it was"], "nll").above_zero
    assert _choose(Step("calibration", "nll", list(tallies), None), tallies)[0] == kind


def test_a_noisy_candidate_that_gains_most_does_not_block_one_that_is_certain_to_gain():
    plain, small, sure = labelled(3_900, 9_000.0), labelled(3_920, 9_000.0), labelled(3_940, 9_000.0)
    noise_GC = np.where(np.arange(24).reshape(12, 2) % 3 == 0, 1_000.0, -400.0)  # +67 a group, now here, now there
    wild = replace(plain, hit_GC=plain.hit_GC + noise_GC, union_GC=plain.union_GC - noise_GC)
    tallies = {"as it was": plain, "small": small, "wild": wild, "sure": sure}
    gains = {kind: gain(tallies[kind], plain, tried=3, confidence=SHIPS) for kind in ("small", "wild", "sure")}
    assert gains["wild"].value > gains["sure"].value > gains["small"].value > 0
    assert [kind for kind, estimate in gains.items() if estimate.above_zero] == ["small", "sure"]
    chosen, choices = _choose(Step("weights", "miou", list(tallies), None), tallies)
    assert chosen == "sure"
    assert [choice.kind for choice in choices if choice.ships] == ["sure"]


@pytest.mark.parametrize(
    ("asked", "stage"),
    [
        ({}, "uniform"),
        *(({step: kind}, "uniform") for step, kind in PLAIN_MEAN.items()),
        ({"weights": "greedy"}, "decision"),
        ({"postprocess": "none", "decision": "miou"}, "decision"),
    ],
)
def test_steps_that_do_not_pay_together_are_left_out_unless_one_is_asked_for_by_name(asked, stage):
    """To leave a step out by name is to ask for less, not for the rest whatever it is worth."""
    better, middle, worse = (Scored(labelled(hits, 1.0), labelled(4_500, 1.0)) for hits in (4_100, 4_200, 4_000))
    assert shipping_stage({"uniform": better, "weights": middle, "decision": worse}, Blend(**asked)) == stage
    assert shipping_stage({"uniform": worse, "weights": middle, "decision": better}, Blend(**asked)) == "decision"


def test_with_two_folds_nothing_is_chosen_that_the_honest_score_could_not_choose():
    sample = draw_sample(random_source(2, tiles=30, px=32, folds=2, shares=RARE), 10**6)
    assert set(fit_blend(sample, Blend()).blend.kinds.values()) & {"vector", "miou", "bias"}  # it would, if asked
    fits = fit_honestly(sample, Blend())
    assert fits.whole.choices == []
    for fit in (fits.whole, *fits.without.values()):
        assert set(fit.stages.values()) == {fit.stages["uniform"]}


def test_a_specialist_ships_only_if_its_step_does(monkeypatch):
    source = random_source(2, tiles=30, px=32, shares=RARE, noises=(1.6,))
    monkeypatch.setattr("ensemble.fit._choose", lambda step, tallies: (step.kinds[0], []))  # nothing pays
    fit = fit_blend(draw_sample(source, 10**6), Blend())
    by_name = {choice.step: choice for choice in fit.choices}
    assert by_name["specialist rare0"].gain.value > 0
    assert not fit.blend.specialists
    assert not any(choice.ships for choice in fit.choices)


def test_the_highest_threshold_may_be_the_best():
    """A model that misses half of a class, and a specialist that is sure of just these and unsure of much else."""
    rng = np.random.default_rng(1)
    truth_NHW = rng.choice(3, p=[0.6, 0.3, 0.1], size=(20, 32, 32)).astype(np.uint8)
    said_NHW = np.where((truth_NHW == 2) & (rng.random(truth_NHW.shape) < 0.5), 0, truth_NHW)
    probs_N1CHW = np.where(said_NHW[:, None, None] == np.arange(3)[:, None, None], 235, 10).astype(np.uint8)
    evidence_NHW = np.where(truth_NHW == 2, 255, np.where(rng.random(truth_NHW.shape) < 0.3, 128, 0)).astype(np.uint8)
    source = memory_source(
        probs_N1CHW, truth_NHW, np.arange(20) % 2, specialists={"sp": 2}, evidence_NSHW=evidence_NHW[:, None]
    )
    sample = draw_sample(source, 10**6)
    plain = uniform_blend(sample.classes, sample.models)
    assert tally_sample(plain, sample).miou < 0.9
    assert tally_sample(fit_override(plain, sample, ["sp"]), sample).miou == 1


def test_a_specialist_that_is_wrong_where_it_is_sure_overrides_nothing():
    source = random_source(3, tiles=12, px=32, noises=(0.3,))
    evidence_NSHW = np.where(source.truth_NHW == 0, 255, 0).astype(np.uint8)[:, None]  # of the last class
    sample = draw_sample(replace(source, evidence_NSHW=evidence_NSHW), 10**6)
    plain = uniform_blend(sample.classes, sample.models)
    assert fit_override(plain, sample, ["rare0"]) == plain
