"""Prediction against the bare network, and against the ways of peers, all side by side in one run.

python -m benchmarks.prediction [--data DIR] [--runs DIR] [--device cpu|cuda] [--json FILE]

The bare network, the reference's and ttach's are the member's as it was trained; ours has its batch norms folded, as
prediction has.

Trains three members of one fold (naip with --data DIR, else the generated demo competition), then measures. Throughput
is of the whole path: packed pixels -> preparation -> views -> mean -> rounding -> compressed store on disk. On a GPU it
is measured of a small, a middle and a large network; memory, provenance and kills, which are no matter of the device,
are measured on the CPU alone.

ttach_max_diff is of the same images a pass in float32 and in the device's own precision, whichever differs more, where
ttach is given float32 logits as we take them; ttach_max_diff_half where it is not: on CPUs autocast leaves its softmax
and its sum in bf16. pipeline_max_diff and pipeline_max_diff_own are of prediction as it runs, which puts other images
into a pass, in float32 and in the device's own precision.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import ttach
from torch import nn

from base.command import add_json, plain_parser, run, write_figures
from base.files import write_npy_head
from base.memory import keep_freed_memory
from benchmarks.measure import peak_mib, ratios, seconds
from benchmarks.prediction_faults import kill_and_go_on, provenance
from benchmarks.training import MODELS
from config import Member, Run, load_experiment, open_run
from config.training import Model
from folds.assign import make_folds
from folds.landscape import make_landscape
from folds.metrics import confusion, mean_iou
from folds.tiles import read_tiles
from models.zoo import build_model
from pipeline.device import autocast, autocast_dtype, pick_device
from pipeline.forward import Predictor
from pipeline.members import LoadedMember, load_member, load_network
from pipeline.outputs import output_for_store
from pipeline.pack import Pack, open_pack
from pipeline.predict import predict_oof
from pipeline.prepare import Preparation
from pipeline.stopping import StopRequest
from pipeline.store import PROBS, Store, open_store, write_store
from pipeline.train import train_member
from pipeline.tta import build_views, predict_probs
from tests.stored import read_many
from tests.tiny import SMALL_UNET

EPOCHS = {"cpu": 8, "cuda": 5}  # enough for members that are as sure of themselves as any; on a GPU of a large batch
BATCH = {"cpu": 16, "cuda": 64}
BATCHES = {"cpu": 16, "cuda": 100}  # in each round
BATCHES_D4 = {"cpu": 4, "cuda": 12}
ROUNDS_NONE = {"cpu": 9, "cuda": 3}  # on a CPU single ones lie up to 2 % to either side, more than the bound leaves
REFERENCE_TILES = 24
FEW, MANY = 200, 4000  # tiles whose peak memories are compared


def trained(args: argparse.Namespace, folder: Path, suffix: str, seeds: list[int]) -> tuple[Run, list[Member]]:
    """Members of fold 0 that differ by their seed, trained unless they are there."""
    config = "configs/naip.yaml" if args.data else "configs/demo.yaml"
    overrides = [f"seeds={seeds}", f"name=benchmark{suffix}", f"runs_dir={folder}", f"zips_dir={folder}"]
    overrides += [f"models=[{MODELS[args.device][suffix]}]", f"train.epochs={EPOCHS[args.device]}"]
    overrides += ["predict.tta=none", f"predict.batch={BATCH[args.device]}"]
    overrides += [f"data.root={args.data or folder / 'data'}", f"jobs.devices={args.device}"]
    if not args.data:
        overrides.append("data.generate.tile_px=256")  # naip's and the competition's
    if args.device == "cuda":
        overrides.append("train.batch=16")  # of the demo's four tiles a GPU makes as many steps in the time
    experiment = load_experiment(config, overrides)
    make_landscape(experiment.data)
    run = open_run(experiment)
    make_folds(run)
    members = [Member(experiment.models[0], 0, seed) for seed in experiment.seeds]
    for member in members:
        train_member(run, member, pick_device(experiment.jobs), StopRequest())
    return run, members


def seconds_of_new(path: Path, write: Callable[[], object]) -> float:
    """Seconds of writing a store. The one of the round before is removed first: no prediction has that to do."""
    shutil.rmtree(path, ignore_errors=True)
    return seconds(write)


def write_tiles(path: Path, loaded: LoadedMember, pack: Pack, rows: np.ndarray, run: Run, tta: str) -> None:
    """The path of pipeline.predict: from the pack to a store on disk."""
    settings = run.experiment.predict.model_copy(update={"tta": tta})
    device = pick_device(run.experiment.jobs)
    names = [f"{i:06d}" for i in range(len(rows))]
    precision = run.experiment.train_of(loaded.member.model).precision
    in_turn = device.type == "cpu"
    batches = loaded.predictor(settings, precision, device).outputs(
        pack.train_image_NHWB, rows, output_for_store(device, "uint8")
    )
    with write_store(path, names, loaded.record.classes, *pack.size_px, {}, in_turn=in_turn) as writer:
        for batch in batches:
            writer.append(*batch)


def as_trained(run: Run, loaded: LoadedMember, device: torch.device) -> nn.Module:
    """The member's network with its batch norms, in the layout that prediction uses."""
    network = load_network(run, loaded.member, run.experiment.predict.weights)
    return network.to(device, memory_format=torch.channels_last)


