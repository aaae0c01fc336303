"""Predict with a member: its held-out fold (OOF) and the test tiles, by one code path, into probability stores."""

import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from base.command import run as run_command
from base.command import stage_parser
from base.errors import UserError, listed
from base.files import write_json
from base.progress import bar
from base.version import code_version
from config import Member, Run, load_experiment, open_run
from folds.tiles import tiles_of
from pipeline.batch_norms import PixelSample, batch_before_prediction, in_twos, spread_batches
from pipeline.device import pick_device, set_up_cpu
from pipeline.finished import SECONDS, Kind, mean_is_finished, member_facts, oof_is_finished, part_is_finished
from pipeline.image_files import add_image_options, wanted_of
from pipeline.images import label_by_members
from pipeline.member_command import work_on_member
from pipeline.members import add_member_options, load_member, member_of, members_of
from pipeline.outputs import output_for_store
from pipeline.pack import open_pack, read_rows
from pipeline.record import MemberRecord
from pipeline.stopping import Stopped, StopRequest
from pipeline.store import write_store
from pipeline.waits import Waits


def predict_oof(run: Run, member: Member, device: torch.device, stop: StopRequest) -> Path:
    """Write the OOF store of a member unless it holds already; return its path."""
    if member.fold is None:
        raise UserError(f"member {member} was trained on every tile: it has no held-out fold to predict")
    record = MemberRecord.read(run.member_dir(member))
    return _predict_split(run, member, device, run.oof_store(member), "oof", record.held_out, stop)


def predict_test(run: Run, member: Member, device: torch.device, stop: StopRequest) -> Path | None:
    """Write the member's part of the test store unless the part or the whole holds already; None without a test set."""
    names = tiles_of(run).query("split == 'test'").name.tolist()
    if not names:
        return None
    if mean_is_finished(run, member.model):
        return run.test_store(member.model)
    return _predict_split(run, member, device, run.test_part(member), "test", names, stop)


def _predict_split(
    run: Run, member: Member, device: torch.device, path: Path, kind: Kind, names: list[str], stop: StopRequest
) -> Path:
    if oof_is_finished(run, member) if kind == "oof" else part_is_finished(run, member):
        return path
    settings, at_once = run.experiment.predict, run.experiment.images_at_once
    pack = open_pack(run, tiles_of(run))
    pixels, order = (
        (pack.train_image_NHWB, pack.train_names) if kind == "oof" else (pack.test_image_NHWB, pack.test_names)
    )
    row_of = {name: row for row, name in enumerate(order)}
    rows = np.array([row_of[name] for name in names])
    adapt_to = sample_of_rows(run, pixels, rows, member, stop) if settings.adapt else None
    loaded = load_member(run, member, device, adapt_to)
    predictor = loaded.predictor(settings, run.experiment.train_of(member.model).precision, device)
    output, waits = output_for_store(device, settings.dtype), Waits()
    batches = predictor.outputs(pixels, rows, output, at_once, waits)
    about = {"weights": settings.weights, "code": code_version()}
    manifest = member_facts(run, member, kind) | about
    progress, task = bar(f"{kind} {member}", len(rows))
    begin = time.perf_counter()
    size, in_turn, threads = pixels.shape[1:3], device.type == "cpu", torch.get_num_threads()
    store = write_store(path, names, loaded.record.classes, *size, manifest, settings.dtype, in_turn, threads=threads)
    with progress, store as writer:
        for outputs in batches:
            with waits.on("store"):
                writer.append(*outputs)
            progress.advance(task, len(outputs[0]))
            if stop:
                raise Stopped(str(member))  # a store is whole or absent: the next run begins it again
        last = time.perf_counter()
    end = time.perf_counter()
    waited = waits.seconds | {"end": end - last}
    write_json(path / SECONDS, {"tiles": len(rows), "seconds": end - begin, "waited": waited})
    return path


def sample_of_rows(
    run: Run, pixels_NHWB: np.ndarray, row_N: np.ndarray, member: Member, stop: StopRequest
) -> PixelSample:
    """Rows of a packed array, by which the member's batch norms are to go, read until an end is asked for."""

    def read(row_N: np.ndarray) -> np.ndarray:
        if stop:
            raise Stopped(str(member))
        return read_rows(pixels_NHWB, in_twos(row_N))

    batches = spread_batches(row_N, batch_before_prediction(run.experiment.jobs.split_batch))
    return PixelSample(sum(map(len, batches)), [partial(read, batch) for batch in batches])


def main(argv: list[str] | None = None) -> int:
    parser = stage_parser(
        "pipeline.predict",
        "Predict with a trained member: its held-out fold, the test tiles, or any images.",
        "--model deeplab_r18 --fold 0 --split oof",
    )
    add_member_options(parser, fold_required=False)
    parser.add_argument("--split", choices=["oof", "test"], default="oof", help="which tiles (default: %(default)s)")
    group = parser.add_argument_group(
        "any images, instead; without --fold by the mean of the model's members (those of --seed, or all)"
    )
    add_image_options(group, required=False)
    args = parser.parse_intermixed_args(argv)
    run = open_run(load_experiment(args.config, args.overrides))
    if args.images:
        set_up_cpu(run.experiment)
        members = members_of(run, args)
        count = label_by_members(run, members, wanted_of(args), pick_device(run.experiment.jobs))
        print(f"{args.out}: {count} images by {listed(members)}")
        return 0
    member = member_of(run, args)
    predict_split = predict_oof if args.split == "oof" else predict_test

    def work(device: torch.device, stop: StopRequest) -> str:
        return f"{args.split} {member}: {predict_split(run, member, device, stop) or 'no test set'}"

    return work_on_member(run, member, work, if_stopped="nothing is left of it")


if __name__ == "__main__":
    run_command(main)
