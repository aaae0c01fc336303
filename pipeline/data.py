"""Training batches. What a tile looks like in an epoch is a function of (seed, epoch, tile, occurrence) alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from config.data import IGNORE_INDEX
from pipeline.augment import Augment, Sample, Tile
from pipeline.pack import Pack
from pipeline.seeds import TILE, seed_of

Key = tuple[int, int, int]  # (epoch, tile in the pack, how often the tile came before in this epoch)


@dataclass
class Batch:
    """One micro-batch, on the host."""

    keys: list[Key]
    pixels_NHWB: torch.Tensor
    """The pack's dtype, or float32 in 0..1."""
    target_NHW: torch.Tensor
    """uint8 indices; 255: ignored."""
    second_NHW: torch.Tensor
    """The other target of a mixed tile; equal to the first where nothing was mixed."""
    share_N: torch.Tensor
    """float32: share of the first target in the loss; 1 where nothing was mixed."""

    @property
    def is_mixed(self) -> bool:
        return bool((self.share_N < 1).any())

    def split(self, parts: int) -> list["Batch"]:
        """The batch in so many parts, or fewer: sizes differ by one at most, and a part has two tiles where the batch
        has, since one tile alone may have no batch statistics."""
        if parts == 1:
            return [self]
        bounds = (
            np.linspace(0, len(self.keys), max(1, min(parts, len(self.keys) // 2)) + 1).round().astype(int).tolist()
        )
        tensors = (self.pixels_NHWB, self.target_NHW, self.second_NHW, self.share_N)
        return [Batch(self.keys[a:b], *(tensor[a:b] for tensor in tensors)) for a, b in pairwise(bounds)]

    def pin_memory(self) -> "Batch":
        tensors = (self.pixels_NHWB, self.target_NHW, self.second_NHW, self.share_N)
        return Batch(self.keys, *(tensor.pin_memory() for tensor in tensors))


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
            class_index: a specialist's class, whose pixels become 1 and all others 0; None: the classes as they are.
        """
        self.pack, self.tile_N, self.augment, self.seed = pack, tile_N, augment, seed
        self.tiles_with = [tile_N[holds_N] for holds_N in holds_NC.T]
        self.target_of = np.arange(256, dtype=np.uint8)
        if class_index is not None:
            self.target_of[:IGNORE_INDEX] = 0
            self.target_of[class_index] = 1

    def __getitem__(self, key: Key) -> tuple[Key, Sample]:
        epoch, tile, occurrence = key
        sample = self.augment(self._load(tile), seed_of(TILE, self.seed, epoch, tile, occurrence), self._partner)
        return key, Sample(sample.image, self.target_of[sample.mask], self.target_of[sample.second], sample.share)

    def _load(self, tile: int) -> Tile:
        return np.array(self.pack.train_image_NHWB[tile]), np.array(self.pack.train_mask_NHW[tile])

    def _partner(self, rng: np.random.Generator, class_index: int | None) -> Tile | None:
        """A random training tile, or one that holds a class; None where no tile does."""
        among = self.tile_N if class_index is None else self.tiles_with[class_index]
        return self._load(rng.choice(among)) if len(among) else None


def collate(items: list[tuple[Key, Sample]]) -> Batch:
    keys, samples = zip(*items, strict=True)
    return Batch(
        list(keys),
        torch.from_numpy(np.stack([sample.image for sample in samples])),
        torch.from_numpy(np.stack([sample.mask for sample in samples])),
        torch.from_numpy(np.stack([sample.second for sample in samples])),
        torch.tensor([sample.share for sample in samples], dtype=torch.float32),
    )


class EpochBatches:
    """The batch sampler of one epoch, from any step on, so that a resumed run reads nothing twice."""

    def __init__(self, batch: int) -> None:
        self.batch, self.keys, self.first = batch, [], 0

    def set_epoch(self, epoch: int, order: np.ndarray, first: int = 0) -> None:
        """
        Args:
            order: tiles of the pack in the order of the epoch, repeats allowed.
            first: micro-batches that are done already.
        """
        seen: dict[int, int] = {}
        self.keys = []
        for tile in order.tolist():
            seen[tile] = seen.get(tile, -1) + 1
            self.keys.append((epoch, tile, seen[tile]))
        self.first = first

    def __iter__(self) -> Iterator[list[Key]]:
        for step in range(self.first, batches_in(len(self.keys), self.batch)):
            yield self.keys[step * self.batch : (step + 1) * self.batch]

    def __len__(self) -> int:
        return batches_in(len(self.keys), self.batch) - self.first


def batches_in(tiles: int, batch: int) -> int:
    """Whole batches only: a last batch of one tile has no batch statistics. Fewer tiles than a batch are one batch."""
    return max(tiles // batch, 1)


def train_loader(tiles: TrainTiles, batches: EpochBatches, workers: int, device: torch.device) -> DataLoader:
    return DataLoader(
        tiles,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        pin_memory=device.type == "cuda",
        # Of its own: a number is drawn where an epoch begins, and again where a run goes on within it. Of the global
        # one it would be dropout's next.
        generator=torch.Generator(),
    )