def throughput(run: Run, loaded: LoadedMember, pack: Pack, folder: Path, suffix: str) -> dict[str, float]:
    """Tiles a second of the whole path as a share of those of the network alone on a batch that lies in memory."""
    device, batch = pick_device(run.experiment.jobs), run.experiment.predict.batch
    many, few = BATCHES[device.type], BATCHES_D4[device.type]
    dtype = autocast_dtype(run.experiment.train_of(loaded.member.model).precision, device)
    row_N = np.arange(batch * many) % len(pack.train_names)
    image_NCHW = loaded.preparation(torch.from_numpy(pack.train_image_NHWB[row_N[:batch]]).to(device))
    network = as_trained(run, loaded, device)

    def bare(batches: int) -> None:
        with torch.inference_mode(), autocast(device, dtype):
            for _ in range(batches):
                network(image_NCHW)
        if device.type == "cuda":
            torch.cuda.synchronize()

    bare(1)
    tiles_s = batch * many / seconds(partial(bare, many))
    model = loaded.member.model
    print(f"{model.arch}/{model.encoder} alone: {tiles_s:.1f} tiles/s, batch {batch}, {dtype}")

    path = folder / "throughput"
    of_new = partial(seconds_of_new, path)

    def whole(tta: str, batches: int) -> None:
        write_tiles(path, loaded, pack, row_N[: batch * batches], run, tta)

    rounds = ROUNDS_NONE[device.type]
    plain = ratios("efficiency", partial(whole, "none", many), partial(bare, many), rounds=rounds, time_ours=of_new)
    d4 = ratios("efficiency, D4", partial(whole, "d4", few), partial(bare, few), 8, rounds=3, time_ours=of_new)
    size = (path / PROBS).stat().st_size / (few * batch) / 1024
    print(f"  a tile takes {size:.0f} KiB of the store")
    return {f"efficiency{suffix}": plain, f"efficiency_d4{suffix}": d4}


def against_reference(run: Run, loaded: LoadedMember, pack: Pack, folder: Path) -> float:
    """The reference's inference loop: OpenCV decodes, one tile a batch, float32, softmax, argmax."""
    import cv2

    tiles = read_tiles(run.tiles_csv).query("split == 'train'")
    paths = [str(Path(run.experiment.data.root) / image) for image in tiles.image[:REFERENCE_TILES]]
    device = pick_device(run.experiment.jobs)
    network = load_network(run, loaded.member, run.experiment.predict.weights).to(device)  # laid out as it comes
    mean, std = (np.array(values, np.float32) for values in (loaded.preparation.mean, loaded.preparation.std))

    @torch.no_grad()
    def reference() -> None:
        for path in paths:
            image_HWB = (cv2.imread(path, cv2.IMREAD_UNCHANGED).astype(np.float32) / 255 - mean) / std
            image = torch.from_numpy(image_HWB.transpose(2, 0, 1)[None].copy())
            network(image.to(device)).softmax(1).argmax(1).cpu().numpy()

    rows, path = np.arange(len(paths)), folder / "reference"
    ours = partial(write_tiles, path, loaded, pack, rows, run, "none")
    return ratios("against the reference's loop", ours, reference, time_ours=partial(seconds_of_new, path))


class Float(nn.Module):
    def forward(self, logits_NCHW: torch.Tensor) -> torch.Tensor:
        return logits_NCHW.float()


