"""Members' opinions drawn from a known model of the world, for the tests of the ensemble: calibrated when asked for."""

import numpy as np

from ensemble.source import MemorySource, memory_source
from pipeline.quantise import quantise


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
