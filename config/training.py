"""What a member is and how it is trained.

A section that comes in kinds (optimizer, schedule, ...) is told apart by its `name`; each kind has its own keys, so
that a wrong or missing one is found when the experiment is read and not at epoch 20.
"""

from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from config.augmentations import Augmentation
from config.base import Name, Section
from config.data import Positive
from config.losses import ClassWeights, CrossEntropy, LossTerm, NoWeights, Overlap, Sampler, Uniform
from config.schedules import Adaptive, Multistep, OptimizerKind, Schedule, WarmupCosine


class Model(Section):
    name: Name
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
    folds: Literal["each", "each+all"] = "each"
    """each: a member per fold. each+all: and one that is trained on every tile; nothing honest can be said of it alone,
    so it has no OOF, and joins the mean of the model's test predictions."""


class Accumulate(Section):
    steps: int = Field(1, ge=1)
    """Batches whose gradients make one optimizer step."""
    reduce: Literal["mean", "sum"] = "mean"
    """mean over all their valid pixels, as one large batch would have it; or the sum of the batches' mean losses, whose
    gradient grows with steps."""


class Ema(Section):
    decay: float = Field(0.999, gt=0, lt=1)
    """Share of the average that a step keeps; it looks back over about 1 / (1 - decay) steps. After t steps the share
    is (1 + t) / (10 + t) at most, or the average would remember for long how training began."""


class Swa(Section):
    start_epoch: int = Field(ge=0)
    """Epochs trained before the averaging begins; the weights at the end of every later epoch are averaged."""
    lr: Positive
    """Learning rate while averaging."""
    anneal_epochs: float = Field(1.0, ge=0)
    """Epochs in which lr goes from the schedule's to this one, along a cosine."""


class Train(Section):
    epochs: int = Field(20, ge=1)
    """Passes over the training folds."""
    batch: int = Field(8, ge=1)
    """Tiles per forward pass."""
    accumulate: Accumulate = Accumulate()
    """Several batches per optimizer step."""
    lr: Positive = 1e-3
    """Peak learning rate."""
    encoder_lr_factor: Positive = 1.0
    """The encoder's learning rate is lr times this: below 1 for a pretrained one."""
    optimizer: OptimizerKind = Adaptive()
    """What turns gradients into steps."""
    weight_decay: float = Field(1e-2, ge=0)
    """Pull of the weights towards 0."""
    decay_norm_and_bias: bool = False
    """Whether it also pulls biases and the norm layers' weights."""
    loss: list[LossTerm] = Field([CrossEntropy(), Overlap(name="dice")], min_length=1)
    """The terms of the weighted sum."""
    class_weights: ClassWeights = NoWeights()
    """Weight of a pixel by its class, from the training folds' pixel counts, in the terms ce and focal."""
    sampler: Sampler = Uniform()
    """How often a tile is seen in an epoch."""
    schedule: Schedule = WarmupCosine()
    """Learning rate over the run."""
    clip_grad_norm: Positive | None = 5.0
    """Largest 2-norm of the gradient; null: not clipped."""
    augment: list[Augmentation] = [Augmentation(name="d4", p=1.0)]
    """Applied in order to each training tile."""
    ema: Ema | None = None
    """Exponential moving average of the weights, kept beside them; null: none."""
    swa: Swa | None = None
    """Stochastic weight averaging over the last epochs, kept beside the weights; null: none."""
    batch_statistics: Literal["estimated", "running"] = "estimated"
    """What the batch norms of `last` and `best` predict with. estimated: mean and variance over training tiles without
    augmentation, by the weights as they are in the end, as those of averages always are; running: torch's, which are
    of the last ten batches or so, augmented, and so of few tiles where batches are small."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Autocast type; auto: bf16 where the device is fast in it, fp16 on other GPUs, fp32 on other CPUs, which have no
    units for fp16 and are very slow in it."""
    channels_last: bool = True
    """Memory layout of images and weights in training; faster nearly everywhere. Prediction always has it."""
    compile: bool = False
    """torch.compile the network: needs a C++ compiler and a minute or more at the start. On CPUs it gains nothing or
    loses."""
    validate_every: int = Field(0, ge=0)
    """Score the held-out fold every this many epochs, for the curves; 0: only at the end. Chooses nothing unless
    predict.weights is best or the schedule is plateau."""
    tensorboard: bool = False
    """Write the epochs for TensorBoard too, into the member's folder; needs `pip install tensorboard`."""

    @model_validator(mode="before")
    @classmethod
    def _usual_kinds(cls, values: Any) -> Any:
        """`schedule: {warmup_epochs: 2}` changes a key of the usual kind."""
        if not isinstance(values, dict):
            return values
        usual = {
            key: cls.model_fields[key].default.name for key in ("class_weights", "sampler", "schedule", "optimizer")
        }
        return values | {
            key: {"name": name, **values[key]}
            for key, name in usual.items()
            if isinstance(values.get(key), dict) and "name" not in values[key]
        }

    @model_validator(mode="after")
    def _fits(self) -> "Train":
        problems = [*self._misfits_of_length(), *self._misfits_of_mixing()]
        if self.schedule.name == "plateau" and not self.validate_every:
            problems.append("schedule plateau needs the validation score: set validate_every to 1 or more")
        if self.tensorboard and find_spec("tensorboard") is None:
            problems.append("tensorboard: true needs the package: pip install tensorboard")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _misfits_of_length(self) -> list[str]:
        curve, swa, problems = self.schedule, self.swa, []
        if curve.warmup_epochs >= self.epochs:
            problems.append(f"schedule.warmup_epochs {curve.warmup_epochs:g} must be below epochs {self.epochs}")
        if getattr(curve, "min_lr", 0) > self.lr:
            problems.append(f"schedule.min_lr {curve.min_lr:g} must not be above lr {self.lr:g}")
        if isinstance(curve, Multistep):
            if sorted(set(curve.milestones)) != curve.milestones:
                problems.append(f"schedule.milestones {curve.milestones} must rise")
            if curve.milestones[-1] >= self.epochs:
                problems.append(f"schedule.milestones {curve.milestones} must be below epochs {self.epochs}")
        if swa and swa.start_epoch >= self.epochs:
            problems.append(f"swa.start_epoch {swa.start_epoch} must be below epochs {self.epochs}")
        return problems

    def _misfits_of_mixing(self) -> list[str]:
        at = [i for i, augmentation in enumerate(self.augment) if augmentation.name == "mixup"]
        if at and at != [len(self.augment) - 1]:
            return ["augment: mixup gives a tile two masks, so it comes last and once"]
        return []


def _distinct(seeds: list[int]) -> list[int]:
    if len({*seeds}) < len(seeds):
        raise ValueError("one is given twice: it would train the same members again")
    return seeds


Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1), AfterValidator(_distinct)]
