"""Predict with a member: its held-out fold (OOF) and the test tiles, by one code path, into probability stores."""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from base.command import run as run_command
from base.command import stage_parser
from base.errors import UserError, listed
from base.files import hash_value
from base.progress import bar, track
from base.version import code_version
from config import Member, Run, load_experiment, open_run
from config.ensemble import Predict
from config.training import Model
from folds.tiles import read_tiles
from models.zoo import padded_logits
from pipeline.device import autocast, autocast_dtype, pick_device, set_threads
from pipeline.finished import mean_is_finished, weights_hash
from pipeline.members import MemberRecord, add_member_options, load_member, member_of
from pipeline.pack import open_pack
from pipeline.pixels import PixelScale, stretched
from pipeline.prepare import Preparation
from pipeline.stopping import Stopped, StopRequest
from pipeline.store import open_store, write_store
from pipeline.tta import build_views, predict_probs


def forward_probs(
    network: nn.Module,
    preparation: Preparation,
    pixels_NHWB: np.ndarray,
    tile_N: np.ndarray,
    settings: Predict,
    precision: str,
    device: torch.device,
) -> Iterator[np.ndarray]:
    """Probabilities of tiles, batch by batch: (n, C, H, W) float32, views averaged.

    Args:
        network: in eval mode, on the device.
        pixels_NHWB: an array or memory map; only the rows `tile_N` are read, in that order.
    """
    dtype = autocast_dtype(precision, device)
    views = build_views(settings)
    forward = partial(padded_logits, network)
    tiles_at_once = max(1, settings.batch // (len(views) * (1 + len(settings.stretch))))
    for first in range(0, len(tile_N), tiles_at_once):
        pictures = pictures_of(np.array(pixels_NHWB[tile_N[first : first + tiles_at_once]]), preparation, settings)
        with torch.inference_mode(), autocast(device, dtype):
            images = [preparation(torch.from_numpy(picture).to(device)) for picture in pictures]
            probs_NCHW = predict_probs(forward, images, views, settings.merge, settings.batch)
        yield probs_NCHW.cpu().numpy()


def pictures_of(pixels_NHWB: np.ndarray, preparation: Preparation, settings: Predict) -> list[np.ndarray]:
    """The tiles as they are, and stretched by each of `predict.stretch`."""
    scale = PixelScale.of(pixels_NHWB.dtype, np.array(preparation.mean), np.array(preparation.std))
    return [pixels_NHWB] + [
        np.stack([stretched(pixels_HWB, percent, scale) for pixels_HWB in pixels_NHWB]) for percent in settings.stretch
    ]


def predict_oof(run: Run, member: Member, device: torch.device, stop: StopRequest) -> Path:
    """Write the OOF store of a member unless it holds already; return its path."""
    record = MemberRecord.read(run.member_dir(member))
    return _predict_split(run, member, device, run.oof_store(member), "oof", record.held_out, stop)


def predict_test(run: Run, member: Member, device: torch.device, stop: StopRequest) -> Path | None:
    """Write the member's part of the test store unless the part or the whole holds already; None without a test set."""
    names = read_tiles(run.tiles_csv).query("split == 'test'").name.tolist()
    if not names:
        return None
    if mean_is_finished(run, member.model):
        return run.test_store(member.model)
    return _predict_split(run, member, device, run.test_part(member), "test", names, stop)


def mean_test(run: Run, model: Model) -> Path | None:
    """Write a model's test store, the mean over its members' parts, read tile by tile; the parts are then removed.

    Raises:
        UserError: parts are missing; lists them.
    """
    members = list(run.members(model))
    path = run.test_store(model)
    if mean_is_finished(run, model):
        return path
    missing = [member for member in members if not run.test_part(member).exists()]
    if missing and not read_tiles(run.tiles_csv).eval("split == 'test'").any():
        return None
    if missing:
        raise UserError(
            f"model {model.name}: no test predictions by {listed(missing)}. "
            f"Run: python -m pipeline.cv --config FILE --only model={model.name}"
        )
    parts = [open_store(run.test_part(member)) for member in members]
    wanted = {str(member): weights_hash(run, member) for member in members}
    manifest = {"kind": "test", "model": model.name, "members": wanted, "variant": run.variant}
    first = parts[0]
    with write_store(
        path, first.names, first.classes, *first.size_px, manifest, run.experiment.predict.dtype
    ) as writer:
        for tile in track(range(len(first)), f"mean of {model.name}"):
            writer.append(np.mean([part.read(tile) for part in parts], axis=0, dtype=np.float32)[None])
    for member in members:
        shutil.rmtree(run.test_part(member))
    return path


def _predict_split(
    run: Run, member: Member, device: torch.device, path: Path, kind: str, names: list[str], stop: StopRequest
) -> Path:
    network, preparation, made_from = load_member(run, member, device)
    if path.exists() and open_store(path).manifest["weights_sha256"] == made_from:
        return path
    settings, record = run.experiment.predict, MemberRecord.read(run.member_dir(member))
    pack = open_pack(run, read_tiles(run.tiles_csv))
    pixels, order = (
        (pack.train_image_NHWB, pack.train_names) if kind == "oof" else (pack.test_image_NHWB, pack.test_names)
    )
    row_of = {name: row for row, name in enumerate(order)}
    rows = np.array([row_of[name] for name in names])
    train = run.experiment.train_of(member.model)
    batches = forward_probs(network, preparation, pixels, rows, settings, train.precision, device)
    manifest = {
        "kind": kind,
        "model": member.model.name,
        "fold": member.fold,
        "seed": member.seed,
        "target": member.model.target,
        "variant": run.variant,
        "weights": settings.weights,
        "weights_sha256": made_from,
        "inputs": run.member_inputs(),
        "keys_sha256": hash_value(run.member_keys(member.model)),
        "code": code_version(),
    }
    progress, task = bar(f"{kind} {member}", len(rows))
    size = pixels.shape[1:3]
    with progress, write_store(path, names, record.classes, *size, manifest, settings.dtype) as writer:
        for probs_NCHW in batches:
            writer.append(probs_NCHW)
            progress.advance(task, len(probs_NCHW))
            if stop:
                raise Stopped(str(member))  # a store is whole or absent: the next run begins it again
    return path


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser(
        "pipeline.predict",
        "Predict with a trained member: its held-out fold, or the test tiles; or average a model's test predictions.",
        "--model unet_r18 --fold 0 --split oof",
    )
    add_member_options(parser)
    parser.add_argument("--split", choices=["oof", "test"], default="oof", help="which tiles (default: %(default)s)")
    parser.add_argument(
        "--mean", action="store_true", help="average the test predictions of all of the model's members"
    )
    args = parser.parse_intermixed_args(argv)
    run = open_run(load_experiment(args.config, args.overrides))
    if args.mean:
        path = mean_test(run, run.experiment.model(args.model))
        print(f"test {args.model}: {path or 'no test set'}")
        return
    member = member_of(run, args)
    set_threads(run.experiment)
    device = pick_device(run.experiment.jobs)
    predict_split = predict_oof if args.split == "oof" else predict_test
    path = predict_split(run, member, device, StopRequest())
    print(f"{args.split} {member}: {path or 'no test set'}")


if __name__ == "__main__":
    run_command(main)
