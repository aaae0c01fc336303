"""Calibration: a probability of .3 should be right 3 times in 10. Decision rules and specialists rely on it.

Temperature scaling and vector scaling (Guo et al. 2017), fitted by log loss on the sample.
"""

import numpy as np
from scipy.optimize import minimize, minimize_scalar

from ensemble.formulas import FLOOR
from ensemble.labels import of_class
from ensemble.sample import Sample

FIT_PIXELS = 100_000  # a handful of parameters needs no more
TEMPERATURES = (0.2, 5.0)
BINS = 15  # of the calibration error
RIDGE = 1e-3  # pulls slopes to the common temperature and biases to 0 where a class has hardly a pixel


def fit_temperature(probs_CP: np.ndarray, truth_P: np.ndarray, weight_P: np.ndarray) -> float:
    """T that minimises the log loss of p^(1/T), normalised."""
    log_CP = np.log(np.maximum(probs_CP, FLOOR))
    share_P = weight_P / weight_P.sum()

    def loss(log_t: float) -> float:
        return _log_loss(log_CP * np.float32(np.exp(-log_t)), truth_P, share_P)[0]

    low, high = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-3}).x))


def fit_vector(
    probs_CP: np.ndarray, truth_P: np.ndarray, weight_P: np.ndarray, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """(C,) slopes and (C,) biases that minimise the log loss of softmax(slope * log p + bias), from 1/T and 0."""
    num_classes = len(probs_CP)
    log_CP = np.log(np.maximum(probs_CP, FLOOR))
    share_P = weight_P / weight_P.sum()
    start = np.concatenate([np.full(num_classes, 1 / temperature), np.zeros(num_classes)])

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        slope_C1, bias_C1 = parameters.astype(np.float32).reshape(2, num_classes, 1)
        value, residual_CP = _log_loss(log_CP * slope_C1 + bias_C1, truth_P, share_P)
        gradient = np.concatenate([np.einsum("cp,cp->c", residual_CP, log_CP), residual_CP.sum(1)])
        away = parameters - start
        return value + RIDGE * float(away @ away), gradient + 2 * RIDGE * away

    fitted = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 100}).x
    slope_C, bias_C = fitted.reshape(2, num_classes)
    return slope_C, bias_C - bias_C.mean()


def fit_platt(evidence_P: np.ndarray, truth_P: np.ndarray, weight_P: np.ndarray) -> tuple[float, float]:
    """Slope and bias of logit s' = slope * logit s + bias for a binary truth (Platt 1999).

    The bias also takes back what a specialist's sampler did to the frequency of its class.
    """
    p = np.clip(evidence_P.astype(np.float64), FLOOR, 1 - FLOOR)
    logit_P = np.log(p / (1 - p))
    share_P = weight_P / weight_P.sum()
    sign_P = np.where(truth_P, 1.0, -1.0)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        margin_P = sign_P * (parameters[0] * logit_P + parameters[1])
        residual_P = -share_P * sign_P / (1 + np.exp(np.minimum(margin_P, 500)))
        away = parameters - (1.0, 0.0)
        gradient = np.array([residual_P @ logit_P, residual_P.sum()]) + 2e-9 * away
        return float(share_P @ np.logaddexp(0, -margin_P) + 1e-9 * (away @ away)), gradient

    # The loss of a rare class is tiny: scaled, so that the optimizer's tolerance is not met at the start.
    scale = 1 / max(loss(np.array([1.0, 0.0]))[0], 1e-12)
    fitted = minimize(lambda x: tuple(scale * part for part in loss(x)), (1.0, 0.0), jac=True, method="L-BFGS-B")
    return float(fitted.x[0]), float(fitted.x[1])


def calibration_error(probs_CP: np.ndarray, index_P: np.ndarray, truth_P: np.ndarray, weight_P: np.ndarray) -> float:
    """Expected calibration error (Naeini et al. 2015) of the label's probability, in equal bins: the mean difference
    of confidence and accuracy."""
    confidence_P = of_class(probs_CP, index_P)
    bin_P = np.minimum((confidence_P * BINS).astype(np.int64), BINS - 1)
    gap_B = np.bincount(bin_P, weight_P * (confidence_P - (index_P == truth_P)), minlength=BINS)
    return float(np.abs(gap_B).sum() / weight_P.sum())


def fitting_part(sample: Sample) -> Sample:
    return sample.thinned(FIT_PIXELS)


def _log_loss(logit_CP: np.ndarray, truth_P: np.ndarray, share_P: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean log loss of softmax(logits), and its derivative by the logits."""
    logit_CP = logit_CP - logit_CP.max(0)
    probs_CP = np.exp(logit_CP)
    total_P = probs_CP.sum(0)
    pixels = np.arange(len(truth_P))
    loss_P = np.log(total_P) - logit_CP[truth_P, pixels]
    probs_CP /= total_P
    probs_CP[truth_P, pixels] -= 1
    probs_CP *= share_P.astype(np.float32)
    return float(share_P @ loss_P), probs_CP
