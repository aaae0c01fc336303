"""Is the ensemble worth it, honest, and fast? Every figure of docs/ensemble.md, from synthetic posteriors and stores.

python -m benchmarks.ensemble [--json FILE] [--demo CONFIG [key=value ...]] [--only PART,...]

`--demo` names an experiment on generated tiles, with specialists, whose run is finished: its blend is scored against
the true test labels. Without it rare_gain and honest_gap are null.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from base.command import add_json, plain_parser, run, write_figures
from base.errors import UserError, nearest
from benchmarks.ensemble_scale import CORES, WEIGHTS_ALONE, scale
from benchmarks.intervals import intervals
from benchmarks.synthetic import SHARES
from config import Run, load_experiment
from config.ensemble import Blend
from ensemble.apply import apply_sample
from ensemble.build import read_blend
from ensemble.decision import fit_bias_rule, fit_miou_rule
from ensemble.evidence import gain
from ensemble.fit import fit_blend
from ensemble.fitted import FittedBlend, uniform_blend
from ensemble.labels import top_class
from ensemble.sample import Sample, draw_sample
from ensemble.worth import honest_tally
from folds.metrics import iou_per_class, mean_iou
from folds.tiles import read_tiles
from submissions.score import score_submission
from tests.posteriors import posteriors, random_source, soft, weighted_miou

NOISE_RUNS = 100
BOARD_NOISE = 0.92  # of the views: argmax then scores about .39, as single models did on the competition's board


def rule() -> dict[str, Any]:
    """The rule on calibrated posteriors of the competition's class shares, fitted on some pixels, scored on others."""
    gains: dict[str, list[float]] = {"miou": [], "bias": []}
    before = []
    for seed in range(5):
        fitted, scored = (_pixels(np.random.default_rng([seed, part]), 1_500_000) for part in range(2))
        weight_P, order = np.ones(len(fitted[1])), range(len(SHARES))
        argmax = weighted_miou(top_class(scored[0], order), scored[1], weight_P, len(SHARES))
        before.append(argmax)
        for kind, fit in (("miou", fit_miou_rule), ("bias", fit_bias_rule)):
            gain_C, offset_C = fit(*fitted, weight_P, order)
            labels = top_class(scored[0] * np.float32(gain_C[:, None]) + np.float32(offset_C[:, None]), order)
            gains[kind].append(weighted_miou(labels, scored[1], weight_P, len(SHARES)) - argmax)
    print(f"rule: argmax {np.mean(before):.4f}; gain on held-out pixels, 5 worlds: "
          + ", ".join(f"{kind} {np.mean(g):+.4f} (least {min(g):+.4f})" for kind, g in gains.items()))  # fmt: skip
    return {"rule_gain": min(gains["miou"])}


def gate() -> dict[str, Any]:
    """Where nothing can help: what `auto` loses on fresh tiles."""
    losses = Parallel(n_jobs=CORES)(delayed(_gate_loss)(seed) for seed in range(30))
    shipped = sum(loss != 0 for loss in losses)
    print(f"gate: {shipped} of {len(losses)} blends changed a label; loss on fresh tiles: mean {np.mean(losses):+.5f}, "
          f"worst {max(losses):+.5f}")  # fmt: skip
    return {"gate_loss": max(losses)}


def noise() -> dict[str, Any]:
    """Three real members, then three more of pure noise: does the interval of the reported gain hold 0?"""
    estimates = Parallel(n_jobs=CORES)(delayed(_noise_gain)(seed) for seed in range(NOISE_RUNS))
    covered = sum(low <= 0 <= high for _, low, high in estimates)
    values = [value for value, *_ in estimates]
    above, same = sum(low > 0 for _, low, _ in estimates), sum(low == high == 0 for _, low, high in estimates)
    print(f"noise: the interval holds 0 in {covered} of {NOISE_RUNS} runs, lies above it in {above}; "
          f"no label changes in {same}; "
          f"gain {np.mean(values):+.5f} on average, {min(values):+.4f} to {max(values):+.4f}")  # fmt: skip
    return {"noise_covered": covered, "noise_runs": NOISE_RUNS}


def exhaustive() -> dict[str, Any]:
    """Six members: the fitted blend against every single one, every pair's mean, and the mean of all, on OOF."""
    source = random_source(11, tiles=120, px=48, folds=5, shares=tuple(SHARES),
                           noises=(1.2, 1.3, 1.4, 1.6, 1.9, 2.4), specialists=0)  # fmt: skip
    sample = draw_sample(source, 10**9)
    fits = {name: fit_blend(sample, settings).blend for name, settings in
            (("auto", Blend()), ("weights alone", WEIGHTS_ALONE))}  # fmt: skip
    fitted = {name: _sample_miou(sample, blend) for name, blend in fits.items()}
    uniform = uniform_blend(sample.classes, sample.models)

    def mean_of(members: Sequence[int]) -> float:
        weight_M = np.zeros(len(sample.models))
        weight_M[list(members)] = 1 / len(members)
        weight_MC = np.repeat(weight_M[:, None], len(sample.classes), axis=1)
        return _sample_miou(sample, uniform.weighted(sample.models, weight_MC, "uniform"))

    figures = {
        "best_single": max(mean_of([m]) for m in range(6)),
        "best_pair": max(mean_of(pair) for pair in combinations(range(6), 2)),
        "uniform": mean_of(range(6)),
        "fitted": fitted["auto"],
    }
    print("six members: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
          + f"; weights alone {fitted['weights alone']:.4f}")  # fmt: skip
    return figures


