"""Train one member: (model, fold, seed). A run that was killed goes on where it was; a finished one is left alone."""

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from base.command import run as run_command
from base.command import stage_parser
from base.files import whole_file, write_text
from base.locks import held
from config import Member, Run, load_experiment, open_run
from config.data import IGNORE_INDEX
from config.ensemble import Predict
from folds.assign import read_folds
from folds.check import refuse_bad_folds
from folds.classes import ClassTable
from folds.metrics import confusion, mean_iou
from folds.tiles import hist_of, read_tiles
from models.averaging import Averages, update_batch_statistics
from models.class_weights import training_weights
from models.losses import build_loss
from models.zoo import build_model
from pipeline.augment import build_augment
from pipeline.checkpoint import TrainState
from pipeline.data import EpochBatches, TrainTiles, train_loader
from pipeline.device import autocast, autocast_dtype, make_deterministic, pick_device, set_threads
from pipeline.finished import member_is_finished
from pipeline.forward import forward_probs
from pipeline.loop import Plan, fit
from pipeline.members import MemberRecord, add_member_options, member_of, weights_path
from pipeline.pack import Pack, open_pack
from pipeline.prepare import Preparation
from pipeline.progress import TrainProgress
from pipeline.sampler import epoch_order
from pipeline.schedule import Plateau, build_optimizer
from pipeline.seeds import WEIGHTS, seed_of
from pipeline.stopping import Stopped, StopRequest


def train_member(run: Run, member: Member, device: torch.device, stop: StopRequest) -> Path:
    """Train a member to its end, from `last.pt` if there is one; return its folder.

    Raises:
        UserError: folds that fail their audit, a network that cannot be built, a loss that is not finite.
        Stopped: `stop` was asked for; `last.pt` holds everything that is done.
    """
    folder = run.member_dir(member)
    if member_is_finished(run, member):
        return folder
    make_deterministic()
    train = run.experiment.train_of(member.model)
    tiles, folds = read_tiles(run.tiles_csv), read_folds(run.folds_csv)
    refuse_bad_folds(tiles, folds, run.experiment.folds.k)
    pack, classes = open_pack(run, tiles), ClassTable.of(run.experiment.data)
    held_out_N = (folds.fold == member.fold).to_numpy()
    train_N, val_N = np.flatnonzero(~held_out_N), np.flatnonzero(held_out_N)
    hist_NC = hist_of(tiles, classes)
    class_index = None if member.model.target == "all" else classes.names.index(member.model.target)

    record = record_of(run, member, pack, train_N, val_N)
    preparation = Preparation(**record.preparation)
    torch.manual_seed(seed_of(WEIGHTS, member.seed, member.fold))
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
    identity = run.member_keys(member.model) | run.member_inputs() | {"member": str(member)}
    if (folder / "last.pt").exists():
        state.load(folder / "last.pt", identity, device)
    run.begin(folder, run.member_keys(member.model), run.member_inputs())
    record.write(folder)

    count_C = hist_NC[train_N].sum(0)
    if class_index is not None:
        count_C = np.array([count_C.sum() - count_C[class_index], count_C[class_index]])
    names = record.classes if class_index is None else ["other", member.model.target]
    weight_C = training_weights(train.class_weights, count_C, names)
    loss_fn = build_loss(train.loss, len(record.classes), weight_C, binary=class_index is not None).to(device)
    augment = build_augment(train.augment, classes.names, pack.train_image_NHWB.dtype, pack.mean_B, pack.std_B)
    batches = EpochBatches(train.batch)
    data = TrainTiles(pack, train_N, hist_NC[train_N] > 0, augment, member.seed, class_index)
    loader = train_loader(data, batches, run.experiment.jobs.loader_workers, device)
    truth_NHW = targets(pack, val_N, class_index)

    def order_of_epoch(epoch: int) -> np.ndarray:
        return train_N[epoch_order(train.sampler, hist_NC[train_N], classes.names, member.seed, epoch)]

    def validate(evaluated: nn.Module) -> float:
        settings = Predict(tta="none")  # for the curves; the OOF score has its views
        pixels = pack.train_image_NHWB
        probs = forward_probs(evaluated, preparation, pixels, val_N, settings, train.precision, device)
        return mean_iou(confusion_of_batches(probs, truth_NHW, max(len(record.classes), 2)))

    def save(state: TrainState) -> None:
        state.save(folder / "last.pt", identity)
        write_log(folder / "log.csv", state.log)

    def save_best(state: TrainState) -> None:
        write_weights(folder, "best", state.network)

    plan = Plan(str(member), train, member.seed, member.fold, device, dtype, order_of_epoch, pack.train_names)
    compiled = torch.compile(network) if train.compile else network
    with TrainProgress(str(member), train.epochs, state.epoch) as progress:
        fit(plan, state, compiled, loader, batches, preparation, loss_fn, validate, save, save_best, stop, progress)

    write_weights(folder, "last", state.network)
    for kind, averaged in state.averages.networks().items():
        with autocast(device, dtype):
            update_batch_statistics(averaged, plain_batches(pack, train_N, train.batch, preparation, device))
        write_weights(folder, kind, averaged)
    outputs = sorted((folder / "weights").glob("*.safetensors"))
    run.finish(folder, run.member_keys(member.model), run.member_inputs(), outputs)
    (folder / "last.pt").unlink()  # three times the weights' size, and nothing will go on from it
    return folder


