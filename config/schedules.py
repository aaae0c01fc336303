"""How training descends: optimizers, and the learning rate over the run."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from config.base import Section
from config.data import Positive

Beta = Annotated[float, Field(ge=0, lt=1)]


class Adaptive(Section):
    name: Literal["adamw", "nadamw", "lamb", "adoptw"] = "adamw"
    """Adam with decoupled weight decay, with Nesterov momentum (nadamw), per-layer trust (lamb) or ADOPT's order."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay of the averages of the gradient and of its square."""
    eps: Positive = 1e-8
    """Added to the root of the second average."""


class Lion(Section):
    name: Literal["lion"] = "lion"
    """The sign of a momentum; wants lr 3 to 10 times smaller and weight_decay as much larger than adamw."""
    betas: tuple[Beta, Beta] = (0.9, 0.99)
    """Weight of the momentum in the step, and its decay."""


class Sgd(Section):
    name: Literal["sgd"] = "sgd"
    """Gradient descent; weight_decay is added to the gradient."""
    momentum: Beta = 0.9
    """Decay of the velocity; 0: none."""
    nesterov: bool = True
    """Look ahead along the velocity."""

    @model_validator(mode="after")
    def _fits(self) -> "Sgd":
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self


OptimizerKind = Annotated[Adaptive | Lion | Sgd, Field(discriminator="name")]


class _Curve(Section):
    """Learning rates are set before every optimizer step; lengths are in epochs and need not be whole."""

    warmup_epochs: float = Field(0.0, ge=0)
    """Linear rise to lr, in epochs, before the curve begins."""


class Constant(_Curve):
    name: Literal["constant"] = "constant"
    """lr all along."""


class WarmupCosine(_Curve):
    name: Literal["warmup_cosine"] = "warmup_cosine"
    """Half a cosine from lr to min_lr over the run."""
    warmup_epochs: float = Field(0.5, ge=0)
    """Linear rise to lr, in epochs, before the curve begins."""
    min_lr: float = Field(1e-6, ge=0)
    """Where the cosine ends."""


class CosineRestarts(_Curve):
    name: Literal["cosine_restarts"] = "cosine_restarts"
    """Half a cosine from lr to min_lr again and again. Best stopped at a cycle's end: t_0 (1 + t_mult + ...) epochs."""
    t_0: Positive
    """Length of the first cycle in epochs."""
    t_mult: int = Field(1, ge=1)
    """Each cycle is this many times as long as the one before."""
    min_lr: float = Field(1e-6, ge=0)
    """Where each cosine ends."""


class Multistep(_Curve):
    name: Literal["multistep"] = "multistep"
    """lr falls by a factor at given epochs."""
    milestones: list[Positive] = Field(min_length=1)
    """Epochs after which it falls, counted from the first of the run."""
    gamma: float = Field(0.1, gt=0, lt=1)
    """The factor."""


class Poly(_Curve):
    name: Literal["poly"] = "poly"
    """From lr to min_lr as (1 - progress)^power."""
    power: Positive = 0.9
    """1 is a straight line."""
    min_lr: float = Field(0.0, ge=0)
    """Where it ends."""


class Noam(_Curve):
    name: Literal["noam"] = "noam"
    """Linear warm-up to lr, then lr x sqrt(warm-up / step)."""
    warmup_epochs: Positive
    """Length of the warm-up in epochs; it also sets how fast lr falls."""


class PlateauCurve(_Curve):
    name: Literal["plateau"] = "plateau"
    """lr falls when the held-out fold's mIoU has not risen. Needs validate_every; the OOF score is a little optimistic
    then, since the held-out fold steers the training."""
    factor: float = Field(0.5, gt=0, lt=1)
    """lr is multiplied by it."""
    patience: int = Field(3, ge=0)
    """Validations without a new best that are borne; the next one lowers lr."""
    threshold: float = Field(1e-4, ge=0)
    """A new best is higher by more than this."""
    min_lr: float = Field(1e-6, ge=0)
    """Never below."""


Schedule = Annotated[
    Constant | WarmupCosine | CosineRestarts | Multistep | Poly | Noam | PlateauCurve, Field(discriminator="name")
]