def against_ttach(run: Run, loaded: LoadedMember, pack: Pack) -> dict[str, float]:
    """D4 by ttach's own wrapper and by ours: the same tiles, images a forward pass, precision."""
    device, batch = pick_device(run.experiment.jobs), run.experiment.predict.batch
    dtype = autocast_dtype(run.experiment.train_of(loaded.member.model).precision, device)
    network, folded = as_trained(run, loaded, device), loaded.networks[0]
    d4 = ttach.aliases.d4_transform()
    wrapper = ttach.SegmentationTTAWrapper(nn.Sequential(network, Float(), nn.Softmax(1)), d4)
    as_it_comes = ttach.SegmentationTTAWrapper(nn.Sequential(network, nn.Softmax(1)), d4)
    views = build_views(run.experiment.predict.model_copy(update={"tta": "d4"}))
    image_NCHW = loaded.preparation(torch.from_numpy(pack.train_image_NHWB[:batch].copy()).to(device))

    @torch.inference_mode()
    def ours(precision: torch.dtype | None = dtype, network: nn.Module = network) -> torch.Tensor:
        with autocast(device, precision):
            return predict_probs(network, [image_NCHW], views, "mean", batch)

    @torch.inference_mode()
    def theirs(precision: torch.dtype | None = dtype, wrapper: nn.Module = wrapper) -> torch.Tensor:
        with autocast(device, precision):
            return wrapper(image_NCHW)

    def pipeline(precision: str) -> torch.Tensor:
        settings = run.experiment.predict.model_copy(update={"tta": "d4"})
        predictor = Predictor([network], loaded.preparation, settings, precision, device)
        batches = predictor.probs(pack.train_image_NHWB, np.arange(batch))
        return torch.from_numpy(np.concatenate(list(batches))).to(device)

    def largest(probs: torch.Tensor, of_ttach: torch.Tensor) -> float:
        return float((probs - of_ttach.float()).abs().max())

    plain, own, half = theirs(None), theirs(), largest(ours(), theirs(wrapper=as_it_comes))
    differ = {"float32": largest(ours(None), plain), str(dtype): largest(ours(), own)}
    differ["float32, norms folded"] = largest(ours(None, folded), plain)
    as_run = {"float32": largest(pipeline("fp32"), plain), str(dtype): largest(pipeline("auto"), own)}
    print(f"largest difference from ttach: {differ}; as prediction stacks its passes: {as_run}")
    print(f"with probabilities in half precision, as ttach adds them up on a CPU: {half:.1e}")
    print(f"in {dtype} from ttach in float32: ttach {largest(own, plain):.1e}, ours {largest(ours(), plain):.1e}, "
          f"with norms folded {largest(ours(network=folded), plain):.1e}")  # fmt: skip
    return {
        "vs_ttach": ratios("against ttach's wrapper", lambda: ours(network=folded).cpu(), lambda: theirs().cpu()),
        "ttach_max_diff": max(differ.values()),
        "ttach_max_diff_half": half,
        "pipeline_max_diff": as_run["float32"],
        "pipeline_max_diff_own": as_run[str(dtype)],
    }


def stored(run: Run, members: list[Member], pack: Pack, folder: Path) -> dict[str, float]:
    """OOF as it is stored: bytes and reading against float32 npz a tile, argmax, and mIoU of a mean of three."""
    device = pick_device(run.experiment.jobs)
    row_of = {name: row for row, name in enumerate(pack.train_names)}
    flips, means = 0, {"stored": 0.0, "float": 0.0}
    for member in members:
        shutil.rmtree(run.oof_store(member), ignore_errors=True)  # a kept one may be of other code
        loaded, store = load_member(run, member, device), open_store(predict_oof(run, member, device, StopRequest()))
        rows = np.array([row_of[name] for name in store.names])
        precision = run.experiment.train_of(member.model).precision
        predictor = loaded.predictor(run.experiment.predict, precision, device)
        probs = np.concatenate(list(predictor.probs(pack.train_image_NHWB, rows)))
        back = read_many(store, range(len(store)))
        flips += int((probs.argmax(1) != back.argmax(1)).sum())
        means = {"stored": means["stored"] + back / len(members), "float": means["float"] + probs / len(members)}
    truth = pack.train_mask_NHW[rows]
    miou = {what: mean_iou(confusion(mean.argmax(1), truth, probs.shape[1])) for what, mean in means.items()}
    npz = folder / "npz"
    npz.mkdir()
    for name, tile in zip(store.names, probs, strict=True):
        np.savez_compressed(npz / f"{name}.npz", probabilities=tile)
    sizes = [sum(f.stat().st_size for f in each.iterdir()) / len(store) / 1024 for each in (npz, store.path)]
    print(f"mean of {len(members)}: mIoU {miou['float']:.5f} of floats, {miou['stored']:.5f} of stored; {flips} flips")
    print(f"npz float32 {sizes[0]:.0f} KiB a tile, store {sizes[1]:.0f}")
    return {
        "bytes_vs_npz": sizes[1] / sizes[0],
        "read_vs_npz": ratios(
            "reading float32 against npz", partial(read_store, store), partial(read_npz, npz, store.names)
        ),
        "argmax_flips": flips,
        "stored_miou_diff": abs(miou["float"] - miou["stored"]),
    }


