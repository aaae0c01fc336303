"""Train one member: (model, fold, seed). A run that was killed goes on where it was; a finished one is left alone."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from base.command import run as run_command
from base.command import stage_parser
from base.progress import track
from config import Member, Run, load_experiment, open_run
from config.ensemble import Predict
from folds.metrics import confusion, mean_iou
from models.batch_statistics import update_batch_statistics
from pipeline.batch_norms import batch_after_training, in_twos, spread_batches
from pipeline.checkpoint import TrainState, checkpoint_path
from pipeline.curves import Curves
from pipeline.data import target_table
from pipeline.device import autocast
from pipeline.finished import member_is_finished
from pipeline.forward import Predictor, read_pixels
from pipeline.loop import Hooks, fit
from pipeline.member_command import work_on_member
from pipeline.members import add_member_options, clear_killed, member_of, write_weights
from pipeline.outputs import decisions
from pipeline.pack import read_rows
from pipeline.progress import TrainProgress
from pipeline.record import weights_files, weights_path, write_log
from pipeline.setup import Setup, set_up
from pipeline.stopping import Stopped, StopRequest
from pipeline.users_words import in_users_words


def train_member(run: Run, member: Member, device: torch.device, stop: StopRequest) -> Path:
    """Train a member to its end, from `last.pt` if there is one; return its folder.

    Raises:
        UserError: folds that fail their audit, a network that cannot be built or compiled, a loss that is not finite.
        Stopped: `stop` was asked for; `last.pt` holds everything that is done.
    """
    result = run.member_result(member)
    folder, checkpoint = result.path, checkpoint_path(result.path)
    clear_killed(folder)
    if member_is_finished(run, member):
        checkpoint.unlink(missing_ok=True)  # killed between its last two lines
        return folder
    setup = set_up(run, member, device)
    plan, state = setup.plan, setup.state
    train, objective = plan.train, setup.objective
    identity = result.keys | result.inputs | {"member": str(member)}
    if checkpoint.exists():
        state.load(checkpoint, identity, device)
    result.begin()
    setup.record.write(folder)

    def validate(evaluated: nn.Module, pause: Callable[[], None]) -> float:
        return held_out_miou(setup, evaluated, run.experiment.images_at_once, pause)

    def save(state: TrainState) -> None:
        state.save(checkpoint, identity)
        write_log(folder, state.log)

    def save_best(state: TrainState) -> None:
        write_weights(folder, "best", state.network)

    if train.compile:
        objective = replace(objective, forward=torch.compile(state.network))
    with ExitStack() as stack:
        curves = stack.enter_context(Curves(folder / "tensorboard", state.log)) if train.tensorboard else None
        progress = stack.enter_context(TrainProgress(str(member), train.epochs, state.epoch, curves))
        hooks = Hooks(save, save_best, stop, progress, validate if len(setup.val_N) else None)
        stack.enter_context(in_users_words(member, plan))
        fit(plan, state, objective, setup.loader, setup.batches, hooks)

    write_weights_of_the_end(setup, folder, stop)
    result.finish(weights_files(folder))
    checkpoint.unlink()  # three times the weights' size, and nothing will go on from it
    return folder


def held_out_miou(setup: Setup, network: nn.Module, batch: int, pause: Callable[[], None]) -> float:
    """mIoU on the held-out tiles, without views: for the curves; the OOF score has them.

    Args:
        pause: called after each batch.
    """
    pack, objective, num_classes = setup.pack, setup.objective, max(len(setup.record.classes), 2)
    settings = Predict(tta="none", batch=batch)
    predictor = Predictor([network], objective.preparation, settings, setup.plan.train.precision, objective.device)
    target_of = target_table(setup.class_index)
    conf_CC, first = np.zeros((num_classes, num_classes), np.int64), 0
    for (pred_NHW,) in predictor.outputs(pack.train_image_NHWB, setup.val_N, decisions):
        # Read batch by batch: all masks of a fold would stay in every job's memory.
        truth_NHW = target_of[read_rows(pack.train_mask_NHW, setup.val_N[first : first + len(pred_NHW)])]
        conf_CC += confusion(pred_NHW, truth_NHW, num_classes)
        first += len(pred_NHW)
        pause()
    return mean_iou(conf_CC)


def write_weights_of_the_end(setup: Setup, folder: Path, stop: StopRequest) -> None:
    """The weights of each kind, with the batch statistics that they predict with."""
    state, estimated = setup.state, setup.plan.train.batch_statistics == "estimated"
    for kind, network in ({"last": state.network} | state.averages.networks()).items():
        if estimated or kind != "last":  # those that an average came with are of other weights
            estimate_statistics(setup, network, stop)
        write_weights(folder, kind, network)
    best = weights_path(folder, "best")
    if estimated and best.exists():
        state.network.load_state_dict(load_file(best))
        estimate_statistics(setup, state.network, stop)
        write_weights(folder, "best", state.network)


def estimate_statistics(setup: Setup, network: nn.Module, stop: StopRequest) -> None:
    """Let a network's batch norms go by its training tiles.

    Raises:
        Stopped: `stop` was asked for; `last.pt` holds all but this.
    """
    with autocast(setup.objective.device, setup.objective.dtype):
        update_batch_statistics(network, plain_images(setup, stop))


def plain_images(setup: Setup, stop: StopRequest) -> Iterator[torch.Tensor]:
    """Prepared training tiles without augmentation, batch by batch."""
    plan, objective, pixels_NHWB = setup.plan, setup.objective, setup.pack.train_image_NHWB
    trained_at_once = min(plan.train.batch, max(2, plan.train.batch // plan.split_batch))
    batches = spread_batches(setup.train_N, batch_after_training(trained_at_once))
    for row_N in track(batches, f"batch statistics of {plan.name}"):
        if stop:
            raise Stopped(plan.name)
        yield objective.image(read_pixels(pixels_NHWB, in_twos(row_N), objective.device))


def main(argv: list[str] | None = None) -> int:
    parser = stage_parser("pipeline.train", "Train one member.", "--model deeplab_r18 --fold 0")
    add_member_options(parser)
    args = parser.parse_intermixed_args(argv)
    run = open_run(load_experiment(args.config, args.overrides))
    member = member_of(run, args)
    return work_on_member(run, member, lambda device, stop: f"{member}: {train_member(run, member, device, stop)}")


if __name__ == "__main__":
    run_command(main)
