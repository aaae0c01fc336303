"""What a member is and how it is trained."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from config.base import Section
from config.data import Positive


class Model(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    """Folder and row name; unique in an experiment."""
    arch: str = "Unet"
    """Any architecture of segmentation_models_pytorch, by its class name."""
    encoder: str = "resnet18"
    """Any smp encoder, or any timm backbone as "tu-NAME"."""
    encoder_weights: str | None = None
    """null (random), imagenet (downloaded by smp), or the path of a local .safetensors/.pth of the encoder."""
    params: dict[str, Any] = {}
    """Further arguments of the smp architecture, e.g. {decoder_channels: [128, 64, 32, 16, 8]}."""
    target: str = "all"
    """`all` classes (softmax), or one class name: a specialist (sigmoid) for it."""
    train: dict[str, Any] = {}
    """Keys of the section `train` that differ for this model."""


class LossTerm(Section):
    name: Literal["ce", "dice"]
    """ce: cross-entropy; dice: soft dice over the classes present in the batch."""
    weight: Positive = 1.0
    """Factor of this term in the sum."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """For ce: the share of the target spread evenly over all classes."""

    @model_validator(mode="after")
    def _belongs(self) -> "LossTerm":
        if self.label_smoothing and self.name != "ce":
            raise ValueError(f"label_smoothing belongs to ce, not to {self.name}")
        return self


class Schedule(Section):
    name: Literal["warmup_cosine"] = "warmup_cosine"
    """Shape of the learning rate over the run."""
    warmup_epochs: float = Field(1.0, ge=0)
    """Linear rise from 0, in epochs."""
    min_lr: float = Field(1e-6, ge=0)
    """Where the cosine ends."""


class Augmentation(Section):
    name: str
    """An augmentation of `pipeline/augment.py`."""
    p: float = Field(0.5, ge=0, le=1)
    """Probability that it is applied to a tile."""
    params: dict[str, Any] = {}
    """Its own arguments."""


class Train(Section):
    epochs: int = Field(20, ge=1)
    """Passes over the training folds."""
    batch: int = Field(8, ge=1)
    """Tiles per optimizer step."""
    lr: Positive = 1e-3
    """Peak learning rate."""
    weight_decay: float = Field(1e-2, ge=0)
    """AdamW's decoupled decay."""
    loss: list[LossTerm] = Field([LossTerm(name="ce"), LossTerm(name="dice")], min_length=1)
    """The terms of the weighted sum."""
    schedule: Schedule = Schedule()
    """Learning rate over the run."""
    clip_grad_norm: Positive | None = 5.0
    """Largest 2-norm of the gradient; null: not clipped."""
    augment: list[Augmentation] = [Augmentation(name="d4", p=1.0)]
    """Applied in order to each training tile."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Autocast type; auto: bf16 where the device computes in it, fp16 on other GPUs, fp32 on other CPUs."""
    validate_every: int = Field(0, ge=0)
    """Score the held-out fold every this many epochs, for the curves; 0: only at the end. Never chooses anything
    unless predict.weights is best."""

    @model_validator(mode="after")
    def _fits(self) -> "Train":
        if self.schedule.warmup_epochs >= self.epochs:
            raise ValueError(f"schedule.warmup_epochs {self.schedule.warmup_epochs} must be below epochs {self.epochs}")
        return self


Seeds = Annotated[list[int], Field(min_length=1)]
