"""The training loop: epochs, steps, accumulation, a checkpoint now and then. Everything arrives as an argument."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from base.errors import UserError, listed
from config.training import Train
from pipeline.checkpoint import TrainState
from pipeline.data import Batch, EpochBatches
from pipeline.objective import Objective
from pipeline.progress import TrainProgress
from pipeline.schedule import lr_at, set_lr
from pipeline.seeds import EPOCH, seed_of
from pipeline.stopping import Stopped, StopRequest
from pipeline.to_host import ToHost

MOST_SKIPPED = 20  # steps in a row without a finite gradient: fp16's scale is then a millionth, and nothing is learnt


@dataclass(frozen=True)
class Plan:
    """What the loop needs to know and never changes."""

    name: str
    """Of the member, for messages."""
    train: Train
    seed: int
    fold: int
    tile_names: list[str]
    split_batch: int = 1
    """Parts in which a micro-batch goes through the network."""
    checkpoint_s: float = 60.0
    """Seconds between checkpoints."""


@dataclass(frozen=True)
class Hooks:
    """Who is asked and told on the way."""

    save: Callable[[TrainState], None]
    """The checkpoint."""
    save_best: Callable[[TrainState], None]
    stop: StopRequest
    progress: TrainProgress
    validate: Callable[[nn.Module, Callable[[], None]], float] | None = None
    """The mIoU of a network on the held-out tiles, with something to call after each batch; None: there are none."""


class Checkpoints:
    """A checkpoint where one is due or an end was asked for."""

    def __init__(self, plan: Plan, state: TrainState, hooks: Hooks) -> None:
        self.plan, self.state, self.hooks = plan, state, hooks
        self.saved_at = time.monotonic()
        self.saved: tuple[int, int] | None = None
        """Where the state stood then; it is not written twice, however long scoring takes."""

    def pause(self) -> None:
        """To be called between two pieces of work, when the state is whole.

        Raises:
            Stopped: a stop was asked for and the state is saved.
        """
        stopping = bool(self.hooks.stop)  # asked once: the answer may change between two questions
        if stopping or time.monotonic() - self.saved_at > self.plan.checkpoint_s:
            place = (self.state.epoch, self.state.micro_step)
            if place != self.saved:
                self.hooks.save(self.state)
            self.saved_at, self.saved = time.monotonic(), place
        if stopping:
            raise Stopped(self.plan.name)


def fit(
    plan: Plan, state: TrainState, objective: Objective, loader: DataLoader, batches: EpochBatches, hooks: Hooks
) -> None:
    """Train from where `state` stands to the last epoch.

    Args:
        objective: of the state's network.
        loader: gives what `batches` lists.

    Raises:
        UserError: the loss or a gradient is not finite, in fp16 for some steps; nothing that came of it was saved.
        Stopped: a stop was asked for and the state is saved.
    """
    train, checkpoints = plan.train, Checkpoints(plan, state, hooks)
    batches.begin(state.epoch, state.micro_step, train.epochs)
    stream = iter(loader)
    while state.epoch < train.epochs:
        micro_steps = batches.batches_in(state.epoch)
        steps = -(-micro_steps // train.accumulate.steps)
        if state.micro_step == 0:
            state.loss_sum = 0.0
            torch.manual_seed(seed_of(EPOCH, plan.seed, plan.fold, state.epoch))  # dropout: no memory of earlier epochs
        state.network.train()
        for micro_batches in chunks(islice(stream, micro_steps - state.micro_step), train.accumulate.steps):
            lr = current_lr(state, state.micro_step // train.accumulate.steps, steps, train)
            set_lr(state.optimizer, lr)
            losses = optimizer_step(plan, state, objective, micro_batches, lr)
            state.averages.after_step(state.network)
            state.micro_step += len(micro_batches)
            state.loss_sum += sum(losses)
            tiles = sum(len(batch.keys) for batch in micro_batches)
            hooks.progress.step(state.epoch, state.micro_step, micro_steps, sum(losses) / len(losses), lr, tiles)
            checkpoints.pause()
        # While the epoch still stands at its last step: one that is killed or stopped now is scored again, whole.
        miou = score(train, state, hooks, checkpoints)
        lr = current_lr(state, steps - 1, steps, train)
        finish_epoch(state, {"lr": lr, "loss": state.loss_sum / micro_steps, "val_miou": miou}, objective.device, hooks)
        hooks.progress.epoch(state.log[-1])
    hooks.save(state)


def current_lr(state: TrainState, step: int, steps: int, train: Train) -> float:
    """The learning rate of a step of the state's epoch."""
    return lr_at(state.epoch * steps + step, steps, train, state.plateau.scale)


