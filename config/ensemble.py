"""How members predict, how they are blended, and what is handed in."""

import re
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from config.base import Name, Section

# The eight symmetries of the square; `pipeline/tta.py` makes them.
ViewName = Literal["identity", "hflip", "vflip", "rot90", "rot180", "rot270", "transpose", "antitranspose"]
VIEW_SETS: dict[str, list[ViewName]] = {
    "none": ["identity"],
    "hflip": ["identity", "hflip"],
    "flips": ["identity", "hflip", "vflip", "rot180"],
    "d4": list(get_args(ViewName)),
}
WeightsKind = Literal["last", "best", "ema", "swa"]
VARIANT = re.compile(
    r"(?P<weights>[a-z+]+)-(?P<tta>[a-z0-9+]+)(?P<merge>-gmean)?(-scale(?P<scales>[0-9.+]+))?"
    r"(-stretch(?P<stretch>[0-9.e+-]+?))?(?P<adapt>-adapt)?(?P<dtype>-float16)?"
)
Scale = Annotated[float, Field(ge=0.25, le=4)]
Percent = Annotated[float, Field(gt=0, le=20)]


class Predict(Section):
    tta: Literal["none", "hflip", "flips", "d4"] | list[ViewName] = "flips"
    """Views averaged at prediction: none, a horizontal flip, both flips (4 views), all 8 of the square, or a list of
    identity, hflip, vflip, rot90, rot180, rot270, transpose, antitranspose."""
    scales: list[Scale] = []
    """Further sizes of the tile at which all views are taken again, as factors of its sides, e.g. [0.75, 1.25]."""
    stretch: list[Percent] = []
    """Further pictures of the tile of which all views are taken again: each band stretched between its p-th and
    (100-p)-th percentile, for each p of this list."""
    merge: Literal["mean", "gmean"] = "mean"
    """How views are averaged: the mean of their probabilities, or the geometric mean, normalised."""
    batch: int = Field(16, ge=1)
    """Images per forward pass; views count. A large GPU wants more (docs/training.md)."""
    weights: WeightsKind | list[WeightsKind] = "last"
    """Which weights predict: of the last step, of an average (train.ema, train.swa), or best: of the epoch that scored
    highest on the held-out fold, which makes its OOF score optimistic. A list: the mean of their probabilities."""
    adapt: bool = False
    """Whether batch norms take their mean and variance of the tiles that are predicted, and not of training tiles: of
    the held-out fold's, of the test tiles, of the images at hand. Where sensor, season or region differ from the train
    tiles' this may bring much (docs/ensemble.md); labels then depend on which tiles are predicted together."""
    dtype: Literal["uint8", "float16"] = "uint8"
    """Of the stored probabilities. Both keep every argmax; float16 is finer, and several times as large."""

    @model_validator(mode="after")
    def _distinct(self) -> "Predict":
        if not self.tta:
            raise ValueError("tta: an empty list; none is the tile as it is")
        if not self.weights:
            raise ValueError("weights: an empty list; name one kind")
        lists = {
            "tta": self.views,
            "scales": [1.0, *self.scales],
            "stretch": self.stretch,
            "weights": self.weight_kinds,
        }
        for key, values in lists.items():
            twice = sorted({str(value) for value in values if values.count(value) > 1})
            if twice:
                also = " (1.0 is always there)" if key == "scales" else ""
                raise ValueError(f"{key}: {', '.join(twice)} is given twice{also}")
        return self

    @property
    def views(self) -> list[ViewName]:
        """Names of the views of each picture and size."""
        return VIEW_SETS[self.tta] if isinstance(self.tta, str) else self.tta

    @property
    def weight_kinds(self) -> list[WeightsKind]:
        return [self.weights] if isinstance(self.weights, str) else self.weights

    @property
    def variant(self) -> str:
        """A name that differs wherever probabilities would: "last-flips", "ema+swa-d4-gmean-scale0.75+1.25"."""
        tta = self.tta if isinstance(self.tta, str) else "+".join(self.tta)
        tta = f"+{tta}" if tta in VIEW_SETS and tta != self.tta else tta  # the view hflip alone is not the set hflip
        parts = ["+".join(self.weight_kinds), tta]
        parts += [self.merge] if self.merge != "mean" else []
        parts += [f"scale{'+'.join(f'{scale:g}' for scale in self.scales)}"] if self.scales else []
        parts += [f"stretch{'+'.join(f'{percent:g}' for percent in self.stretch)}"] if self.stretch else []
        parts += ["adapt"] if self.adapt else []
        parts += [self.dtype] if self.dtype != "uint8" else []
        return "-".join(parts)

    @classmethod
    def of_variant(cls, name: str) -> Self | None:
        """Settings whose `variant` has that name; None where it is not one."""
        found = VARIANT.fullmatch(name)
        if not found:
            return None
        tta, weights = found["tta"], found["weights"].split("+")
        try:
            return cls(
                tta=tta if tta in VIEW_SETS else tta.strip("+").split("+"),
                weights=weights[0] if len(weights) == 1 else weights,
                merge="gmean" if found["merge"] else "mean",
                scales=found["scales"].split("+") if found["scales"] else [],
                stretch=found["stretch"].split("+") if found["stretch"] else [],
                adapt=bool(found["adapt"]),
                dtype="float16" if found["dtype"] else "uint8",
            )
        except ValueError:
            return None


