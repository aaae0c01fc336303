"""Weights of the models that maximise the mIoU of their combination's argmax, on integers.

Evidence is stored as small integers and weights are counts, so every sum is exact: the result depends neither on the
order of the models nor on the machine.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ensemble.evidence import agreement, tally
from ensemble.fitted import Combination
from ensemble.formulas import FLOOR, lifted
from ensemble.labels import class_order, miou_of_truth, of_class, top_class
from ensemble.sample import Sample
from folds.metrics import confusion

UNITS = 256  # weights are multiples of 1/256: finer ones change next to no label that the stored bytes could tell apart
BAGS = 5
STEPS = 24
PATIENCE = 6  # selections without a better mIoU before a bag is done
PORTIONS = (64, 32, 16, 8, 4, 2)  # of UNITS, moved at once
MIN_GROUPS = 20  # with a class in their truth, before that class gets weights of its own
MIN_GAIN = 1e-6
CHANCE = 0.02  # kappa; whatever a network has learned is far above
TOP = 1300  # largest evidence under gmean: STEPS of it fit 16 bits


@dataclass(frozen=True)
class Ballot:
    """The pixels on which models disagree, with the confusion of all others.

    Where all models agree, so does every weighted mean of theirs, arithmetic or geometric, if a model has one weight.
    With one for each class it need not, and the search takes those pixels for settled all the same: a hundredth of
    them at most, in trials. What judges its result, the evidence, labels every pixel anew.
    """

    evidence_MCP: np.ndarray
    """int16 >= 0 of the disputed pixels: 255 p for mean, a scaled log p for gmean."""
    truth_P: np.ndarray
    weight_P: np.ndarray
    agreed_CC: np.ndarray
    order: list[int]
    """Classes by name: who wins ties."""

    def miou(self, label_P: np.ndarray) -> float:
        """Of all pixels, the disputed ones labelled so."""
        return miou_of_truth(self.agreed_CC + confusion(label_P, self.truth_P, len(self.order), self.weight_P))

    def miou_of_sum(self, total_CP: np.ndarray) -> float:
        return self.miou(top_class(total_CP, self.order))


def telling_models(sample: Sample) -> tuple[str, ...]:
    """The models whose labels agree with the truth more than chance would bring, for certain.

    A model of noise, or one that gives a single class, costs more than its weight: tempered until it is flat it changes
    no label, so searches give it weight for nothing, and it dilutes the probabilities that later steps work on.
    """
    order = class_order(sample.classes)
    truth = sample.truth_P, sample.group_P, sample.num_groups, len(order), sample.weight_P
    return tuple(
        model
        for model, probs_CP in zip(sample.models, sample.probs_MCP, strict=True)
        if agreement(tally(top_class(probs_CP, order), *truth)).low > CHANCE
    )


def ballots(sample: Sample, combination: Combination, temperature_M: tuple[float, ...], bags: int = 0) -> list[Ballot]:
    """The sample as integer evidence: whole, then `bags` times with its groups resampled (their weights change)."""
    order = class_order(sample.classes)
    label_MP = np.stack([top_class(probs_CP, order) for probs_CP in sample.probs_MCP])
    agreed_P = (label_MP == label_MP[0]).all(0)
    disputed, agreed = np.flatnonzero(~agreed_P), np.flatnonzero(agreed_P)
    evidence_MCP = np.stack(
        [
            _integers(probs_CP[:, disputed], combination, temperature, min(temperature_M))
            for probs_CP, temperature in zip(sample.probs_MCP, temperature_M, strict=True)
        ]
    )

    def of(weight_P: np.ndarray) -> Ballot:
        return Ballot(
            evidence_MCP=evidence_MCP,
            truth_P=sample.truth_P[disputed],
            weight_P=weight_P[disputed],
            agreed_CC=confusion(label_MP[0, agreed], sample.truth_P[agreed], len(order), weight_P[agreed]),
            order=order,
        )

    rng = np.random.default_rng(0)
    draws = [rng.integers(0, sample.num_groups, sample.num_groups) for _ in range(bags)]
    times_BG = [np.bincount(draw, minlength=sample.num_groups) for draw in draws]
    bagged = [_without_zeros(of(sample.weight_P * times_G[sample.group_P])) for times_G in times_BG]
    return [of(sample.weight_P), *bagged]


def greedy_weights(bags: list[Ballot]) -> np.ndarray:
    """(M,) weights by ensemble selection (Caruana et al. 2004): models are added one by one, with replacement, each
    time the one that helps the mean most. Repeated on bags of groups; the shares are averaged."""
    return _in_units(np.mean([_select(bag) for bag in bags], axis=0)) / UNITS


def direct_weights(ballot: Ballot, start_M: np.ndarray) -> np.ndarray:
    """(M,) weights by pattern search (Hooke and Jeeves 1961) on the simplex, from `start_M`."""
    return _search(ballot.evidence_MCP, _in_units(start_M), ballot.miou_of_sum) / UNITS


def per_class_weights(ballot: Ballot, start_M: np.ndarray, groups_C: np.ndarray) -> np.ndarray:
    """(M, C) weights: `direct_weights` for one class's column after the other.

    Args:
        groups_C: groups with the class in their truth; a class in fewer than MIN_GROUPS keeps `start_M`.
    """
    units_MC = np.repeat(_in_units(start_M)[:, None], len(ballot.order), axis=1)
    total_CP = _weighted_sum(ballot.evidence_MCP, units_MC[:, 0])
    for c in ballot.order:
        if groups_C[c] >= MIN_GROUPS:
            evidence_MP = ballot.evidence_MCP[:, c]
            units_MC[:, c] = _search(evidence_MP, units_MC[:, c], _one_class_miou(ballot, total_CP, c))
            total_CP[c] = _weighted_sum(evidence_MP, units_MC[:, c])
    return units_MC / UNITS


def _integers(probs_CP: np.ndarray, combination: Combination, temperature: float, coldest: float) -> np.ndarray:
    """int16 evidence whose weighted sum orders the classes as the combination does."""
    if combination == "gmean":
        per_octave = TOP * coldest / -np.log2(FLOOR)  # one scale for all models, whose temperatures differ
        return lifted(
            probs_CP, lambda p: np.rint(np.log2(np.maximum(p, FLOOR) / FLOOR) / temperature * per_octave)
        ).astype(np.int16)
    if temperature == 1:
        return lifted(probs_CP, lambda p: np.rint(p * 255)).astype(np.int16)
    power_CP = lifted(probs_CP, lambda p: np.maximum(p, FLOOR) ** (1 / temperature))
    return np.rint(power_CP * (255 / power_CP.sum(0))).astype(np.int16)


def _without_zeros(ballot: Ballot) -> Ballot:
    kept = np.flatnonzero(ballot.weight_P)
    return replace(
        ballot,
        evidence_MCP=ballot.evidence_MCP[:, :, kept],
        truth_P=ballot.truth_P[kept],
        weight_P=ballot.weight_P[kept],
    )


def _select(ballot: Ballot) -> np.ndarray:
    """(M,) shares of the best prefix of greedy selections."""
    total_CP = np.zeros_like(ballot.evidence_MCP[0])
    count_M = np.zeros(len(ballot.evidence_MCP))
    best, best_count_M, since = -1.0, count_M, 0
    for _ in range(STEPS):
        miou_M = [ballot.miou_of_sum(total_CP + evidence_CP) for evidence_CP in ballot.evidence_MCP]
        chosen = int(np.argmax(miou_M))  # of equal ones the first by name
        total_CP += ballot.evidence_MCP[chosen]
        count_M[chosen] += 1
        since += 1
        if miou_M[chosen] > best + MIN_GAIN:
            best, best_count_M, since = miou_M[chosen], count_M.copy(), 0
        if since == PATIENCE:
            break
    return best_count_M / best_count_M.sum()


def _search(evidence_MX: np.ndarray, units_M: np.ndarray, value: Callable[[np.ndarray], float]) -> np.ndarray:
    """Move units from one model to another as long as that raises value(weighted sum), in ever smaller portions."""
    units_M = units_M.copy()
    total_X = _weighted_sum(evidence_MX, units_M)
    best = value(total_X)
    models = range(len(units_M))
    for portion, giver, taker in ((p, g, t) for p in PORTIONS for g in models for t in models if g != t):
        moved = min(portion, int(units_M[giver]))
        step_X = None
        while 0 < moved <= units_M[giver]:
            if step_X is None:
                step_X = (evidence_MX[taker] - evidence_MX[giver]) * np.int32(moved)
            tried = value(total_X + step_X)
            if tried <= best + MIN_GAIN:
                break
            best, total_X = tried, total_X + step_X
            units_M[giver] -= moved
            units_M[taker] += moved
    return units_M


def _one_class_miou(ballot: Ballot, total_CP: np.ndarray, c: int) -> Callable[[np.ndarray], float]:
    """mIoU as a function of one class's scores, the other classes' being fixed."""
    others = [other for other in ballot.order if other != c]
    runner_up_P = top_class(total_CP, others)
    rank_C = np.argsort(ballot.order)
    # Integers: "at least" is "above one less".
    to_beat_P = of_class(total_CP, runner_up_P) - (rank_C[c] < rank_C[runner_up_P])

    def miou(score_P: np.ndarray) -> float:
        return ballot.miou(np.where(score_P > to_beat_P, np.uint8(c), runner_up_P))

    return miou


def _weighted_sum(evidence_MX: np.ndarray, units_M: np.ndarray) -> np.ndarray:
    total_X = np.zeros(evidence_MX.shape[1:], np.int32)
    for evidence_X, units in zip(evidence_MX, units_M, strict=True):
        if units:
            total_X += evidence_X * np.int32(units)
    return total_X


def _in_units(weight_M: np.ndarray) -> np.ndarray:
    """Whole numbers that sum to UNITS, by largest remainders."""
    exact_M = np.asarray(weight_M, np.float64) / np.sum(weight_M) * UNITS
    units_M = np.floor(exact_M + 1e-9).astype(np.int64)
    missing = UNITS - int(units_M.sum())
    units_M[np.argsort(units_M - exact_M, kind="stable")[:missing]] += 1
    return units_M
