"""Everything that one member's training is made of, from its experiment, tiles and folds."""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader

from config import Member, Run
from folds.classes import ClassTable
from folds.folds_csv import folds_of, refuse_bad_folds
from folds.tiles import hist_of, tiles_of
from models.averaging import Averages
from models.class_weights import training_weights
from models.losses import build_loss
from models.zoo import build_model
from pipeline.augment import build_augment
from pipeline.checkpoint import TrainState
from pipeline.data import EpochBatches, TrainTiles, train_loader
from pipeline.device import autocast_dtype, loader_workers
from pipeline.loop import Plan
from pipeline.objective import Objective
from pipeline.pack import Pack, open_pack
from pipeline.pixels import fill_value
from pipeline.prepare import Preparation
from pipeline.record import MemberRecord
from pipeline.sampler import epoch_order
from pipeline.schedule import Plateau, build_optimizer
from pipeline.seeds import WEIGHTS, seed_of

ALL_FOLDS = 1 << 16  # stands for the fold in the seeds of a member that is trained on every tile


@dataclass(frozen=True)
class Setup:
    """A member before its first step."""

    plan: Plan
    record: MemberRecord
    """What `member.json` will say."""
    state: TrainState
    objective: Objective
    loader: DataLoader
    batches: EpochBatches
    pack: Pack
    train_N: np.ndarray
    """Tiles of the pack that the member trains on."""
    val_N: np.ndarray
    """Its held-out tiles; none where it is trained on every tile."""
    class_index: int | None
    """A specialist's class."""


def set_up(run: Run, member: Member, device: torch.device) -> Setup:
    """
    Raises:
        UserError: folds that fail their audit, a network that cannot be built, an augmentation's wrong argument.
    """
    train = run.experiment.train_of(member.model)
    tiles, folds = tiles_of(run), folds_of(run)
    refuse_bad_folds(tiles, folds, run.experiment.folds.k)
    pack, classes = open_pack(run, tiles), ClassTable.of(run.experiment.data)
    held_out_N = np.zeros(len(folds), bool) if member.fold is None else (folds.fold == member.fold).to_numpy()
    train_N, val_N = np.flatnonzero(~held_out_N), np.flatnonzero(held_out_N)
    hist_NC = hist_of(tiles, classes)[train_N]
    class_index = None if member.model.target == "all" else classes.names.index(member.model.target)

    record = record_of(run, member, pack, train_N, val_N)
    preparation = Preparation(**record.preparation)
    fold = ALL_FOLDS if member.fold is None else member.fold
    torch.manual_seed(seed_of(WEIGHTS, member.seed, fold))
    network = build_model(member.model, preparation.channels, len(record.classes)).to(device)
    if train.channels_last:
        network = network.to(memory_format=torch.channels_last)
    dtype = autocast_dtype(train.precision, device)
    state = TrainState(
        network=network,
        optimizer=build_optimizer(network, train),
        scaler=torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
        averages=Averages(network, train),
        plateau=Plateau(train),
    )

    count_C, names = hist_NC.sum(0), record.classes
    if class_index is not None:
        count_C = np.array([count_C.sum() - count_C[class_index], count_C[class_index]])
        names = ["other", member.model.target]
    weight_C = training_weights(train.class_weights, count_C, names)
    loss_fn = build_loss(train.loss, len(record.classes), weight_C, binary=class_index is not None).to(device)
    augment = build_augment(train.augment, classes.names, preparation.scale_of(pack.train_image_NHWB.dtype))
    data = TrainTiles(pack, train_N, hist_NC > 0, augment, member.seed, class_index)

    def order_of_epoch(epoch: int) -> np.ndarray:
        return train_N[epoch_order(train.sampler, hist_NC, classes.names, member.seed, epoch)]

    batches, jobs = EpochBatches(order_of_epoch, train.batch), run.experiment.jobs
    return Setup(
        plan=Plan(
            name=str(member),
            train=train,
            seed=member.seed,
            fold=fold,
            tile_names=pack.train_names,
            split_batch=jobs.split_batch,
            checkpoint_s=jobs.checkpoint_s,
        ),
        record=record,
        state=state,
        objective=Objective(network, preparation, loss_fn, device, dtype, train.channels_last),
        loader=train_loader(data, batches, loader_workers(jobs, device), device),
        batches=batches,
        pack=pack,
        train_N=train_N,
        val_N=val_N,
        class_index=class_index,
    )


def record_of(run: Run, member: Member, pack: Pack, train_N: np.ndarray, val_N: np.ndarray) -> MemberRecord:
    """What `member.json` will say."""
    data = run.experiment.data
    statistics = pack.mean_B.tolist(), pack.std_B.tolist()
    empty = None if data.nodata is None else fill_value(pack.mean_B, pack.train_image_NHWB.dtype).tolist()
    preparation = Preparation(data.bands, data.derived, data.normalize, *statistics, empty)
    return MemberRecord(
        model=member.model.name,
        fold=member.fold,
        seed=member.seed,
        target=member.model.target,
        classes=run.experiment.outputs_of(member.model),
        train_tiles=[pack.train_names[i] for i in train_N],
        held_out=[pack.train_names[i] for i in val_N],
        preparation=asdict(preparation),
        dtype=str(pack.train_image_NHWB.dtype),
        split_batch=run.experiment.jobs.split_batch,
    )
