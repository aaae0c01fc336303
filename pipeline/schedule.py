"""Optimizers by name, and the learning rate of every optimizer step.

The rate is a pure function of the step: a resumed run needs to remember nothing, except for `plateau`, whose memory
is a few numbers. A test holds each curve against torch's or timm's scheduler.
"""

import math

import torch
from timm.optim import create_optimizer_v2, param_groups_weight_decay
from torch import nn

from config.schedules import (
    Adaptive,
    Constant,
    CosineRestarts,
    Lion,
    Multistep,
    Noam,
    OptimizerKind,
    PlateauCurve,
    Poly,
    Sgd,
    WarmupCosine,
)
from config.training import Train

ROUNDING = 1e-9  # epochs, far below a step: so short of its end a cycle is over, or .9 % .3 would be .3 less 1e-17


def build_optimizer(network: nn.Module, train: Train) -> torch.optim.Optimizer:
    """The optimizer of a training section over an smp network.

    Its groups are encoder and rest, with and without weight decay; `lr_scale` of a group is the factor that `set_lr`
    (and timm's schedulers) give its rate.
    """
    encoder = getattr(network, "encoder", None)
    parts = [(network, 1.0)]
    if encoder is not None and train.encoder_lr_factor != 1.0:
        rest = nn.ModuleDict({name: part for name, part in network.named_children() if part is not encoder})
        parts = [(encoder, train.encoder_lr_factor), (rest, 1.0)]
    groups = [
        group | {"lr": train.lr * factor, "lr_scale": factor}
        for part, factor in parts
        for group in param_groups_weight_decay(
            part, train.weight_decay, weight_decay_exclude_1d=not train.decay_norm_and_bias
        )
    ]
    return create_optimizer_v2(groups, lr=train.lr, weight_decay=train.weight_decay, **_arguments(train.optimizer))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def lr_at(step: int, steps_per_epoch: int, train: Train, scale: float = 1.0) -> float:
    """The learning rate of optimizer step `step`, counted from 0 over the whole run.

    After a warm-up of W steps, in which it is lr (step + 1) / (W + 1), the curve begins at step W. With `swa`, the
    curve gives way to `swa.lr` from swa.start_epoch on, along a cosine as torch's SWALR has it.

    Args:
        scale: `Plateau.scale`, of the curve; `swa.lr` is what it says.
    """
    swa = train.swa
    if swa is None or step < swa.start_epoch * steps_per_epoch:
        return scale * _curve(step, steps_per_epoch, train)
    first = swa.start_epoch * steps_per_epoch
    anneal_steps = swa.anneal_epochs * steps_per_epoch
    done = min((step - first) / anneal_steps, 1.0) if anneal_steps else 1.0
    return _cosine(scale * _curve(first, steps_per_epoch, train), swa.lr, done)


def _curve(step: int, steps_per_epoch: int, train: Train) -> float:
    schedule, lr = train.schedule, train.lr
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    epoch = (step - warmup) / steps_per_epoch
    progress = (step - warmup) / (train.epochs * steps_per_epoch - warmup)
    match schedule:
        case Constant() | PlateauCurve():
            return lr
        case WarmupCosine():
            return _cosine(lr, schedule.min_lr, progress)
        case CosineRestarts():
            return _cosine(lr, schedule.min_lr, _cycle_progress(epoch, schedule.t_0, schedule.t_mult))
        case Multistep():
            passed = sum(step >= round(milestone * steps_per_epoch) for milestone in schedule.milestones)
            return lr * schedule.gamma**passed
        case Poly():
            return schedule.min_lr + (lr - schedule.min_lr) * (1 - progress) ** schedule.power
        case Noam():
            # Vaswani et al. 2017, scaled to a peak of lr: both branches are 1 at step W
            return lr * math.sqrt((warmup + 1) / (step + 1))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def _cycle_progress(epoch: float, t_0: float, t_mult: int) -> float:
    """How far the current cycle is, in [0, 1), when cycles last t_0, t_0 t_mult, t_0 t_mult^2, ... epochs."""
    if t_mult == 1:
        done = epoch % t_0
        return 0.0 if t_0 - done < ROUNDING else done / t_0
    length = t_0
    while length - epoch < ROUNDING:
        epoch, length = max(epoch - length, 0.0), length * t_mult
    return epoch / length


class Plateau:
    """Lowers the rate when the validation score has stopped rising, as torch's ReduceLROnPlateau does.

    For every other schedule `scale` stays 1.
    """

    def __init__(self, train: Train) -> None:
        self.schedule = train.schedule if isinstance(train.schedule, PlateauCurve) else None
        self.lr = train.lr
        self.scale = 1.0
        """Factor of `lr_at`."""
        self.best, self.bad = -math.inf, 0

    def after_validation(self, miou: float) -> None:
        if self.schedule is None:
            return
        if miou > self.best + self.schedule.threshold:
            self.best, self.bad = miou, 0
            return
        self.bad += 1
        if self.bad > self.schedule.patience:
            self.scale = max(self.scale * self.schedule.factor, self.schedule.min_lr / self.lr)
            self.bad = 0

    def state_dict(self) -> dict[str, float]:
        return {"scale": self.scale, "best": self.best, "bad": self.bad}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.scale, self.best, self.bad = state["scale"], state["best"], state["bad"]


def _arguments(optimizer: OptimizerKind) -> dict[str, object]:
    """What timm calls the optimizer and its settings."""
    match optimizer:
        case Adaptive(name="adamw"):
            # fused: one pass over the weights, a third of the time of torch's default on a CPU
            return {"opt": "adamw", "betas": optimizer.betas, "eps": optimizer.eps, "fused": True}
        case Adaptive(name="lamb"):
            # clipping is train.clip_grad_norm's, for all optimizers; timm's would come on top
            return {"opt": "lamb", "betas": optimizer.betas, "eps": optimizer.eps, "max_grad_norm": None}
        case Adaptive():
            return {"opt": optimizer.name, "betas": optimizer.betas, "eps": optimizer.eps}
        case Lion():
            return {"opt": "lion", "betas": optimizer.betas}
        case Sgd():
            # timm's "sgd" is the one with Nesterov's momentum, its "momentum" the one without
            name = "sgd" if optimizer.nesterov else "momentum"
            return {"opt": name, "momentum": optimizer.momentum, "fused": True}