def optimizer_step(
    plan: Plan, state: TrainState, objective: Objective, micro_batches: list[Batch], lr: float
) -> list[float]:
    """Forward and backward of each micro-batch, then one step; the micro-batches' losses.

    accumulate.reduce mean: each micro-batch counts by its share of valid pixels, so that the gradient is that of one
    large batch. sum: losses are added up, and the gradient grows with the number of micro-batches. The parts of a
    micro-batch that is split always count by their shares.
    """
    train = plan.train
    valid = sum(batch.valid for batch in micro_batches)
    losses = []
    state.optimizer.zero_grad(set_to_none=True)
    for batch in micro_batches:
        share = batch.valid / max(valid, 1) if train.accumulate.reduce == "mean" else 1.0
        parts = batch.split(plan.split_batch)
        loss_sum = 0.0
        for part in parts:
            loss = objective.loss(part)
            value = ToHost(loss)  # read when the backward pass is queued
            within = part.valid / max(batch.valid, 1) if len(parts) > 1 else 1.0
            state.scaler.scale(loss * (share * within)).backward()
            loss_sum += value.number() * within
        losses.append(loss_sum)
        if not np.isfinite(losses[-1]):
            raise _not_finite(plan, state, lr, [batch], f"the loss is {losses[-1]}", "no step was taken with it")
    state.scaler.unscale_(state.optimizer)
    norm = ToHost(nn.utils.clip_grad_norm_(objective.parameters, train.clip_grad_norm or math.inf))
    state.scaler.step(state.optimizer)
    state.scaler.update()
    # Asked when the step is queued, so that a GPU has that to do meanwhile.
    if np.isfinite(norm.number()):
        state.skipped = 0
    elif not state.scaler.is_enabled():
        raise _not_finite(plan, state, lr, micro_batches, "the gradient is not finite", "its step was not saved")
    else:  # fp16's scaler left the step out, and scales less from now on
        state.skipped += 1
        if state.skipped == MOST_SKIPPED:
            what = f"the gradients of {MOST_SKIPPED} steps in a row are not finite"
            raise _not_finite(plan, state, lr, micro_batches, what, "none of these steps was taken")
    return losses


def _not_finite(plan: Plan, state: TrainState, lr: float, of: list[Batch], what: str, taken: str) -> UserError:
    names = listed(plan.tile_names[tile] for batch in of for _, tile, _ in batch.keys)
    return UserError(
        f"member {plan.name}: {what} in epoch {state.epoch + 1} of {plan.train.epochs} at lr {lr:.2e}, tiles {names}; "
        f"{taken}. Lower train.lr, or set train.precision to fp32, or look at these tiles"
    )


def score(train: Train, state: TrainState, hooks: Hooks, checkpoints: Checkpoints) -> float | None:
    """The mIoU of the weights on the held-out tiles after an epoch; None where it is not asked for."""
    epochs_done = state.epoch + 1
    due = train.validate_every and (epochs_done % train.validate_every == 0 or epochs_done == train.epochs)
    return hooks.validate(state.network.eval(), checkpoints.pause) if due and hooks.validate else None


def finish_epoch(state: TrainState, row: dict[str, float | None], device: torch.device, hooks: Hooks) -> None:
    """Count the epoch, and write its row of the log."""
    state.epoch, state.micro_step = state.epoch + 1, 0
    state.averages.after_epoch(state.network, state.epoch)
    state.log.append({"epoch": state.epoch} | row)
    miou = row["val_miou"]
    if miou is not None:
        state.plateau.after_validation(miou)
        if miou > state.best_miou:
            state.best_miou = miou
            hooks.save_best(state)
            if device.type == "cuda":  # no replay from an older checkpoint comes to these weights and this score again
                hooks.save(state)


def chunks(items: Iterable, size: int) -> Iterator[list]:
    """Lists of `size` items; the last may be shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
