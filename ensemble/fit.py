"""Fit a blend on a sample, step by step. Under `auto`, a step ships only if folds it was not fitted on speak for it.

    members -> temperatures -> weights -> combination -> calibration -> specialists -> decision

Each step is fitted once on the whole sample and once without each of its folds. The latter are scored on the fold that
they did not see; the sum of those scores is the evidence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

import numpy as np

from config.ensemble import PLAIN_MEAN, Blend
from ensemble.apply import apply_sample
from ensemble.calibration import fit_temperature, fit_vector, fitting_part
from ensemble.decision import fit_bias_rule, fit_miou_rule
from ensemble.evidence import SHIPS, Estimate, Measure, Tally, gain, joined, tally
from ensemble.fitted import FittedBlend, uniform_blend
from ensemble.formulas import FLOOR, tempered
from ensemble.labels import class_order, of_class
from ensemble.sample import Sample
from ensemble.specialists import fit_evidence, fit_override
from ensemble.weights import BAGS, ballots, direct_weights, greedy_weights, per_class_weights, telling_models

PLAIN = PLAIN_MEAN | {"temperatures": "none"}
"""Each step -> its kind that leaves things as they are."""
HARM = 0.001
"""mIoU. One temperature for all changes a few ties of an argmax: a loss of .00002 may be certain, and is none."""


@dataclass(frozen=True)
class Choice:
    """What the evidence said of one candidate of one step."""

    step: str
    kind: str
    measure: Measure
    gain: Estimate
    """Over leaving the step out, on folds that the candidate was not fitted on."""
    ships: bool


@dataclass(frozen=True)
class Fit:
    """A fitted blend with how it came to be."""

    stages: dict[str, FittedBlend]
    """After each step, in order, beginning with "uniform": the plain mean and argmax."""
    choices: list[Choice] = field(default_factory=list)

    @property
    def blend(self) -> FittedBlend:
        return list(self.stages.values())[-1]


Fitted = dict[str, FittedBlend]
"""Kind of a step -> the blend with it."""


@dataclass(frozen=True)
class Step:
    name: str
    measure: Measure
    kinds: list[str]
    """Candidates, the first being to leave things as they are; a single one is not asked about but done."""
    fit: Callable[[FittedBlend, Sample, Sequence[str]], Fitted]
    """The blend with each of some candidates, all of which change something."""
    judge: Callable[[FittedBlend, Sample], FittedBlend] | None = None
    """What is scored in a candidate's place, where its worth shows only together with a later step."""

    def fit_kinds(self, blend: FittedBlend, inside: Sample, kinds: Sequence[str]) -> Fitted:
        """`fit` for any candidates, with what each came to written down."""
        changing = [kind for kind in kinds if kind != PLAIN.get(self.name)]
        fitted = dict.fromkeys(kinds, blend) | (self.fit(blend, inside, changing) if changing else {})
        # "members" has said so itself, as "2 of 3".
        return {
            kind: each if self.name in each.kinds else replace(each, kinds=each.kinds | {self.name: kind})
            for kind, each in fitted.items()
        }


def fit_blend(sample: Sample, settings: Blend, ask: bool = True, temperatures: str | None = None) -> Fit:
    """Fit all steps.

    Args:
        ask: for evidence, of which there is none with a single fold in the sample; without it `auto` leaves every step
            out.
        temperatures: see `steps`.
    """
    blend = uniform_blend(sample.classes, sample.models)
    stages = {"uniform": blend}
    choices: list[Choice] = []
    folds = sample.folds if ask and len(sample.folds) > 1 else []
    blends = dict.fromkeys([*folds, None], blend)  # fold -> fitted without it; None: on everything
    plan = steps(sample, settings, temperatures)
    for position, step in enumerate(plan):
        if not any(len(later.kinds) > 1 for later in plan[position:]):
            blends = {None: blends[None]}  # nothing is asked any more: no need of fits without a fold
        dropped: list[Choice] = []
        if step.name == "specialists" and settings.specialists == "auto":
            step, dropped = _drop_specialists(step, blends, sample)
        blends, asked = _take(step, blends, sample)
        stays = {f"specialist {specialist.name}" for specialist in blends[None].specialists}
        choices += [replace(choice, ships=choice.step in stays) for choice in dropped] + asked
        stages[step.name] = blends[None]
    return Fit(stages, choices)