class Blend(Section):
    name: Name = "blend"
    """Several blends of one run live side by side under their names."""
    models: Annotated[list[str], Field(min_length=1)] | None = None
    """Names of the models that are blended, specialists too; null: all of them."""
    combination: Literal["auto", "mean", "gmean"] = "auto"
    """Arithmetic or normalised geometric mean of the models' probabilities. Here and below, auto: the first choice
    unless folds that it was not fitted on speak for another, with an interval of the gain that lies above 0."""
    weights: Literal["auto", "uniform", "greedy", "direct", "per_class"] = "auto"
    """greedy: ensemble selection on bags of groups; direct: a search from there; per_class: a search for each class."""
    calibration: Literal["auto", "none", "temperature", "vector"] = "auto"
    """temperature: one for each model and one for their combination; vector: a slope and a bias per class for the
    combination. Judged by log loss: it is there for the specialists and the decision."""
    specialists: Literal["auto", "none", "evidence", "override"] = "auto"
    """evidence: p^(1-a) s^a with a share a per specialist; override: a specialist above its threshold wins; auto: none
    or evidence."""
    decision: Literal["auto", "argmax", "bias", "miou"] = "auto"
    """bias: a factor per class; miou: the first-order optimal label for mIoU."""
    postprocess: Literal["auto", "none", "clean"] = "auto"
    """clean: patches below a size per class give way, and holes below a size are filled."""
    sample_pixels: int = Field(500_000, ge=10_000)
    """Largest number of OOF pixels on which the blend is fitted; its score is that of all pixels. Memory grows with it:
    about 1 byte x models x classes a pixel, and 5 to 10 times as much while fits run side by side."""


PLAIN_MEAN = {
    "combination": "mean",
    "weights": "uniform",
    "calibration": "none",
    "specialists": "none",
    "decision": "argmax",
    "postprocess": "none",
}
"""Each step of a blend -> its kind that leaves things as they are."""


class Submission(Section):
    format: Literal["png", "color_png", "geotiff", "rle"] = "png"
    """A zip of: png, one-channel PNGs; color_png, RGB ones of the classes' colours; geotiff, GeoTIFFs with the
    coordinates of the test images; rle, one csv with Kaggle's run-length codes."""
    folder: str | None = Field("results", pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$")
    """Folder inside the zip; null: the files lie at its top. Not for rle, which is one file at the top."""
    file: str = Field("{name}", pattern=r"^[A-Za-z0-9_.-]*\{name\}[A-Za-z0-9_.-]*$")
    """What the file of the tile {name} is called in the zip, without extension. Not for rle, which has tiles' names."""
    labels: list[Annotated[int, Field(ge=0, le=255)]] | None = None
    """The values that stand for the classes in the zip, in their order, where a board wants others than the masks have;
    null: the classes' labels."""

    @model_validator(mode="after")
    def _consistent(self) -> "Submission":
        if self.labels and len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels {self.labels}: a value stands for two classes")
        if self.format == "rle" and self.file != "{name}":
            raise ValueError(f"file {self.file}: format rle has no files of tiles, and names tiles by their names")
        if self.format == "color_png" and self.labels:
            raise ValueError(f"labels {self.labels}: format color_png holds the classes' colours")
        return self