def demo(config: str, *overrides: str) -> dict[str, Any]:
    """A finished run on generated tiles, against the true test labels."""
    experiment = load_experiment(config, overrides)
    this = Run(experiment)
    built = read_blend(this)
    tiles = read_tiles(this.tiles_csv)
    specialists = [model.target for model in experiment.models if model.target != "all"]
    names = [spec.name for spec in experiment.data.classes]
    auto_CC = score_submission(this.zip_path, experiment, tiles)
    plain = Run(experiment.model_copy(update={"blend": experiment.blend.model_copy(update={"name": "plain"})}))
    plain_CC = score_submission(plain.zip_path, experiment, tiles)
    rare = [names.index(name) for name in sorted(set(specialists))]
    rare_gain = float(np.nanmean(iou_per_class(auto_CC)[rare]) - np.nanmean(iou_per_class(plain_CC)[rare]))
    gap = abs(float(built.row.miou) - mean_iou(auto_CC))
    print(f"demo {experiment.name}: honest {built.row.miou:.4f}, true test {mean_iou(auto_CC):.4f}, "
          f"plain {mean_iou(plain_CC):.4f}; mean IoU of {sorted(set(specialists))} {rare_gain:+.4f}")  # fmt: skip
    return {"rare_gain": rare_gain, "honest_gap": gap}


def _pixels(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(C, P) calibrated posteriors of the competition's class shares, and (P,) the truth."""
    truth_P = rng.choice(len(SHARES), count, p=SHARES).astype(np.uint8)
    parts = [posteriors(rng, part, SHARES, BOARD_NOISE).astype(np.float32) for part in np.array_split(truth_P, 30)]
    return np.ascontiguousarray(np.concatenate(parts).T), truth_P


def _gate_loss(seed: int) -> float:
    """mIoU on fresh tiles that `auto` gives away where the plain mean is optimal: even classes, one calibrated opinion
    three times over."""

    def world(seed: int, tiles: int) -> Sample:
        source = random_source(seed, tiles, px=24, folds=5, shares=(0.2,) * 5, noises=(1.5,), specialists=0)
        thrice = replace(source, models=("a", "b", "c"), probs_NMCHW=np.repeat(source.probs_NMCHW, 3, axis=1))
        return draw_sample(thrice, 10**9)

    blend = fit_blend(world(seed, 60), Blend()).blend
    fresh = world(seed + 10_000, 400)
    return _sample_miou(fresh, uniform_blend(fresh.classes, fresh.models)) - _sample_miou(fresh, blend)


def _noise_gain(seed: int) -> tuple[float, float, float]:
    """The honest gain, with its interval, of adding three members of noise to three real ones; all choices made anew,
    as two blends of one run are compared."""
    real = random_source(seed, tiles=48, px=16, folds=4, shares=(0.6, 0.25, 0.1, 0.05), specialists=0)
    noise_NMCHW = soft(np.random.default_rng([seed, 1]), (len(real.names), 3, 4, 16, 16))
    mixed = replace(
        real,
        models=(*real.models, "noise0", "noise1", "noise2"),
        probs_NMCHW=np.concatenate([real.probs_NMCHW, noise_NMCHW], axis=1),
    )
    after, before = (honest_tally(draw_sample(source, 10**9), Blend()) for source in (mixed, real))
    estimate = gain(after, before)
    return estimate.value, estimate.low, estimate.high


def _sample_miou(sample: Sample, blend: FittedBlend) -> float:
    return weighted_miou(apply_sample(blend, sample)[1], sample.truth_P, sample.weight_P, len(sample.classes))


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "rule": rule, "gate": gate, "noise": noise, "exhaustive": exhaustive, "intervals": intervals, "scale": scale,
}  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = plain_parser("benchmarks.ensemble", __doc__)
    parser.add_argument("--demo", metavar=("CONFIG", "key=value"), nargs="+",
                        help="a finished run on generated tiles, with a blend called plain")  # fmt: skip
    parser.add_argument("--only", metavar="PARTS", help=f"of {', '.join(PARTS)}, demo; separated by commas")
    add_json(parser)
    args = parser.parse_args(argv)
    wanted = args.only.split(",") if args.only else [*PARTS, "demo"]
    if unknown := [name for name in wanted if name not in (*PARTS, "demo")]:
        raise UserError(f"--only: unknown {unknown[0]!r}{nearest(unknown[0], [*PARTS, 'demo'])}")
    figures: dict[str, Any] = {"rare_gain": None, "honest_gap": None}
    for name in wanted:
        if name != "demo":
            figures |= PARTS[name]()
        elif args.demo:
            figures |= demo(*args.demo)
    write_figures(args.json, figures)


if __name__ == "__main__":
    run(main)
