"""The training loop: epochs, steps, accumulation, a checkpoint now and then. Everything arrives as an argument."""

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
from models.zoo import padded_logits
from pipeline.checkpoint import TrainState
from pipeline.data import Batch, EpochBatches
from pipeline.device import autocast
from pipeline.prepare import Preparation
from pipeline.progress import TrainProgress
from pipeline.schedule import lr_at, set_lr
from pipeline.seeds import EPOCH, seed_of
from pipeline.stopping import Stopped, StopRequest


@dataclass(frozen=True)
class Plan:
    """What the loop needs to know and never changes."""

    name: str
    """Of the member, for messages."""
    train: Train
    seed: int
    fold: int
    device: torch.device
    dtype: torch.dtype | None
    """Autocast type; None: float32."""
    tile_names: list[str]
    split_batch: int = 1
    """Parts in which a micro-batch goes through the network."""
    checkpoint_s: float = 60.0
    """Seconds between checkpoints."""


def fit(
    plan: Plan,
    state: TrainState,
    forward: nn.Module,
    loader: DataLoader,
    batches: EpochBatches,
    preparation: Preparation,
    loss_fn: nn.Module,
    validate: Callable[[nn.Module], float] | None,
    save: Callable[[TrainState], None],
    save_best: Callable[[TrainState], None],
    stop: StopRequest,
    progress: TrainProgress,
) -> None:
    """Train from where `state` stands to the last epoch.

    Args:
        forward: the state's network, perhaps compiled.
        validate: the mIoU of a network on the held-out tiles; None: there are none.

    Raises:
        UserError: the loss or a gradient is not finite; nothing that came of it was saved.
        Stopped: `stop` was asked for and the state is saved.
    """
    train = plan.train
    saved_at = time.monotonic()
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
            losses = optimizer_step(plan, state, forward, micro_batches, preparation, loss_fn, lr)
            state.averages.after_step(state.network)
            state.micro_step += len(micro_batches)
            state.loss_sum += sum(losses)
            tiles = sum(len(batch.keys) for batch in micro_batches)
            progress.step(state.epoch, state.micro_step, micro_steps, sum(losses) / len(losses), lr, tiles)
            stopping = bool(stop)  # asked once: the answer may change between two questions
            if stopping or time.monotonic() - saved_at > plan.checkpoint_s:
                save(state)
                saved_at = time.monotonic()
            if stopping:
                raise Stopped(plan.name)
        finish_epoch(plan, state, micro_steps, current_lr(state, steps - 1, steps, train), validate, save_best)
        progress.epoch(state.log[-1])
    save(state)


def current_lr(state: TrainState, step: int, steps: int, train: Train) -> float:
    """The learning rate of a step of the state's epoch."""
    return lr_at(state.epoch * steps + step, steps, train, state.plateau.scale)


def optimizer_step(
    plan: Plan,
    state: TrainState,
    forward: nn.Module,
    micro_batches: list[Batch],
    preparation: Preparation,
    loss_fn: nn.Module,
    lr: float,
) -> list[float]:
    """Forward and backward of each micro-batch, then one step; the micro-batches' losses.

    accumulate.reduce mean: each micro-batch counts by its share of valid pixels, so that the gradient is that of one
    large batch. sum: losses are added up, and the gradient grows with the number of micro-batches. The parts of a
    micro-batch that is split always count by their shares.
    """
    train, device = plan.train, plan.device
    valid = sum(batch.valid for batch in micro_batches)
    losses = []
    state.optimizer.zero_grad(set_to_none=True)
    for batch in micro_batches:
        share = batch.valid / max(valid, 1) if train.accumulate.reduce == "mean" else 1.0
        parts = batch.split(plan.split_batch)
        loss_sum = 0.0
        for part in parts:
            image_NCHW = preparation(part.pixels_NHWB.to(device, non_blocking=True))
            with autocast(device, plan.dtype):
                logits_NCHW = padded_logits(forward, image_NCHW)
            loss = loss_of(loss_fn, logits_NCHW.float(), part, device)
            value = EarlyValue(loss)
            within = part.valid / max(batch.valid, 1) if len(parts) > 1 else 1.0
            state.scaler.scale(loss * (share * within)).backward()
            loss_sum += value.get() * within
        losses.append(loss_sum)
        if not np.isfinite(losses[-1]):
            raise _not_finite(plan, state, lr, [batch], f"the loss is {losses[-1]}", "no step was taken with it")
    norm = None
    if train.clip_grad_norm is not None:
        state.scaler.unscale_(state.optimizer)
        norm = EarlyValue(nn.utils.clip_grad_norm_(state.network.parameters(), train.clip_grad_norm))
    state.scaler.step(state.optimizer)
    state.scaler.update()
    # Asked when the step is queued, so that a GPU has that to do meanwhile. fp16's scaler leaves such steps out itself.
    if norm is not None and not state.scaler.is_enabled() and not np.isfinite(norm.get()):
        raise _not_finite(plan, state, lr, micro_batches, "the gradient is not finite", "its step was not saved")
    return losses


def _not_finite(plan: Plan, state: TrainState, lr: float, of: list[Batch], what: str, taken: str) -> UserError:
    names = listed(plan.tile_names[tile] for batch in of for _, tile, _ in batch.keys)
    return UserError(
        f"member {plan.name}: {what} in epoch {state.epoch} at lr {lr:.2e}, tiles {names}; {taken}. Lower train.lr, or "
        f"set train.precision to fp32, or look at these tiles"
    )


def loss_of(loss_fn: nn.Module, logits_NCHW: torch.Tensor, batch: Batch, device: torch.device) -> torch.Tensor:
    target_NHW = batch.target_NHW.to(device, torch.int64, non_blocking=True)
    if batch.second_NHW is None:
        return loss_fn(logits_NCHW, target_NHW)
    second_NHW = batch.second_NHW.to(device, torch.int64, non_blocking=True)
    return loss_fn(logits_NCHW, target_NHW, second_NHW, batch.share_N.to(device, non_blocking=True))


def finish_epoch(
    plan: Plan,
    state: TrainState,
    micro_steps: int,
    lr: float,
    validate: Callable[[nn.Module], float] | None,
    save_best: Callable[[TrainState], None],
) -> None:
    """Count the epoch, score it where asked, and write its row of the log."""
    train = plan.train
    state.epoch, state.micro_step = state.epoch + 1, 0
    state.averages.after_epoch(state.network, state.epoch)
    due = validate and train.validate_every and (state.epoch % train.validate_every == 0 or state.epoch == train.epochs)
    miou = validate(state.network.eval()) if due else None
    row = {"epoch": state.epoch, "lr": lr, "loss": state.loss_sum / micro_steps, "val_miou": miou}
    state.log.append(row)
    if miou is not None:
        state.plateau.after_validation(miou)
        if miou > state.best_miou:
            state.best_miou = miou
            save_best(state)


class EarlyValue:
    """A device scalar on its way to the host: read after the backward pass is queued, so that the GPU never waits."""

    def __init__(self, value: torch.Tensor) -> None:
        value = value.detach()
        if value.device.type == "cuda":
            self.host = torch.empty((), dtype=value.dtype, pin_memory=True)
            self.host.copy_(value, non_blocking=True)
            self.arrived = torch.cuda.Event()
            self.arrived.record()
        else:
            self.host, self.arrived = value, None

    def get(self) -> float:
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.host.item()


def chunks(items: Iterable, size: int) -> Iterator[list]:
    """Lists of `size` items; the last may be shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
