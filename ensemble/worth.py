"""What the table says beside the scores: what each model is worth and costs, how errors go together, calibration."""

import numpy as np
import pandas as pd

from base.progress import track
from config import Run
from config.ensemble import Blend
from ensemble.apply import apply_sample
from ensemble.calibration import calibration_error
from ensemble.evidence import gain
from ensemble.fitted import FittedBlend
from ensemble.honest import HonestFit, fit_honestly, score_sample
from ensemble.labels import class_order, top_class
from ensemble.sample import Sample
from folds.assign import read_folds
from folds.tiles import read_tiles
from pipeline.costs import TileCounts, passes_per_tile, read_costs


def calibration_errors(fits: HonestFit, sample: Sample) -> dict[str, float]:
    """Stage -> expected calibration error, on folds that it was not fitted on. Post-processing has no probabilities."""
    errors = {}
    for stage, blend in fits.whole.stages.items():
        if "postprocess" in blend.kinds:
            continue
        parts = []
        for fold, fit in sorted(fits.without.items()):
            outside = sample.only(fold)
            probs_CP, index_P = apply_sample(fit.stages[stage], outside)
            error = calibration_error(probs_CP, index_P, outside.truth_P, outside.weight_P)
            parts.append((error, outside.weight_P.sum()))
        errors[stage] = float(np.average([error for error, _ in parts], weights=[weight for _, weight in parts]))
    return errors


def model_worth(run: Run, sample: Sample, blend: FittedBlend, settings: Blend) -> pd.DataFrame:
    """A row per model of all classes and per specialist: what the honest score loses without it, and what it costs.

    All fits here take the kinds of steps that the blend came to; only their parameters are fitted anew.
    """
    asked = {step: kind for step, kind in blend.kinds.items() if step in Blend.model_fields}
    fixed = settings.model_copy(update=asked | {"postprocess": "none"})
    with_it = dict(zip(blend.models, np.mean(blend.weight_MC, axis=1), strict=True))
    share = {specialist.name: specialist.share for specialist in blend.specialists}
    parts = {model: sample.without_model(model) for model in (*sample.models, *sample.specialists)}
    if len(sample.models) == 1:
        del parts[sample.models[0]]  # nothing is left without it
    tally = {}
    for model, part in track([(None, sample), *parts.items()], "worth of models"):
        fits = fit_honestly(part, fixed)
        tally[model] = score_sample(fits, part)[fits.stages[-1]].honest
    seconds = seconds_per_1000_tiles(run)
    rows = []
    for model in (*sample.models, *sample.specialists):
        worth = gain(tally[None], tally[model]) if model in tally else None
        rows.append(
            {"model": model, "weight": float(with_it.get(model, share.get(model, 0.0)))}
            | {key: getattr(worth, part, np.nan) for key, part in
               (("worth", "value"), ("worth_low", "low"), ("worth_high", "high"))}
            | {"s_per_1000_tiles": seconds.get(model, np.nan)}
        )  # fmt: skip
    return pd.DataFrame(rows)


def error_correlation(sample: Sample) -> pd.DataFrame:
    """(M, M) correlation of being wrong, over pixels: models that err together add little to each other."""
    order = class_order(sample.classes)
    wrong_MP = np.stack([top_class(probs_CP, order) != sample.truth_P for probs_CP in sample.probs_MCP])
    share_P = sample.weight_P / sample.weight_P.sum()
    away_MP = wrong_MP - (wrong_MP @ share_P)[:, None]
    covariance_MM = (away_MP * share_P) @ away_MP.T
    spread_M = np.sqrt(np.maximum(np.diagonal(covariance_MM), 1e-12))
    return pd.DataFrame(covariance_MM / np.outer(spread_M, spread_M), index=sample.models, columns=sample.models)


def seconds_per_1000_tiles(run: Run) -> dict[str, float]:
    """Seconds that all members of a model take for 1,000 test tiles, by `pipeline.cv`'s measurement of this machine."""
    tiles, folds = read_tiles(run.tiles_csv), read_folds(run.folds_csv)
    costs = read_costs(run, TileCounts.of(tiles, folds, run.experiment.folds.k))
    passes = passes_per_tile(run.experiment.predict)
    members = {model.name: len(list(run.members(model))) for model in run.experiment.models}
    return {name: 1000 * passes * members[name] * cost.forward_s for name, cost in costs.items()}