def record_of(run: Run, member: Member, pack: Pack, train_N: np.ndarray, val_N: np.ndarray) -> MemberRecord:
    """What `member.json` will say."""
    data, target = run.experiment.data, member.model.target
    preparation = Preparation(data.bands, data.derived, data.normalize, pack.mean_B.tolist(), pack.std_B.tolist())
    return MemberRecord(
        model=member.model.name,
        fold=member.fold,
        seed=member.seed,
        target=target,
        classes=[spec.name for spec in data.classes] if target == "all" else [target],
        train_tiles=[pack.train_names[i] for i in train_N],
        held_out=[pack.train_names[i] for i in val_N],
        preparation=asdict(preparation),
    )


def targets(pack: Pack, tile_N: np.ndarray, class_index: int | None) -> np.ndarray:
    """(n, H, W) uint8 what a member should say of some tiles: class indices, or for a specialist 1 and 0."""
    index_NHW = pack.train_mask_NHW[tile_N]
    if class_index is None:
        return index_NHW
    return np.where(index_NHW == IGNORE_INDEX, IGNORE_INDEX, index_NHW == class_index).astype(np.uint8)


def confusion_of_batches(batches: Iterable[np.ndarray], truth_NHW: np.ndarray, num_classes: int) -> np.ndarray:
    """The confusion of probabilities that come batch by batch, in the order of `truth_NHW`."""
    conf_CC, first = np.zeros((num_classes, num_classes), np.int64), 0
    for probs_NCHW in batches:
        # A specialist's one channel is a yes from one half on.
        pred_NHW = probs_NCHW.argmax(1) if probs_NCHW.shape[1] > 1 else (probs_NCHW[:, 0] >= 0.5)
        conf_CC += confusion(pred_NHW, truth_NHW[first : first + len(pred_NHW)], num_classes)
        first += len(pred_NHW)
    return conf_CC


def plain_batches(
    pack: Pack, tile_N: np.ndarray, batch: int, preparation: Preparation, device: torch.device
) -> Iterator[torch.Tensor]:
    """Prepared training tiles without augmentation, as averaged weights need them for their batch statistics."""
    for first in range(0, len(tile_N) - batch + 1, batch):
        pixels = np.array(pack.train_image_NHWB[tile_N[first : first + batch]])
        yield preparation(torch.from_numpy(pixels).to(device))


def write_weights(folder: Path, kind: str, network: nn.Module) -> None:
    weights = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    with whole_file(weights_path(folder, kind)) as aside:
        save_file(weights, aside)


def write_log(path: Path, rows: list[dict[str, float | int | None]]) -> None:
    """log.csv, a row per epoch. No times in it: a resumed run has the same log as an undisturbed one."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["epoch", "lr", "loss", "val_miou"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def main(argv: list[str] | None = None) -> int:
    parser = stage_parser("pipeline.train", "Train one member.", "--model unet_r18 --fold 0")
    add_member_options(parser)
    args = parser.parse_intermixed_args(argv)
    run = open_run(load_experiment(args.config, args.overrides))
    member = member_of(run, args)
    set_threads(run.experiment)
    stop = StopRequest().install()
    try:
        with held(run.member_lock(member), f"member {member}"):
            folder = train_member(run, member, pick_device(run.experiment.jobs), stop)
    except Stopped:
        print(f"{member}: stopped; the same command goes on", flush=True)
        return stop.exit_code
    print(f"{member}: {folder}")
    return 0


if __name__ == "__main__":
    run_command(main)
