"""What the table says beside the scores: what each model is worth and costs, how errors go together, calibration."""

import numpy as np
import pandas as pd

from base.files import read_json
from base.progress import track
from config import Run
from config.ensemble import PLAIN_MEAN, Blend
from ensemble.apply import apply_sample
from ensemble.calibration import calibration_error
from ensemble.evidence import UNKNOWN, Estimate, Tally, gain
from ensemble.fitted import FittedBlend
from ensemble.honest import HonestFit, fit_honestly, score_sample
from ensemble.labels import class_order, top_class
from ensemble.sample import Sample
from pipeline.finished import SECONDS


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

    A model or specialist that the blend has left out is worth 0 to it, by definition.
    """
    fixed = same_kinds(blend, settings)
    temperatures = blend.kinds.get("temperatures", "none")
    with_it = dict(zip(blend.models, np.mean(blend.weight_MC, axis=1), strict=True))
    share = {specialist.name: specialist.share for specialist in blend.specialists}
    names = (*sample.models, *sample.specialists)
    left_out = [name for name in names if name not in with_it and name not in share]
    blended = sample.without_models(left_out)
    # Not the only model, without which there is no blend.
    asked = [name for name in (*blended.models, *blended.specialists) if blended.models != (name,)]
    everything = honest_tally(blended, fixed, temperatures)
    worth = dict.fromkeys(left_out, Estimate(0.0, 0.0, 0.0)) | {
        name: gain(everything, honest_tally(blended.without_models([name]), fixed, temperatures))
        for name in track(asked, "worth of models")
    }
    seconds, counts = seconds_per_1000_tiles(run), member_counts(run)
    rows = [
        {"model": name, **counts[name], "weight": float(with_it.get(name, share.get(name, 0.0)))}
        | worth.get(name, UNKNOWN).columns("worth")
        | {"s_per_1000_tiles": seconds[name]}
        for name in names
    ]
    return pd.DataFrame(rows)


def member_counts(run: Run) -> dict[str, dict[str, int]]:
    """Model -> members: how many make its test predictions; on_all_tiles: of these, how many have no held-out fold."""
    folds = {model.name: [member.fold for member in run.members(model)] for model in run.experiment.models}
    return {name: {"members": len(each), "on_all_tiles": each.count(None)} for name, each in folds.items()}


def same_kinds(blend: FittedBlend, settings: Blend) -> Blend:
    """Settings under which a fit takes the kinds of steps that a blend came to, and only their parameters are fitted
    anew: a gain between two such fits is the models', not that of a choice which fell out the other way. A step that
    the blend has not is left out, all of them where the plain mean ships."""
    taken = {step: kind for step, kind in blend.kinds.items() if step in Blend.model_fields}
    return settings.model_copy(update=PLAIN_MEAN | taken | {"postprocess": "none"})


def honest_tally(sample: Sample, settings: Blend, temperatures: str | None = None) -> Tally:
    """The counts of a whole fit on folds that it was not fitted on, estimated from the sample."""
    fits = fit_honestly(sample, settings, temperatures)
    return score_sample(fits, sample)[fits.stages[-1]].honest


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
    """Seconds that all members of a model take for 1,000 test tiles, one after the other, as they took for their
    held-out folds; NaN where none wrote it down."""
    seconds = {}
    for model in run.experiment.models:
        files = [run.oof_store(member) / SECONDS for member in run.oof_members([model])]
        taken = [read_json(path) for path in files if path.exists()]
        a_tile = [each["seconds"] / each["tiles"] for each in taken]
        seconds[model.name] = 1000 * len(list(run.members(model))) * float(np.mean(a_tile)) if a_tile else np.nan
    return seconds
