"""Members' opinions drawn from a known model of the world, in memory: calibrated when asked for.

For the tests of the ensemble and for `python -m benchmarks.ensemble`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from config.data import IGNORE_INDEX
from ensemble.labels import miou_of_truth
from folds.metrics import confusion
from pipeline.quantise import quantise


@dataclass(frozen=True)
class MemorySource:
    """An `ensemble.source.OofSource` that lies in memory."""

    classes: tuple[str, ...]
    models: tuple[str, ...]
    probs_NMCHW: np.ndarray
    truth_NHW: np.ndarray
    fold_N: np.ndarray
    group_N: np.ndarray
    names: tuple[str, ...]
    specialists: dict[str, int]
    evidence_NSHW: np.ndarray

    def probs(self, i: int, models: Sequence[str]) -> np.ndarray:
        return self.probs_NMCHW[i, [self.models.index(model) for model in models]]

    def evidence(self, i: int, specialists: Sequence[str]) -> np.ndarray:
        rows = [list(self.specialists).index(name) for name in specialists]
        return self.evidence_NSHW[i, rows]

    def truth(self, i: int) -> np.ndarray:
        return self.truth_NHW[i]

    @cached_property
    def hist_NC(self) -> np.ndarray:
        return np.stack(
            [np.bincount(t[t != IGNORE_INDEX].ravel(), minlength=len(self.classes)) for t in self.truth_NHW]
        )


def memory_source(
    probs_NMCHW: np.ndarray,
    truth_NHW: np.ndarray,
    fold_N: np.ndarray,
    group_N: np.ndarray | None = None,
    classes: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    specialists: dict[str, int] | None = None,
    evidence_NSHW: np.ndarray | None = None,
) -> MemorySource:
    """A `MemorySource` with names made up where none are given; each tile its own group unless said otherwise."""
    count, num_models, num_classes, height, width = probs_NMCHW.shape
    if evidence_NSHW is None:
        evidence_NSHW = np.zeros((count, 0, height, width), np.uint8)
    return MemorySource(
        classes=tuple(classes or (f"class{c:03d}" for c in range(num_classes))),
        models=tuple(models or (f"model{m:03d}" for m in range(num_models))),
        probs_NMCHW=probs_NMCHW,
        truth_NHW=truth_NHW,
        fold_N=np.asarray(fold_N),
        group_N=np.arange(count) if group_N is None else np.asarray(group_N),
        names=tuple(f"{i:06d}" for i in range(count)),
        specialists=specialists or {},
        evidence_NSHW=evidence_NSHW,
    )


def weighted_miou(pred_P: np.ndarray, truth_P: np.ndarray, weight_P: np.ndarray, num_classes: int) -> float:
    """mIoU estimated from a sample, over the classes that its truth holds."""
    return miou_of_truth(confusion(pred_P, truth_P, num_classes, weight_P))


def soft(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random probabilities along the third axis from the end, as stored bytes."""
    probs = np.exp(2 * rng.normal(size=shape))
    probs /= probs.sum(-3, keepdims=True) if len(shape) > 2 else probs.sum(0)
    flat = probs.reshape(-1, *probs.shape[-3:]).astype(np.float32)
    return quantise(flat).reshape(shape)


def posteriors(
    rng: np.random.Generator, truth: np.ndarray, shares_C: np.ndarray, noise: float, temperature: float = 1.0
) -> np.ndarray:
    """(..., C) Bayes posteriors of a class from one noisy view of 6 features; calibrated where temperature is 1."""
    means_CF = np.random.default_rng(99).normal(size=(len(shares_C), 6))
    view = means_CF[truth] + rng.normal(0, noise, (*truth.shape, 6))
    logits = -np.square(view[..., None, :] - means_CF).sum(-1) / (2 * noise**2) + np.log(shares_C)
    logits = (logits - logits.max(-1, keepdims=True)) / temperature
    probs = np.exp(logits)
    return probs / probs.sum(-1, keepdims=True)


def random_source(
    seed: int,
    tiles: int = 12,
    px: int = 20,
    folds: int = 3,
    shares: tuple[float, ...] = (0.6, 0.25, 0.1, 0.05),
    noises: tuple[float, ...] = (1.0, 1.3, 1.6),
    temperature: float = 1.0,
    specialists: int = 1,
) -> MemorySource:
    """OOF tiles whose members see the truth through noise; two tiles a group; specialists of the last class."""
    rng = np.random.default_rng(seed)
    shares_C = np.array(shares)
    truth_NHW = rng.choice(len(shares), (tiles, px, px), p=shares_C).astype(np.uint8)
    truth_NHW[:, 0, : len(shares)] = np.arange(len(shares))  # no class is ever missing
    members = [np.moveaxis(posteriors(rng, truth_NHW, shares_C, noise, temperature), -1, 1) for noise in noises]
    probs_NMCHW = np.stack([quantise(probs.astype(np.float32)) for probs in members], axis=1)
    rare = len(shares) - 1
    evidence = [posteriors(rng, truth_NHW, shares_C, 0.8)[..., rare] for _ in range(specialists)]
    return memory_source(
        probs_NMCHW,
        truth_NHW,
        fold_N=np.arange(tiles) // 2 % folds,
        group_N=np.arange(tiles) // 2,
        specialists={f"rare{i}": rare for i in range(specialists)},
        evidence_NSHW=np.round(255 * np.array(evidence)).astype(np.uint8).swapaxes(0, 1) if specialists else None,
    )