def read_store(store: Store) -> None:
    for tile in range(len(store)):
        store.read(tile)


def read_npz(folder: Path, names: list[str]) -> None:
    for name in names:
        with np.load(folder / f"{name}.npz") as file:
            file["probabilities"]


def memory(folder: Path) -> float:
    """Peak resident memory of predicting MANY tiles over that of FEW, each in a process of its own."""
    peaks = {}
    for tiles in (FEW, MANY):
        command = [sys.executable, "-m", "benchmarks.prediction", "--predict-tiles", str(tiles), "--runs", str(folder)]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        peaks[tiles] = float(said.split()[-1])
    print(f"peak memory: {peaks[FEW]:.0f} MiB for {FEW} tiles, {peaks[MANY]:.0f} MiB for {MANY}")
    return peaks[MANY] / peaks[FEW]


def predict_tiles(count: int, folder: Path) -> None:
    """Predict `count` tiles from a packed array with a small network, and print the peak memory in MiB."""
    path = folder / "pixels.npy"
    with open(path, "wb") as file:  # not through a map, whose pages would count
        write_npy_head(file, np.empty((256, 256, 4), np.uint8), count)
        for i in range(count):
            blocks = np.random.default_rng(i).integers(0, 255, (16, 16, 4), np.uint8)
            file.write(blocks.repeat(16, 0).repeat(16, 1).tobytes())
    model = Model(name="small", arch="Unet", encoder="resnet18", params=SMALL_UNET)
    network = build_model(model, 4, 10).to(memory_format=torch.channels_last).eval()
    preparation = Preparation(["red", "green", "blue", "nir"], [], "dataset", [0.5] * 4, [0.2] * 4)
    settings = load_experiment("configs/demo.yaml").predict.model_copy(update={"tta": "none"})
    names, classes = [f"{i}" for i in range(count)], [f"class{c}" for c in range(10)]
    with write_store(folder / "memory", names, classes, 256, 256, {}, in_turn=True) as writer:
        rows, mapped = np.arange(count), np.load(path, mmap_mode="r")
        predictor = Predictor([network], preparation, settings, "auto", torch.device("cpu"))
        for probs in predictor.probs(mapped, rows):
            writer.append(probs)
    print(peak_mib())


def main(argv: list[str] | None = None) -> None:
    parser = plain_parser("benchmarks.prediction", __doc__)
    parser.add_argument("--data", metavar="DIR", help="the naip data set; default: the generated demo competition")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="keep the trained members here for the next time")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default: %(default)s")
    parser.add_argument("--predict-tiles", type=int, help=argparse.SUPPRESS)
    add_json(parser)
    args = parser.parse_args(argv)
    keep_freed_memory()  # as the commands do
    if args.predict_tiles:
        return predict_tiles(args.predict_tiles, args.runs)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures: dict[str, float] = {}
        for suffix in MODELS[args.device]:
            is_first = not figures
            seeds = [0, 1, 2] if args.device == "cpu" else [0]
            run, members = trained(args, args.runs or folder, suffix, seeds)
            pack = open_pack(run, read_tiles(run.tiles_csv))
            loaded = load_member(run, members[0], pick_device(run.experiment.jobs))
            figures |= throughput(run, loaded, pack, folder, suffix)
            if is_first:
                figures["vs_reference_loop"] = against_reference(run, loaded, pack, folder)
                figures |= against_ttach(run, loaded, pack)
                figures |= stored(run, members, pack, folder)
            write_figures(args.json, figures)  # what is there, should the run be killed
        if args.device == "cpu":
            figures["memory_ratio"] = memory(folder)
            figures |= provenance(folder)
            figures |= kill_and_go_on(run, members[0])
    print("  ".join(f"{key} {value:.4g}" for key, value in figures.items()))
    write_figures(args.json, figures)
    return None


if __name__ == "__main__":
    run(main)
