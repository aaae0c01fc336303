"""Members to and from the disk: their weights, from any device; ready to predict; by the options that name one."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from base.errors import UserError
from base.files import clear_aside, hash_file, whole_file
from base.stamps import folder_stamp, read_stamp
from config import Member, Run
from config.ensemble import Predict, WeightsKind
from models.folding import fold_batch_norms
from models.zoo import build_model
from pipeline.batch_norms import PixelSample, adapt
from pipeline.checkpoint import checkpoint_path
from pipeline.device import autocast_dtype
from pipeline.finished import member_is_finished
from pipeline.forward import Predictor
from pipeline.prepare import Preparation
from pipeline.record import MemberRecord, weights_path


def write_weights(folder: Path, kind: str, network: nn.Module) -> None:
    """The weights of a kind, from any device."""
    weights = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    with whole_file(weights_path(folder, kind)) as aside:
        save_file(weights, aside)


def clear_killed(folder: Path) -> None:
    """Remove what a killed run was just writing, as large as its weights. Whoever trains holds the member's lock."""
    for path in (checkpoint_path(folder), *(weights_path(folder, kind) for kind in get_args(WeightsKind))):
        clear_aside(path)


@dataclass(frozen=True)
class LoadedMember:
    """A member that is ready to predict."""

    member: Member
    networks: list[nn.Module]
    """In eval mode, batch norms folded, one for each of `predict.weights`; the mean of their probabilities is the
    member's."""
    preparation: Preparation
    record: MemberRecord

    def predictor(self, settings: Predict, precision: str, device: torch.device) -> Predictor:
        """What takes pixels; the arguments are `Predictor`'s."""
        return Predictor(self.networks, self.preparation, settings, precision, device)


def record_of_trained(run: Run, member: Member) -> MemberRecord:
    """
    Raises:
        UserError: not trained yet.
    """
    if not member_is_finished(run, member):
        raise UserError(
            f"member {member} is not trained yet. Run: python -m pipeline.train --config FILE "
            f"--model {member.model.name} --fold {member.fold_name} --seed {member.seed}"
        )
    return MemberRecord.read(run.member_dir(member))


def load_member(run: Run, member: Member, device: torch.device, adapt_to: PixelSample | None = None) -> LoadedMember:
    """The member with the weights that `predict.weights` names.

    Args:
        adapt_to: tiles by which its batch norms go; None: as they were trained.

    Raises:
        UserError: not trained yet, no weights of that kind, or weights edited since they were written.
    """
    record = record_of_trained(run, member)
    preparation = Preparation(**record.preparation)
    dtype = autocast_dtype(run.experiment.train_of(member.model).precision, device)
    networks = []
    for kind in run.experiment.predict.weight_kinds:
        network = load_network(run, member, kind)
        if adapt_to is not None:
            network = network.to(device, memory_format=torch.channels_last)
            adapt(network, adapt_to, preparation, dtype, device)
        network = fold_batch_norms(network.cpu(), preparation.channels)
        networks.append(network.to(device, memory_format=torch.channels_last))
    return LoadedMember(member, networks, preparation, record)


def load_network(run: Run, member: Member, kind: str) -> nn.Module:
    """The network of a finished member as it was trained, on the CPU, in eval mode.

    Raises:
        UserError: no weights of that kind, or weights edited since they were written.
    """
    folder = run.member_dir(member)
    recorded = read_stamp(folder_stamp(folder)).outputs
    record = MemberRecord.read(folder)
    path = weights_path(folder, kind)
    if path.name not in recorded:
        there = ", ".join(Path(name).stem for name in recorded)
        raise UserError(f"member {member} has no weights {kind!r}; it has {there}")
    if not path.exists() or hash_file(path) != recorded[path.name]:
        raise UserError(f"{path}: missing or changed since it was written. Delete {folder} and train the member again")
    unfilled = member.model.model_copy(update={"encoder_weights": None})
    network = build_model(unfilled, Preparation(**record.preparation).channels, len(record.classes))
    network.load_state_dict(load_file(path))
    return network.eval()


def add_member_options(parser: argparse.ArgumentParser, fold_required: bool = True) -> None:
    """--model, --fold, --seed: which member a command works on."""
    parser.add_argument("--model", required=True, metavar="NAME", help="one of the experiment's models")
    parser.add_argument(
        "--fold", required=fold_required, metavar="K", help="the fold that it never sees, or all: it sees every tile"
    )
    parser.add_argument("--seed", type=int, metavar="S", help="default: the experiment's first")


def member_of(run: Run, args: argparse.Namespace) -> Member:
    """The member that the options name.

    Raises:
        UserError: the experiment has no such model, fold or seed.
    """
    model = run.experiment.model(args.model)
    folds = {member.fold_name: member.fold for member in run.members(model)}
    if args.fold is None:
        raise UserError(f"--fold K is missing; the folds of {model.name} are {', '.join(folds)}")
    if args.fold not in folds:
        raise UserError(f"--fold {args.fold}: the folds of {model.name} are {', '.join(folds)}")
    return Member(model, folds[args.fold], _seed_of(run, args))


def members_of(run: Run, args: argparse.Namespace) -> list[Member]:
    """The members that the options name: of a model without --fold all folds, and without --seed too, all seeds.

    Raises:
        UserError: as `member_of`.
    """
    if args.fold is not None:
        return [member_of(run, args)]
    members = run.members(run.experiment.model(args.model))
    return [member for member in members if args.seed is None or member.seed == _seed_of(run, args)]


def _seed_of(run: Run, args: argparse.Namespace) -> int:
    seeds = run.experiment.seeds
    if args.seed is None:
        return seeds[0]
    if args.seed not in seeds:
        raise UserError(f"--seed {args.seed}: seeds are {', '.join(map(str, seeds))}")
    return args.seed
