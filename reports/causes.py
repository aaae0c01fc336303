"""Why a board score may be lower than the OOF score: one test per cause, each from plain values.

A test returns findings or none. It states what was measured, so that a reader can disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from base.errors import listed
from folds.links import Links
from folds.shift import say_shifted
from submissions.problems import ERROR, Problem

# In the order of the verdict: facts about files before statistics about data.
CAUSES = {
    "zip": "the zip is not what a grader expects",
    "stale": "the run is no longer what the zip was made from, so its OOF score is another blend's",
    "labels": "the way from indices to the labels in the zip changes them",
    "leak": "folds leak: a tile is scored by members that trained on its neighbour or copy, so OOF is too high",
    "in_sample": "the blend was fitted and scored on the same tiles, and flatters itself",
    "weak_member": "one member is far worse than its sisters: OOF shows it on one fold, every test tile gets its share",
    "shift": "the test tiles are of another domain than the train tiles",
    "fold_mean": "calibration, specialists or decision were fitted on single members; the mean over folds is less sure",
}
FLATTERY = 0.01  # mIoU; what the honest score may lie below the in-sample one without a word
WEAK = 0.5  # of the median mIoU of its sisters, below which a member is called weak
LESS_SURE = 0.08  # mean largest probability that the fold mean may lose against single members; on naip it lost .003
# Steps of a blend that go by how sure probabilities are -> their kind that does not.
BY_SURENESS = {"temperatures": "none", "calibration": "none", "specialists": "none", "decision": "argmax"}
CLEAR_AUC = 0.75  # below it, test tiles are too like train tiles to matter
ADAPT = "bash run_cv.sh FILE predict.adapt=true blend.name=adapt    trains nothing; predicts and blends again"
DRAWS, CHANCE = 59, 0.05  # random test sets, and the share of them that may look as different as the real one


@dataclass(frozen=True)
class Finding:
    cause: str
    """A key of CAUSES."""
    what: str
    """What was measured, with numbers."""
    advice: str = ""
    """What to run against it; empty where nothing does by itself."""


def of_verify(problems: Sequence[Problem]) -> list[Finding]:
    """What `submissions.verify` says of the zip, as causes."""
    cause_of = {"shares": "shift", "shifted": "labels"}
    findings = {(cause_of.get(p.kind, "zip"), p.what) for p in problems if p.severity == ERROR or p.kind in cause_of}
    return [Finding(cause, what) for cause, what in sorted(findings)]


def leak(links: Links, fold_N: np.ndarray) -> list[Finding]:
    """Tiles whose neighbour or copy lies in another fold.

    Args:
        links: of the tile table.
        fold_N: (N,) fold of each row of the table; -1 for tiles without, as test tiles.
    """
    findings = []
    for pairs, what in ((links.neighbours, "neighbours, whose borders continue each other,"), (links.copies, "copies")):
        a_P, b_P = (fold_N[pairs[side].to_numpy(np.int64)] for side in "ab")
        both = (a_P >= 0) & (b_P >= 0)
        apart = int((a_P[both] != b_P[both]).sum())
        if apart:
            findings.append(Finding("leak", f"{apart} of {both.sum()} pairs of {what} lie in different folds"))
    return findings


def stale(changed: Sequence[str]) -> list[Finding]:
    """What the zip would be made from now and was not then."""
    return [Finding("stale", f"changed since the zip was made: {listed(changed)}")] if changed else []


def round_trip(from_zip: float, from_oof: float) -> list[Finding]:
    """OOF labels written as a zip and scored from it, against the score of the same labels in memory."""
    if from_zip == from_oof:
        return []
    text = f"OOF labels score {from_zip:.4f} mIoU when read back from a zip, {from_oof:.4f} before they were written"
    return [Finding("labels", text)]


def in_sample(in_sample_miou: float, honest_miou: float) -> list[Finding]:
    """The score on the tiles that the blend was fitted on, against that on folds it was not fitted on."""
    if in_sample_miou - honest_miou <= FLATTERY:
        return []
    text = f"mIoU {in_sample_miou:.4f} on the tiles it was fitted on, {honest_miou:.4f} on folds it was not fitted on"
    return [Finding("in_sample", f"{text}; only the second is a forecast")]


def weak_member(miou_of: dict[str, dict[str, float]]) -> list[Finding]:
    """Members far below the others of their model.

    Args:
        miou_of: model -> member -> OOF mIoU on its own fold.
    """
    findings = []
    for model, members in miou_of.items():
        median = float(np.median(list(members.values())))
        findings += [
            Finding(
                "weak_member", f"{member} has OOF mIoU {miou:.4f}, half of {model}'s members have {median:.4f} or more"
            )
            for member, miou in members.items()
            if miou < WEAK * median
        ]
    return findings


def fold_mean(sure_oof: dict[str, float], sure_test: dict[str, float], kinds: dict[str, str]) -> list[Finding]:
    """How sure the stored probabilities are: single members out of fold, the mean over members on test tiles.

    Args:
        sure_oof: model -> mean over pixels of the largest probability.
        sure_test: the same of the test tiles.
        kinds: step of the blend -> what it came to; where none goes by how sure probabilities are, nothing is lost.
    """
    fitted = [f"{step} {kinds[step]}" for step, plain in BY_SURENESS.items() if kinds.get(step, plain) != plain]
    if not fitted:
        return []
    findings = []
    for model, sure in sure_oof.items():
        if sure - sure_test[model] > LESS_SURE:
            text = (
                f"{model}: the largest probability of a pixel is {sure:.2f} on average out of fold (one member), "
                f"{sure_test[model]:.2f} on test tiles (mean over members); fitted on the first: {listed(fitted)}"
            )
            findings.append(Finding("fold_mean", text))
    return findings


def domain_auc(feature_NF: np.ndarray, is_test_N: np.ndarray, group_N: np.ndarray) -> float:
    """How well a linear classifier tells test tiles from the others by tile statistics: 0.5 not at all, 1 always.

    Scored on groups that it was not fitted on: within a scene all tiles look alike, whatever set it belongs to. NaN
    with fewer than two groups on a side.
    """
    sides = [np.flatnonzero(is_test_N), np.flatnonzero(~is_test_N)]
    splits = min(5, *(len(np.unique(group_N[rows])) for rows in sides))
    if splits < 2:
        return float("nan")
    part_N = np.zeros(len(is_test_N), np.int64)
    for rows in sides:  # each side is split alone, so that both are in every part
        for part, (_, held) in enumerate(GroupKFold(splits).split(rows, groups=group_N[rows])):
            part_N[rows[held]] = part
    score_N = np.zeros(len(is_test_N))
    for part in range(splits):
        held = part_N == part
        # Ridge, not logistic regression: a fit is one small linear system, and `shift` needs hundreds of them.
        model = make_pipeline(StandardScaler(), RidgeClassifier(class_weight="balanced"))
        model.fit(feature_NF[~held], is_test_N[~held])
        score_N[held] = model.decision_function(feature_NF[held])
    return float(roc_auc_score(is_test_N, score_N))


def shift(
    feature_NF: np.ndarray, is_test_N: np.ndarray, group_N: np.ndarray, moved_by_band: pd.Series, adapts: bool
) -> list[Finding]:
    """Whether test scenes differ from train scenes by more than any scenes would, drawn as a test set at random.

    A permutation test over scenes: the AUC of the real test set among those of DRAWS random ones. An AUC near 1 alone
    says little, since a few scenes can always be told from the rest.

    Args:
        feature_NF: statistics of each tile.
        group_N: scenes, of train and test tiles alike.
        moved_by_band: `folds.shift.band_shift`, to say which band differs.
        adapts: whether members go by the test tiles already (predict.adapt).
    """
    auc = domain_auc(feature_NF, is_test_N, group_N)
    if np.isnan(auc) or auc < CLEAR_AUC:
        return []
    groups, rng = np.unique(group_N), np.random.default_rng(0)
    test_groups = len(np.unique(group_N[is_test_N]))
    drawn = [
        domain_auc(feature_NF, np.isin(group_N, rng.choice(groups, test_groups, replace=False)), group_N)
        for _ in range(DRAWS)
    ]
    chance = (1 + sum(value >= auc for value in drawn)) / (1 + DRAWS)
    if chance > CHANCE:
        return []
    moved = say_shifted(moved_by_band)
    told = f"; band means moved, in standard deviations of train: {moved}" if moved else ""
    text = (
        f"tile statistics tell test from train with AUC {auc:.2f}, scenes drawn at random from the rest with "
        f"{np.median(drawn):.2f} (chance {chance:.2f}){told}"
    )
    return [Finding("shift", text, "" if adapts else ADAPT)]


def verdict(findings: list[Finding]) -> str:
    """The likeliest cause, in one sentence."""
    for cause, what in CAUSES.items():
        found = [finding for finding in findings if finding.cause == cause]
        if found:
            return f"likeliest cause: {cause}: {what}"
    return "no cause found: the board should be near the honest score, within its interval"
