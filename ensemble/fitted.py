"""A fitted blend: everything that turns the models' probabilities of a tile into its labels. Plain values, JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

Combination = Literal["mean", "gmean"]


@dataclass(frozen=True)
class FittedSpecialist:
    """How a model of one class takes part."""

    name: str
    target: int
    """Index of its class."""
    slope: float
    """Of its calibration: logit s' = slope * logit s + bias (Platt 1999)."""
    bias: float
    share: float = 0.0
    """a in p' proportional to p^(1-a) s'^a; 0: no part in the probabilities."""
    threshold: float | None = None
    """Where s' is above it, the pixel is of its class, whatever the rule says; null: nowhere."""


@dataclass(frozen=True)
class FittedBlend:
    """Arrays over classes (C) are in the order of `classes`, arrays over models (M) in that of `models`."""

    classes: tuple[str, ...]
    models: tuple[str, ...]
    """Those with a weight, by name."""
    weight_MC: tuple[tuple[float, ...], ...]
    """Each class's column sums to 1. The columns are equal unless weights are per class."""
    combination: Combination
    temperature_M: tuple[float, ...]
    """Each model's probabilities become p^(1/T), normalised."""
    slope_C: tuple[float, ...]
    """Calibration of the combined probabilities: softmax(slope * log p + bias)."""
    bias_C: tuple[float, ...]
    specialists: tuple[FittedSpecialist, ...]
    gain_C: tuple[float, ...]
    """The decision: the label is argmax_c (gain_c * p_c + offset_c)."""
    offset_C: tuple[float, ...]
    min_px_C: tuple[int, ...]
    """Connected patches of a class smaller than this take the next best class."""
    hole_px_C: tuple[int, ...]
    """Patches of any class smaller than this, wholly inside this class, become it."""
    kinds: dict[str, str] = field(default_factory=dict, compare=False)
    """What each step of the fit came to: {"weights": "greedy", ...}. Blends that differ in nothing else label alike."""

    @property
    def specialist_names(self) -> list[str]:
        return [specialist.name for specialist in self.specialists]

    @property
    def cleans(self) -> bool:
        """Whether there is post-processing."""
        return any(self.min_px_C) or any(self.hole_px_C)

    def weighted(self, models: Sequence[str], weight_MC: np.ndarray, kind: str) -> "FittedBlend":
        """With other weights; models without any are left out."""
        temperature = dict(zip(self.models, self.temperature_M, strict=True))
        kept = [m for m in range(len(models)) if weight_MC[m].any()]
        return replace(
            self,
            models=tuple(models[m] for m in kept),
            weight_MC=tuple(tuple(weight_MC[m].tolist()) for m in kept),
            temperature_M=tuple(temperature[models[m]] for m in kept),
            kinds=self.kinds | {"weights": kind},
        )

    def to_json(self) -> dict[str, Any]:
        """Lists and dicts, as they come back from a file."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> "FittedBlend":
        """The inverse of `to_json`."""
        lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        lists["weight_MC"] = tuple(tuple(row) for row in values["weight_MC"])
        lists["specialists"] = tuple(FittedSpecialist(**specialist) for specialist in values["specialists"])
        return cls(**values | lists)


def uniform_blend(classes: Sequence[str], models: Sequence[str]) -> FittedBlend:
    """The mean of all models and argmax: what every blend begins as, and is compared with."""
    num_classes, num_models = len(classes), len(models)
    return FittedBlend(
        classes=tuple(classes),
        models=tuple(sorted(models)),
        weight_MC=((1.0 / num_models,) * num_classes,) * num_models,
        combination="mean",
        temperature_M=(1.0,) * num_models,
        slope_C=(1.0,) * num_classes,
        bias_C=(0.0,) * num_classes,
        specialists=(),
        gain_C=(1.0,) * num_classes,
        offset_C=(0.0,) * num_classes,
        min_px_C=(0,) * num_classes,
        hole_px_C=(0,) * num_classes,
    )
