"""What training minimises: the terms of the loss, the weight of a pixel by its class, how often a tile is seen."""

from typing import Annotated, Literal

from pydantic import Field

from config.base import Section
from config.data import Positive


class CrossEntropy(Section):
    name: Literal["ce"] = "ce"
    """Cross-entropy of the softmax, or of the sigmoid for a specialist; takes class_weights."""
    weight: Positive = 1.0
    """Factor of this term in the sum."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """The share of the target spread evenly over all classes."""


class Focal(Section):
    name: Literal["focal"] = "focal"
    """Cross-entropy times (1 - p of the truth)^gamma: what is known already counts less; takes class_weights."""
    weight: Positive = 1.0
    """Factor of this term in the sum."""
    gamma: float = Field(2.0, ge=0)
    """0 is cross-entropy."""


class Overlap(Section):
    name: Literal["dice", "jaccard", "lovasz"]
    """1 - soft dice or IoU, or the Lovasz extension of the IoU loss; over the classes present in the batch."""
    weight: Positive = 1.0
    """Factor of this term in the sum."""


LossTerm = Annotated[CrossEntropy | Focal | Overlap, Field(discriminator="name")]


class NoWeights(Section):
    name: Literal["none"] = "none"
    """Every pixel counts the same."""


class LogInverse(Section):
    name: Literal["log_inverse"] = "log_inverse"
    """ln(all pixels / the class's), divided by the largest."""


class MedianFrequency(Section):
    name: Literal["median_frequency"] = "median_frequency"
    """The median of the classes' shares over the class's share."""


class EffectiveNumber(Section):
    name: Literal["effective_number"] = "effective_number"
    """(1 - beta) / (1 - beta^pixels): one over the pixels' effective number."""
    beta: float = Field(gt=0, lt=1)
    """Near 0: all weights are equal; near 1: one over the pixel count. Pixels are many: 0.9999999 is usual."""


class FixedWeights(Section):
    name: Literal["fixed"] = "fixed"
    """Set by hand."""
    weights: dict[str, Annotated[float, Field(ge=0)]]
    """Class name: weight, for every class."""


ClassWeights = Annotated[
    NoWeights | LogInverse | MedianFrequency | EffectiveNumber | FixedWeights, Field(discriminator="name")
]


class Uniform(Section):
    name: Literal["uniform"] = "uniform"
    """Every tile once an epoch."""


class RepeatFactor(Section):
    name: Literal["repeat_factor"] = "repeat_factor"
    """A tile is repeated max(1, sqrt(threshold / f)) times, f being the share of tiles that hold its rarest class."""
    threshold: float = Field(gt=0, le=1)
    """Classes in fewer than this share of the tiles are seen more often."""


class ClassTimes(Section):
    name: Literal["class_times"] = "class_times"
    """Tiles that hold a class are seen several times an epoch."""
    times: dict[str, Annotated[int, Field(ge=1)]] = Field(min_length=1)
    """Class name: how often. A tile with several of them takes the largest."""


Sampler = Annotated[Uniform | RepeatFactor | ClassTimes, Field(discriminator="name")]