def steps(sample: Sample, settings: Blend, temperatures: str | None = None) -> list[Step]:
    """The steps that the settings ask for and the sample has the models for.

    Args:
        temperatures: the kind of that step, which no key of the settings names; None: as `calibration` asks.
    """
    several = len(sample.models) > 1
    calibration, combination, weights = settings.calibration, settings.combination, settings.weights
    plan = []
    if several:
        asked = {"none": ["none"], "auto": ["none", "tempered"]}.get(calibration, ["tempered"])
        if weights != "uniform":
            plan.append(Step("members", "miou", ["telling"], _leave_out_noise))
        plan += [
            Step("temperatures", "nll", [temperatures] if temperatures else asked, _fit_temperatures),
            Step("weights", "miou", _kinds(weights, ["uniform", "greedy", "direct", "per_class"]), _fit_weights),
            # After the weights, which it fits anew: gmean is judged by what good weights make of it.
            Step("combination", "miou", _kinds(combination, ["mean", "gmean"]), _fit_combination),
        ]
    plan.append(Step("calibration", "nll", _kinds(calibration, ["none", "temperature", "vector"]), _fit_calibration))
    decision = Step("decision", "miou", _kinds(settings.decision, ["argmax", "bias", "miou"]), _fit_decision)
    if sample.specialists:
        judge_kind = "miou" if settings.decision == "auto" else settings.decision
        plan.append(
            Step(
                "specialists",
                "miou",
                ["none", "evidence"] if settings.specialists == "auto" else [settings.specialists],
                partial(_fit_specialists, names=tuple(sample.specialists)),
                judge=lambda blend, inside: decision.fit_kinds(blend, inside, [judge_kind])[judge_kind],
            )
        )
    return [*plan, decision]


def tally_sample(blend: FittedBlend, sample: Sample) -> Tally:
    """The blend's counts on a sample."""
    probs_CP, index_P = apply_sample(blend, sample)
    loss_P = -np.log(np.maximum(of_class(probs_CP, sample.truth_P), FLOOR))
    return tally(
        index_P,
        sample.truth_P,
        sample.group_P,
        sample.num_groups,
        len(sample.classes),
        sample.weight_P,
        loss_P,
    )


def _kinds(chosen: str, known: list[str]) -> list[str]:
    return known if chosen == "auto" else [chosen]


def _take(
    step: Step, blends: dict[int | None, FittedBlend], sample: Sample
) -> tuple[dict[int | None, FittedBlend], list[Choice]]:
    """The blends with the step's best kind, if there is a choice and evidence; and that evidence."""
    folds = [fold for fold in blends if fold is not None]
    chosen, choices = step.kinds[0], []
    fitted: dict[int | None, Fitted] = {}
    if len(step.kinds) > 1 and len(folds) > 1:
        fitted, tallies = _try(step, blends, sample, folds)
        chosen, choices = _choose(step, tallies)
    return {
        fold: (fitted.get(fold) or step.fit_kinds(blend, sample.without(fold), [chosen]))[chosen]
        for fold, blend in blends.items()
    }, choices


def _try(
    step: Step, blends: dict[int | None, FittedBlend], sample: Sample, folds: list[int]
) -> tuple[dict[int | None, Fitted], dict[str, Tally]]:
    """All kinds fitted without each fold, and each kind's counts on the folds left out."""
    fitted: dict[int | None, Fitted] = {}
    parts: dict[str, list[Tally]] = {kind: [] for kind in step.kinds}
    for fold in folds:
        inside, outside = sample.without(fold), sample.only(fold)
        fitted[fold] = step.fit_kinds(blends[fold], inside, step.kinds)
        for kind, blend in fitted[fold].items():
            judged = step.judge(blend, inside) if step.judge else blend
            parts[kind].append(tally_sample(judged, outside))
    return fitted, {kind: joined(tallies) for kind, tallies in parts.items()}


def _drop_specialists(step: Step, blends: dict[int | None, FittedBlend], sample: Sample) -> tuple[Step, list[Choice]]:
    """The step without those specialists that add nothing to the others, and what speaks for each, which ship only if
    the step does; beside it, for comparison, what the plain rule would bring that lets each win above a threshold.

    They leave one at a time, the one that adds least first: of two that know the same, neither adds to the other.
    """
    folds = [fold for fold in blends if fold is not None]
    if len(folds) < 2:
        return step, []
    parts = [(blends[fold], sample.without(fold), sample.only(fold)) for fold in folds]

    def held_out(fit: Callable[[FittedBlend, Sample], FittedBlend]) -> Tally:
        return joined(tally_sample(step.judge(fit(blend, inside), inside), outside) for blend, inside, outside in parts)

    @cache
    def with_evidence(names: tuple[str, ...]) -> Tally:
        return held_out(partial(fit_evidence, names=names))

    kept, gains = tuple(sample.specialists), {}
    while kept:
        without = {name: tuple(other for other in kept if other != name) for name in kept}
        gains |= {
            name: gain(with_evidence(kept), with_evidence(without[name]), step.measure, confidence=SHIPS)
            for name in kept
        }
        least = min(kept, key=lambda name: gains[name].value)
        if gains[least].value > 0:
            break
        kept = without[least]
    choices = [Choice(f"specialist {name}", "evidence", step.measure, gains[name], ships=False)
               for name in sample.specialists]  # fmt: skip
    overridden = held_out(partial(fit_override, names=tuple(sample.specialists)))
    by_override = gain(overridden, with_evidence(()), step.measure, confidence=SHIPS)
    choices.append(Choice("specialists", "override", step.measure, by_override, ships=False))
    return replace(step, fit=partial(_fit_specialists, names=kept)), choices


