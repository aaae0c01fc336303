"""The weight of a pixel by its class, from the pixel counts of the training folds."""

from collections.abc import Sequence

import numpy as np

from config.losses import ClassWeights


def class_weights(setting: ClassWeights, count_C: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """(C,) float64 weights as their sources define them, before any normalisation.

    - none: 1.
    - log_inverse: ln(total / count), divided by the largest (alexchungio, ecological-assets competition 2021).
    - median_frequency: median share / share (Eigen and Fergus 2015). Shares are of all pixels here, not of the pixels
      of the images that hold the class: tiles differ too much in what they hold for that to mean anything.
    - effective_number: (1 - beta) / (1 - beta^count), scaled to a sum of C (Cui et al. 2019).
    - fixed: as written.

    A class without a pixel gets the largest weight of the others: no pixel will bear it.

    Args:
        count_C: pixels per class.
        names: the classes in the same order, for `fixed`.
    """
    count_C = np.asarray(count_C, np.float64)
    if setting.name == "none":
        return np.ones(len(count_C))
    if setting.name == "fixed":
        return np.array([setting.weights[name] for name in names], np.float64)
    there = count_C > 0
    count = count_C[there]
    if setting.name == "log_inverse":
        weight = np.log(count.sum() / count)
        weight = weight / weight.max() if len(count) > 1 else np.ones(1)
    elif setting.name == "median_frequency":
        weight = np.median(count) / count
    else:
        # expm1 and log1p: 1 - beta^count loses all its digits where beta is close to 1
        log_beta = np.log1p(setting.beta - 1)
        weight = (1 - setting.beta) / -np.expm1(count * log_beta)
        weight *= len(count) / weight.sum()
    weight_C = np.full(len(count_C), weight.max())
    weight_C[there] = weight
    return weight_C


def training_weights(setting: ClassWeights, count_C: np.ndarray, names: Sequence[str]) -> np.ndarray | None:
    """`class_weights` scaled so that the mean weight of a training pixel is 1; None where all are equal.

    The losses divide by the number of pixels, not by the sum of their weights as torch does: only so is an accumulated
    batch exactly the large one. Scaled like this, both come to the same over the whole training set, and neither the
    learning rate nor the balance with the other terms depends on the kind of weights.
    """
    if setting.name == "none":
        return None
    count_C = np.asarray(count_C, np.float64)
    weight_C = class_weights(setting, count_C, names)
    mean = (count_C * weight_C).sum() / count_C.sum()
    return weight_C / mean if mean > 0 else weight_C
