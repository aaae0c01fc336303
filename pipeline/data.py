"""Training batches. What a tile looks like in an epoch is a function of (seed, epoch, tile, occurrence) alone."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from base.errors import UserError
from config.data import IGNORE_INDEX
from pipeline.augment import Augment, Sample, Tile
from pipeline.pack import Pack
from pipeline.seeds import TILE, seed_of
from pipeline.stopping import leave_stopping_to_main

Key = tuple[int, int, int]  # (epoch, tile in the pack, how often the tile came before in this epoch)
SHARED = Path("/dev/shm")  # where Linux keeps what a loader's processes hand to the main one
PREFETCH = 4  # batches that each of them makes before they are asked for, where there is room
TIMEOUT_S = 300.0  # without a batch: one was lost, and would be waited for for ever


@dataclass
class Batch:
    """One micro-batch, on the host. What is asked of its numbers is answered where it is made, by the loader's
    processes: beside a GPU the main one has no time for it."""

    keys: list[Key]
    pixels_NHWB: torch.Tensor
    """The pack's dtype, or float32 in 0..1."""
    target_NHW: torch.Tensor
    """uint8 indices; 255: ignored."""
    valid_N: list[float]
    """Pixels of each tile that the loss is a mean over: those not ignored; of a mixed tile, by its targets' shares."""
    second_NHW: torch.Tensor | None = None
    """The other target of mixed tiles, equal to the first where a tile was not; None: no tile of the batch was."""
    share_N: torch.Tensor | None = None
    """float32: share of the first target in the loss, 1 where a tile was not mixed; None as above."""

    @property
    def valid(self) -> float:
        """Pixels that the loss of the batch is a mean over."""
        return sum(self.valid_N)

    def split(self, parts: int) -> list["Batch"]:
        """The batch in so many parts, or fewer: sizes differ by one at most, and a part has two tiles where the batch
        has, since one tile alone may have no batch statistics."""
        if parts == 1:
            return [self]
        bounds = (
            np.linspace(0, len(self.keys), max(1, min(parts, len(self.keys) // 2)) + 1).round().astype(int).tolist()
        )
        return [self._each(lambda values, part=slice(a, b): values[part]) for a, b in pairwise(bounds)]

    def pin_memory(self) -> "Batch":
        return self._each(lambda values: values.pin_memory() if isinstance(values, torch.Tensor) else values)

    def _each(self, make: Callable[[Any], Any]) -> "Batch":
        """The batch with something else made of every field that it has."""
        values = (getattr(self, field.name) for field in fields(self))
        return Batch(*(None if value is None else make(value) for value in values))


def target_table(class_index: int | None) -> np.ndarray:
    """(256,) uint8: index in a mask -> what a member should say there; IGNORE_INDEX stays.

    Args:
        class_index: a specialist's class, whose pixels become 1 and all others 0; None: the classes as they are.
    """
    target_of = np.arange(256, dtype=np.uint8)
    if class_index is not None:
        target_of[:IGNORE_INDEX] = 0
        target_of[class_index] = 1
    return target_of


class TrainTiles(Dataset):
    """Augmented training tiles by key."""

    def __init__(
        self,
        pack: Pack,
        tile_N: np.ndarray,
        holds_NC: np.ndarray,
        augment: Augment,
        seed: int,
        class_index: int | None,
    ) -> None:
        """
        Args:
            tile_N: the pack's tiles that this member trains on; partners for mixing come from them alone.
            holds_NC: (N, C) whether each of them holds a class.
            class_index: of `target_table`.
        """
        self.pack, self.tile_N, self.augment, self.seed = pack, tile_N, augment, seed
        self.tiles_with = [tile_N[holds_N] for holds_N in holds_NC.T]
        self.target_of = target_table(class_index)

    def __getitem__(self, key: Key) -> tuple[Key, Sample]:
        epoch, tile, occurrence = key
        sample = self.augment(self._load(tile), seed_of(TILE, self.seed, epoch, tile, occurrence), self._partner)
        return key, Sample(sample.image, self.target_of[sample.mask], self.target_of[sample.second], sample.share)

    @property
    def bytes_per_tile(self) -> int:
        """What a tile takes in a batch at most: its pixels and two targets."""
        return self.pack.train_image_NHWB[0].nbytes + 2 * self.pack.train_mask_NHW[0].nbytes

    def _load(self, tile: int) -> Tile:
        return np.array(self.pack.train_image_NHWB[tile]), np.array(self.pack.train_mask_NHW[tile])

    def _partner(self, rng: np.random.Generator, class_index: int | None) -> Tile | None:
        """A random training tile, or one that holds a class; None where no tile does."""
        among = self.tile_N if class_index is None else self.tiles_with[class_index]
        return self._load(rng.choice(among)) if len(among) else None


def collate(items: list[tuple[Key, Sample]]) -> Batch:
    keys, samples = zip(*items, strict=True)
    batch = Batch(
        list(keys),
        torch.from_numpy(np.stack([sample.image for sample in samples])),
        torch.from_numpy(np.stack([sample.mask for sample in samples])),
        [_valid_pixels(sample) for sample in samples],
    )
    if any(sample.share < 1 for sample in samples):
        batch.second_NHW = torch.from_numpy(np.stack([sample.second for sample in samples]))
        batch.share_N = torch.tensor([sample.share for sample in samples], dtype=torch.float32)
    return batch


def _valid_pixels(sample: Sample) -> float:
    first, second = (np.count_nonzero(mask != IGNORE_INDEX) for mask in (sample.mask, sample.second))
    return float(sample.share * first + (1 - sample.share) * second)


class EpochBatches:
    """The batch sampler: one epoch after the other, from any step on, so that a resumed run reads nothing twice.

    Epochs are one stream: while one ends and is scored, the loader's processes make the first batches of the next.
    """

    def __init__(self, order_of_epoch: Callable[[int], np.ndarray], batch: int) -> None:
        """
        Args:
            order_of_epoch: epoch -> tiles of the pack in the order of training, repeats allowed.
        """
        self.order_of_epoch, self.batch = order_of_epoch, batch
        self.begin(0)

    def begin(self, epoch: int, first: int = 0, end: int | None = None) -> None:
        """Where the next iteration begins.

        Args:
            first: micro-batches of the epoch that are done already.
            end: the epoch that comes no more; None: it never ends.
        """
        self.epoch, self.first, self.end = epoch, first, end

    def batches_in(self, epoch: int) -> int:
        """Of a whole epoch."""
        return self._whole_batches(len(self.order_of_epoch(epoch)))

    def __iter__(self) -> Iterator[list[Key]]:
        first = self.first
        for epoch in count(self.epoch) if self.end is None else range(self.epoch, self.end):
            keys = self._keys(epoch)
            for step in range(first, self._whole_batches(len(keys))):
                yield keys[step * self.batch : (step + 1) * self.batch]
            first = 0

    def _whole_batches(self, tiles: int) -> int:
        """A last batch of one tile has no batch statistics; fewer tiles than a batch are one."""
        return max(tiles // self.batch, 1)

    def _keys(self, epoch: int) -> list[Key]:
        seen: dict[int, int] = {}
        keys = []
        for tile in self.order_of_epoch(epoch).tolist():
            seen[tile] = seen.get(tile, -1) + 1
            keys.append((epoch, tile, seen[tile]))
        return keys


def prefetch_factor(workers: int, batch_bytes: int) -> int:
    """Batches that each of a loader's processes makes ahead: as many as half of the shared memory that is free holds,
    since other jobs of the machine have theirs there too.

    Raises:
        UserError: one for each process, and the one that is trained on, do not fit. What does not fit is lost.
    """
    if not SHARED.exists():  # no Linux: elsewhere it has no size
        return PREFETCH
    stat = os.statvfs(SHARED)
    free, needed = stat.f_bavail * stat.f_frsize, (workers + 1) * batch_bytes
    if needed > free:
        raise UserError(
            f"{SHARED} has {free / 2**20:.1f} MiB free; {workers} loader processes hand over batches of "
            f"{batch_bytes / 2**20:.1f} MiB there and need {needed / 2**20:.1f}. Set jobs.loader_workers=0, or give "
            f"the container more (docker run --shm-size=2g; Kubernetes: docs/cluster.md)"
        )
    return min(max(free // 2 // (workers * batch_bytes), 1), PREFETCH)


def train_loader(tiles: TrainTiles, batches: EpochBatches, workers: int, device: torch.device) -> DataLoader:
    """
    Raises:
        UserError: batches of so many processes do not fit into shared memory.
    """
    return DataLoader(
        tiles,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=leave_stopping_to_main,
        # Whatever the caller's own way (a spawned process passes on spawn): forked ones share the pack's memory map,
        # and augmentations, which are closures, need not be pickled.
        multiprocessing_context="fork" if workers else None,
        persistent_workers=workers > 0,
        prefetch_factor=prefetch_factor(workers, batches.batch * tiles.bytes_per_tile) if workers else None,
        timeout=TIMEOUT_S if workers else 0,
        pin_memory=device.type == "cuda",
        # Of its own: a number is drawn where an epoch begins, and again where a run goes on within it. Of the global
        # one it would be dropout's next.
        generator=torch.Generator(),
    )
