"""Fit a run's blend, score it honestly, and keep both under `runs/<run>/blend/<name>/`.

blend.json      the fitted blend, and one without each fold; what speaks for each step; the honest confusion
steps.csv       a row per step: honest mIoU with its interval, gain, in-sample mIoU, calibration error, IoU
candidates.csv  a row per candidate of each step: its gain on folds that it was not fitted on, and whether it ships
models.csv      a row per model: its weight, its worth (what is lost without it) with its interval, its cost
errors.csv      how the models' errors go together
groups.npz      the honest counts per group, by which two blends are compared in pairs
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from base.errors import UserError, refuse_all
from base.files import hash_file, read_json, whole_folder, write_json
from base.stamps import FolderResult, folder_stamp, read_stamp
from base.tables import read_csv
from config import Experiment, Run, load_experiment
from config.data import STEP_COLUMNS
from config.ensemble import PLAIN_MEAN, Blend
from config.experiment import flat
from ensemble.evidence import Estimate, Tally
from ensemble.fit import Choice, Fit
from ensemble.fitted import FittedBlend
from ensemble.honest import HonestFit, Scored, fit_honestly, score_tiles
from ensemble.postprocess import fit_postprocess
from ensemble.sample import draw_sample
from ensemble.stores import OofStores, ProvenStores
from ensemble.worth import calibration_errors, error_correlation, member_counts, model_worth
from folds.tiles import tiles_of
from pipeline.finished import weights_hash
from pipeline.store import MANIFEST

BLEND, STEPS, CANDIDATES, MODELS, ERRORS, GROUPS = (
    "blend.json", "steps.csv", "candidates.csv", "models.csv", "errors.csv", "groups.npz",
)  # fmt: skip
FORMAT = 6
"""Of these files: a blend that a version with another one left is fitted again."""


@dataclass(frozen=True)
class RunBlend:
    """A run's blend as it lies on disk."""

    fits: HonestFit
    stage: str
    """The stage that ships: the last, or "uniform" where all steps together do not pay."""
    groups: int
    """That intervals are over."""
    honest_conf_CC: np.ndarray
    steps: pd.DataFrame
    candidates: pd.DataFrame
    models: pd.DataFrame
    errors: pd.DataFrame

    @property
    def blend(self) -> FittedBlend:
        """What labels the test tiles."""
        return self.fits.whole.stages[self.stage]

    @property
    def blend_of(self) -> dict[int, FittedBlend]:
        """Fold -> the same, fitted without it."""
        return {fold: fit.stages[self.stage] for fold, fit in self.fits.without.items()}

    @property
    def steps_pay(self) -> bool:
        """Whether what the steps came to ships, and not the plain mean in their place."""
        return self.stage == self.fits.stages[-1]

    @property
    def row(self) -> pd.Series:
        """The row of `steps` that ships."""
        return self.steps.set_index("step", drop=False).loc[self.stage]


def add_name_option(parser: argparse.ArgumentParser) -> None:
    """--name, for a command of one of a run's blends."""
    parser.add_argument("--name", metavar="NAME", help="name of the blend, as blend.name=NAME")


def named_experiment(args: argparse.Namespace) -> Experiment:
    """The experiment of a command with --name."""
    # In quotes: 2 and no are names too.
    named = [f"blend.name={json.dumps(args.name)}"] if args.name else []
    return load_experiment(args.config, [*args.overrides, *named])


def build_blend(stores: ProvenStores) -> RunBlend:
    """The run's blend: read, or fitted now if it is not there or would come out different."""
    run = stores.run
    result = _result(run)
    if result.is_fresh():
        return read_blend(run)
    settings = run.experiment.blend
    source = stores.oof
    sample = draw_sample(source, settings.sample_pixels)
    fits = fit_postprocess(fit_honestly(sample, settings).of_folds(source.fold_N), source, settings)
    scored = score_tiles(fits, source)
    stage = shipping_stage(scored, settings)
    steps = step_table(fits, scored, stage, calibration_errors(fits, sample), source.classes)
    blend = fits.whole.stages[stage]
    with whole_folder(run.blend_dir) as folder:
        write_json(folder / BLEND, {
            "format": FORMAT,
            "stage": stage,
            "whole": _fit_to_json(fits.whole),
            "without": {str(fold): _fit_to_json(fit) for fold, fit in fits.without.items()},
            "groups": len(scored[stage].honest.hit_GC),
            "honest_confusion": scored[stage].honest.conf_CC.tolist(),
        })  # fmt: skip
        steps.to_csv(folder / STEPS, index=False)
        candidate_table(fits.whole.choices, shipping=stage == fits.stages[-1]).to_csv(folder / CANDIDATES, index=False)
        model_worth(run, sample, blend, settings).to_csv(folder / MODELS, index=False)
        error_correlation(sample).to_csv(folder / ERRORS)
        _write_groups(folder / GROUPS, run, source, scored[stage].honest)
    result.finish([run.blend_dir / name for name in (BLEND, STEPS, GROUPS)])
    return read_blend(run)


def read_blend(run: Run) -> RunBlend:
    """The run's blend as it was last fitted, whatever has changed since.

    Raises:
        UserError: there is none, or one of another version's form.
    """
    folder = run.blend_dir
    if not (folder / BLEND).exists():
        raise UserError(f"{folder}: no blend yet. Run: python -m ensemble.blend --config FILE")
    values = read_json(folder / BLEND)
    if values.get("format") != FORMAT:
        raise UserError(f"{folder}: made by another version. Run: python -m ensemble.blend --config FILE")
    return RunBlend(
        fits=HonestFit(
            _fit_of_json(values["whole"]), {int(fold): _fit_of_json(fit) for fold, fit in values["without"].items()}
        ),
        stage=values["stage"],
        groups=values["groups"],
        honest_conf_CC=np.array(values["honest_confusion"]),
        steps=read_csv(folder / STEPS),
        candidates=read_csv(folder / CANDIDATES),
        models=read_csv(folder / MODELS, dtype={"model": str}),
        errors=read_csv(folder / ERRORS, dtype={0: str}, index_col=0),
    )