def _choose(step: Step, tallies: dict[str, Tally]) -> tuple[str, list[Choice]]:
    """Of the kinds whose gain over the first is above 0 with confidence, the one that gains most; else the first.

    The best of all need not be one of them: a noisy one must not stand in the way of a sure one. Intervals are widened
    for all candidates, so that none is certain by chance, whichever is taken.

    What is judged by log loss must not cost more than HARM of mIoU with the same confidence: log loss is a means.
    """
    first, *others = step.kinds
    gains = {kind: gain(tallies[kind], tallies[first], step.measure, len(others), SHIPS) for kind in others}
    cost = {kind: gain(tallies[kind], tallies[first], "miou", confidence=SHIPS) for kind in others}
    certain = [kind for kind in others if gains[kind].above_zero and cost[kind].high >= -HARM]
    ships = max(certain, key=lambda kind: gains[kind].value, default=first)
    return ships, [Choice(step.name, kind, step.measure, gains[kind], kind == ships) for kind in others]


def _leave_out_noise(blend: FittedBlend, inside: Sample, kinds: Sequence[str]) -> Fitted:
    """The plain mean of those models whose labels agree with the truth more than chance would; of all if none do."""
    models = telling_models(inside) or inside.models
    weight_MC = np.full((len(models), len(blend.classes)), 1 / len(models))
    kept = blend.weighted(models, weight_MC, "uniform")
    kind = "all" if len(models) == len(inside.models) else f"{len(models)} of {len(inside.models)}"
    return {kinds[0]: replace(kept, kinds=blend.kinds | {"members": kind})}


def _fit_temperatures(blend: FittedBlend, inside: Sample, kinds: Sequence[str]) -> Fitted:
    part = fitting_part(inside.of_models(blend.models))
    temperature_M = [
        fit_temperature(tempered(probs_CP, 1.0), part.truth_P, part.weight_P) for probs_CP in part.probs_MCP
    ]
    return dict.fromkeys(kinds, replace(blend, temperature_M=tuple(temperature_M)))


def _fit_weights(blend: FittedBlend, inside: Sample, kinds: Sequence[str]) -> Fitted:
    part = inside.of_models(blend.models)
    ballot, *bags = ballots(part, blend.combination, blend.temperature_M, bags=BAGS)
    greedy_M = greedy_weights(bags)
    weights = {"greedy": greedy_M}
    if {"direct", "per_class"} & set(kinds):
        weights["direct"] = direct_weights(ballot, greedy_M)
    if "per_class" in kinds:
        weights["per_class"] = per_class_weights(ballot, weights["direct"], _groups_of_class(inside))
    shape = len(greedy_M), len(blend.classes)
    weight_MC = {kind: np.broadcast_to(weights[kind].reshape(len(greedy_M), -1), shape) for kind in kinds}
    return {kind: blend.weighted(blend.models, weight_MC[kind], kind) for kind in kinds}


def _fit_combination(blend: FittedBlend, inside: Sample, kinds: Sequence[str]) -> Fitted:
    weights = blend.kinds["weights"]
    fitted = {kind: replace(blend, combination=kind) for kind in kinds}
    if weights == PLAIN["weights"]:
        return fitted
    return {kind: _fit_weights(combined, inside, [weights])[weights] for kind, combined in fitted.items()}


def _groups_of_class(sample: Sample) -> np.ndarray:
    """(C,) groups whose truth holds the class."""
    num_classes = len(sample.classes)
    there = np.unique(sample.group_P.astype(np.int64) * num_classes + sample.truth_P)
    return np.bincount(there % num_classes, minlength=num_classes)


def _fit_calibration(blend: FittedBlend, inside: Sample, kinds: Sequence[str]) -> Fitted:
    part = fitting_part(inside)
    probs_CP, _ = apply_sample(blend, part)
    temperature = fit_temperature(probs_CP, part.truth_P, part.weight_P)
    fitted = {"temperature": replace(blend, slope_C=(1 / temperature,) * len(blend.classes))}
    if "vector" in kinds:
        slope_C, bias_C = fit_vector(probs_CP, part.truth_P, part.weight_P, temperature)
        fitted["vector"] = replace(blend, slope_C=tuple(slope_C.tolist()), bias_C=tuple(bias_C.tolist()))
    return {kind: fitted[kind] for kind in kinds}


def _fit_specialists(blend: FittedBlend, inside: Sample, kinds: Sequence[str], names: Sequence[str]) -> Fitted:
    fit = {"evidence": fit_evidence, "override": fit_override}
    return {kind: fit[kind](blend, inside, names) for kind in kinds}


def _fit_decision(blend: FittedBlend, inside: Sample, kinds: Sequence[str]) -> Fitted:
    fitted, rules = {}, {"bias": fit_bias_rule, "miou": fit_miou_rule}
    probs_CP, _ = apply_sample(blend, inside)
    for kind in kinds:
        gain_C, offset_C = rules[kind](probs_CP, inside.truth_P, inside.weight_P, class_order(blend.classes))
        fitted[kind] = replace(blend, gain_C=tuple(gain_C.tolist()), offset_C=tuple(offset_C.tolist()))
    return fitted
