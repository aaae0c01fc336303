"""Peers as they are, beside ours, on the same arrays in one process: torchmetrics, scikit-learn, MONAI.

python -m benchmarks.peers [--json FILE]

torchmetrics and MONAI live in an environment that is made at the first run and shares the installed torch. Ratios are
seconds of theirs over seconds of ours, the median of interleaved rounds; above 1, ours is faster. Other peers stand
where their subject is measured: splitters in benchmarks.folds, ttach and npz files in benchmarks.prediction, nnU-Net's
ensembling in benchmarks.ensemble, loops of training in benchmarks.training.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from base.command import add_json, plain_parser, run, write_figures
from base.errors import UserError
from base.threads import in_threads
from benchmarks.environment import CACHE, make_environment
from benchmarks.machine import ROOT
from benchmarks.measure import ratios
from benchmarks.store_formats import draw_probs
from benchmarks.submissions import draw_landscapes
from config.data import IGNORE_INDEX
from ensemble.apply import apply_blend
from ensemble.fitted import uniform_blend
from folds.metrics import confusion, mean_iou

REQUIREMENTS = ("torchmetrics==1.9.0", "monai==1.6.1")
CLASSES, TILES, PX = 10, 32, 256
MODELS, BLENDED = 8, 8  # models, and tiles that they are blended on


def draw_labels() -> tuple[np.ndarray, np.ndarray]:
    """(N, H, W) uint8 prediction and truth: a fifth of the pixels wrong, one in fifty ignored."""
    rng = np.random.default_rng(0)
    truth = draw_landscapes(TILES, rng)
    pred = np.where(rng.random(truth.shape) < 0.2, rng.integers(0, CLASSES, truth.shape, np.uint8), truth)
    truth[rng.random(truth.shape) < 0.02] = IGNORE_INDEX
    return pred, truth


def scoring() -> dict[str, float]:
    """One confusion matrix of TILES tiles, and mIoU taken tile by tile."""
    import torch
    from sklearn.metrics import confusion_matrix
    from torchmetrics.classification import MulticlassJaccardIndex
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    pred, truth = draw_labels()
    pred_t, truth_t = torch.from_numpy(pred), torch.from_numpy(truth)
    settings = {"num_classes": CLASSES, "ignore_index": IGNORE_INDEX}
    keep = truth != IGNORE_INDEX

    def ours() -> np.ndarray:
        return confusion(pred, truth, CLASSES)

    def ours_by_tile() -> float:
        return mean_iou(sum(confusion(p, t, CLASSES) for p, t in zip(pred, truth, strict=True)))

    def theirs_by_tile() -> float:
        metric = MulticlassJaccardIndex(average="macro", **settings)
        for p, t in zip(pred_t, truth_t, strict=True):
            metric.update(p, t)
        return float(metric.compute())

    peers: dict[str, Callable[[], Any]] = {
        "torchmetrics": partial(multiclass_confusion_matrix, pred_t, truth_t, **settings),
        "torchmetrics_unchecked": partial(
            multiclass_confusion_matrix, pred_t, truth_t, **settings, validate_args=False
        ),
        "sklearn": lambda: confusion_matrix(truth[keep], pred[keep], labels=range(CLASSES)),
    }
    for name, theirs in peers.items():
        if not np.array_equal(ours(), np.asarray(theirs())):
            raise AssertionError(f"{name} counts otherwise")
    figures = {
        f"confusion_vs_{name}": ratios(f"confusion of {TILES} tiles, against {name}", ours, theirs)
        for name, theirs in peers.items()
    }
    figures["jaccard_diff"] = abs(ours_by_tile() - theirs_by_tile())
    print(f"mIoU {ours_by_tile():.6f}; MulticlassJaccardIndex differs by {figures['jaccard_diff']:.1e}")
    figures["jaccard_vs_torchmetrics"] = ratios("mIoU tile by tile, against it", ours_by_tile, theirs_by_tile)
    return figures


def blending() -> dict[str, float]:
    """The mean of MODELS members and its labels, of BLENDED tiles, arrays in memory on both sides."""
    import torch
    from monai.transforms import AsDiscrete, MeanEnsemble

    rng = np.random.default_rng(1)
    probs_NMCHW = np.stack([[draw_probs(rng) for _ in range(MODELS)] for _ in range(BLENDED)])
    stored_NMCHW = np.rint(probs_NMCHW * 255).astype(np.uint8)
    tensors = [list(torch.from_numpy(probs_MCHW)) for probs_MCHW in probs_NMCHW]
    names = [f"model{m}" for m in range(MODELS)]
    blend = uniform_blend([f"class{c}" for c in range(CLASSES)], names)
    none_SHW = np.zeros((0, PX, PX), np.uint8)
    mean, argmax = MeanEnsemble(), AsDiscrete(argmax=True)

    def ours(source: np.ndarray) -> np.ndarray:
        return np.stack(list(in_threads(lambda probs_MCHW: apply_blend(blend, probs_MCHW, none_SHW)[1], source)))

    def theirs() -> np.ndarray:
        return np.stack([np.asarray(argmax(mean(each)), np.uint8)[0] for each in tensors])

    same = float((ours(probs_NMCHW) == theirs()).mean())
    print(f"blend of {MODELS} models: {same:.5%} of the labels are MONAI's")
    what = f"blend of {MODELS} models, against MONAI's MeanEnsemble"
    return {
        "blend_same_as_monai": same,
        "blend_vs_monai": ratios(f"{what}, float32 on both sides", partial(ours, probs_NMCHW), theirs),
        "blend_stored_vs_monai": ratios(f"{what}, ours from stored bytes", partial(ours, stored_NMCHW), theirs),
    }


def main(argv: list[str] | None = None) -> None:
    parser = plain_parser("benchmarks.peers", __doc__)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    add_json(parser)
    args = parser.parse_args(argv)
    if args.inside:
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        write_figures(args.json, scoring() | blending())
        return
    python = make_environment(CACHE / "peers", REQUIREMENTS)
    if python is None:
        raise UserError("without torchmetrics and MONAI there is nothing to compare with")
    words = ["--json", args.json] if args.json else []
    sys.stdout.flush()
    done = subprocess.run([python, "-W", "ignore", "-m", "benchmarks.peers", "--inside", *words], cwd=ROOT)
    if done.returncode:
        raise UserError(f"the measurement in {python.parent.parent.name}'s environment failed, see above")


if __name__ == "__main__":
    run(main)