def refuse_outdated(run: Run) -> None:
    """For whoever labels with the run's blend as it is: its keys and members must be those that it was fitted with.

    OOF stores that are gone are not asked for: labels need them no more. Nor are other weights or views (`predict`)
    refused, which the caller tells; labels of any images may be worth fewer views.

    Raises:
        UserError: says which keys differ, and which members were trained, or have predicted, anew.
    """
    result = _result(run)
    stamp = read_stamp(result.stamp_path)
    ours = {key: value for key, value in result.keys.items() if key.startswith("blend.")}
    changed = (
        stamp.differences(stamp.keys | ours, stamp.inputs | result.inputs) if stamp else ["its fit was not finished"]
    )
    refuse_all(f"{run.blend_dir}: fit it anew (python -m ensemble.blend --config FILE)", changed)


def fitted_variant(run: Run) -> str | None:
    """Weights and views that the run's blend was fitted on; None where that is not known."""
    stamp = read_stamp(folder_stamp(run.blend_dir))
    return stamp.keys.get("predict") if stamp else None


def shipping_stage(scored: dict[str, Scored], settings: Blend) -> str:
    """The last stage; or the plain mean where no kind but that of the plain mean was asked for by name, and all steps
    together do not pay.

    Steps are chosen by what inner folds say, one at a time; the honest score is the one word on all of them.
    """
    first, *_, last = scored
    free = all(getattr(settings, step) in ("auto", plain) for step, plain in PLAIN_MEAN.items())
    return first if free and scored[last].honest.miou < scored[first].honest.miou else last


def step_table(
    fits: HonestFit,
    scored: dict[str, Scored],
    stage: str,
    calibration_error: dict[str, float],
    classes: tuple[str, ...],
) -> pd.DataFrame:
    """A row per stage. `gain` is the honest one over the stage before it; `agree`, how many of the fits without a fold
    came to the same kind: where they differ, the honest score is that of choosing, not of one choice."""
    rows = []
    before = None
    for name, blend in fits.whole.stages.items():
        here = scored[name]
        gain = Estimate(0.0, 0.0, 0.0) if before is None else here.gain_over(before)
        kind = blend.kinds.get(name, "")
        agree = sum(fit.stages[name].kinds.get(name, "") == kind for fit in fits.without.values())
        rows.append(
            {"step": name, "kind": kind, "agree": agree, "ships": name == stage}
            | here.estimate.columns("miou")
            | gain.columns("gain")
            | {"miou_in_sample": here.in_sample.miou, "ece": calibration_error.get(name, np.nan)}
            | dict(zip(classes, here.honest.iou_C, strict=True))
        )
        before = here
    return pd.DataFrame(rows, columns=[*STEP_COLUMNS, *classes])


def candidate_table(choices: list[Choice], shipping: bool) -> pd.DataFrame:
    """A row per candidate that was asked about; where the plain mean ships after all, none of them does."""
    columns = ["step", "kind", "measure", "gain", "low", "high", "ships"]
    rows = [(c.step, c.kind, c.measure, c.gain.value, c.gain.low, c.gain.high, c.ships and shipping) for c in choices]
    return pd.DataFrame(rows, columns=columns)


def read_groups(folder: Path) -> tuple[list[str], Tally]:
    """Group names and the honest counts of a blend's folder."""
    with np.load(folder / GROUPS) as stored:
        tally = Tally(stored["hit_GC"], stored["union_GC"], stored["truth_GC"], np.zeros(len(stored["hit_GC"])))
        return stored["groups"].tolist(), tally


def _write_groups(path: Path, run: Run, source: OofStores, honest: Tally) -> None:
    tiles = tiles_of(run)
    tiles = tiles[tiles.split == "train"].set_index("name")  # a test tile may have the name of a train tile
    names = np.empty(len(honest.hit_GC), object)
    names[source.group_N] = tiles.group[source.names].to_numpy()
    np.savez(path, groups=names.astype(str), hit_GC=honest.hit_GC, union_GC=honest.union_GC, truth_GC=honest.truth_GC)


def _result(run: Run) -> FolderResult:
    """The fit depends on all keys but the blend's name and the zip's form."""
    keys = {key: value for key, value in run.blend_keys.items() if not key.startswith("submission.")}
    del keys["blend.name"]
    keys |= {"format": FORMAT} | flat({"members": member_counts(run)})
    members = run.oof_members(run.experiment.blended_models)
    manifests = {str(member): run.oof_store(member) / MANIFEST for member in members}
    inputs = {name: hash_file(path) for name, path in manifests.items() if path.exists()}
    weights = {f"{member} weights": weights_hash(run, member) for member in members}
    inputs |= {name: found for name, found in weights.items() if found is not None}
    return FolderResult(run.blend_dir, keys, inputs | run.member_inputs())


def _fit_to_json(fit: Fit) -> dict[str, Any]:
    return {
        "stages": {name: blend.to_json() for name, blend in fit.stages.items()},
        "choices": [asdict(choice) for choice in fit.choices],
    }


def _fit_of_json(values: dict[str, Any]) -> Fit:
    return Fit(
        {name: FittedBlend.of_json(blend) for name, blend in values["stages"].items()},
        [Choice(**choice | {"gain": Estimate(**choice["gain"])}) for choice in values["choices"]],
    )
