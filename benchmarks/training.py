"""The training loop against the bare network and against the reference's loop; resume, memory and opening.

python -m benchmarks.training [--device cuda] [--json FILE]

Tiles are drawn: 256 px, 4 bands, 10 classes. A member's epoch is the real one: packed tiles -> augmentation -> loader
-> transfer -> preparation -> forward, loss, backward, clipped step -> log. The bare loop has the same network, loss,
optimizer, precision and layout on one batch that lies on the device. Both take turns in one process.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException
from torch.utils.data import DataLoader, Dataset

from base.command import add_json, plain_parser, run, write_figures
from base.errors import UserError
from benchmarks.measure import in_own_process, ratios, seconds, told
from benchmarks.training_laws import memory_growth, opening, resume
from config import Member, Run, load_experiment, open_run
from folds.assign import make_folds
from folds.landscape import make_landscape
from models.zoo import build_model
from pipeline.checkpoint import checkpoint_path
from pipeline.data import Batch
from pipeline.device import autocast, make_deterministic, set_up_cpu
from pipeline.loop import Hooks, fit
from pipeline.progress import TrainProgress
from pipeline.setup import Setup, set_up
from pipeline.stopping import StopRequest

UNET = "{name: unet_r18, arch: Unet, encoder: resnet18}"
MODELS = {
    "cpu": {"": UNET},
    "cuda": {
        "_unet_r18": UNET,
        "_upp_b4": "{name: upp_b4, arch: UnetPlusPlus, encoder: efficientnet-b4}",
        "_segformer_b5": "{name: segformer_b5, arch: Segformer, encoder: mit_b5}",  # 85 M parameters
    },
}
"""Device -> what is added to a figure's name, and the network; the first one is set against the reference's loop."""
BATCH = {"cpu": {"": 8}, "cuda": {"_unet_r18": 128, "_upp_b4": 32, "_segformer_b5": 32}}
"""Of the GPU so many that it, and not the processor beside it, says how long a step takes."""
STEPS = {"cpu": 10, "cuda": 10}  # of an epoch
EPOCHS = {"cpu": 1, "cuda": 3}  # that a round measures
BEFORE = {"cpu": 0, "cuda": 1}  # epochs before them, in which loader processes begin: once in a whole training
ROUNDS = {"cpu": 5, "cuda": 3}
PHASES = ("load", "transfer", "forward", "backward", "step")


@dataclass(frozen=True)
class Bench:
    """A member that is ready to train, and the batch that the bare loop has."""

    setup: Setup
    resident: Batch
    image_NCHW: torch.Tensor
    target_NHW: torch.Tensor

    @property
    def device(self) -> torch.device:
        return self.setup.objective.device

    @property
    def steps(self) -> int:
        """That a round measures."""
        return STEPS[self.device.type] * EPOCHS[self.device.type]


def drawn_run(folder: Path, device: str, model: str, batch: int) -> Run:
    """The demo competition with three scenes of 256 px tiles, two of them in training folds."""
    overrides = [
        f"name=training-{device}", f"runs_dir={folder}", f"data.root={folder / 'data'}", f"models=[{model}]",
        "data.generate.tile_px=256", "data.generate.train_scenes=3", "data.generate.test_scenes=1",
        "train.schedule.warmup_epochs=0.5", "folds.allow=[class_in_few_groups]",
        f"train.epochs={BEFORE[device] + EPOCHS[device]}", f"train.batch={batch}", f"jobs.devices={device}",
        "redo=stale",
    ]  # fmt: skip
    experiment = load_experiment("configs/demo.yaml", overrides)
    make_landscape(experiment.data)
    experiment_run = open_run(experiment)
    make_folds(experiment_run)
    return experiment_run


def make_bench(experiment_run: Run, device: torch.device) -> Bench:
    setup = set_up(experiment_run, Member(experiment_run.experiment.models[0], 0, 0), device)
    needed = STEPS[device.type] * setup.plan.train.batch
    order = np.resize(setup.train_N, needed)  # tiles come again where there are fewer
    setup.batches.order_of_epoch = lambda epoch: order
    setup.batches.begin(0, end=1)
    batch = next(iter(setup.loader))
    image_NCHW = setup.objective.preparation(batch.pixels_NHWB.to(device))
    return Bench(setup, batch, image_NCHW, batch.target_NHW.to(device, torch.int64))


class EpochEnds(TrainProgress):
    """Notes when each epoch ends, its work on the device included."""

    def __init__(self, device: torch.device) -> None:
        super().__init__("", 1, 0)
        self.device, self.times = device, [time.perf_counter()]

    def epoch(self, row: dict) -> None:
        synchronise(self.device)
        self.times.append(time.perf_counter())


def train_round(bench: Bench, network: nn.Module | None = None) -> float:
    """Epochs of the member, as `pipeline.train` trains it; without the checkpoint, which comes once a minute.

    Args:
        network: the member's, compiled; None: as it is.

    Returns:
        The seconds of those that count.
    """
    setup = bench.setup
    objective = setup.objective if network is None else replace(setup.objective, forward=network)
    setup.state.epoch, setup.state.micro_step = 0, 0
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing), EpochEnds(bench.device) as progress:
        hooks = Hooks(lambda state: None, lambda state: None, StopRequest(), progress)
        fit(setup.plan, setup.state, objective, setup.loader, setup.batches, hooks)
    return progress.times[-1] - progress.times[BEFORE[bench.device.type]]


def its_own(work: Callable[[], float]) -> float:
    """The seconds that a round says of itself."""
    return work()


def bare(bench: Bench, loss_fn: nn.Module) -> None:
    """As many steps on one batch that lies on the device."""
    setup, network, optimizer = bench.setup, bench.setup.state.network.train(), bench.setup.state.optimizer
    for _ in range(bench.steps):
        optimizer.zero_grad(set_to_none=True)
        with autocast(bench.device, setup.objective.dtype):
            logits_NCHW = network(bench.image_NCHW)
        loss_fn(logits_NCHW.float(), bench.target_NHW).backward()
        optimizer.step()
    synchronise(bench.device)


def efficiency(bench: Bench, suffix: str) -> dict[str, float]:
    """Images a second of the member's epoch as a share of the bare loop's: with its loss, and with cross-entropy."""
    batch, rounds = bench.setup.plan.train.batch, ROUNDS[bench.device.type]
    ours, theirs = partial(train_round, bench), partial(bare, bench, bench.setup.objective.loss_fn)
    model = bench.setup.record.model
    figures = {f"efficiency{suffix}": ratios(f"efficiency of {model}", ours, theirs, rounds=rounds, time_ours=its_own)}
    rate, dtype = bench.steps * batch / seconds(theirs), bench.setup.objective.dtype
    parameters = sum(weight.numel() for weight in bench.setup.state.network.parameters()) / 1e6
    print(f"  {parameters:.0f} M parameters, batch {batch}, {dtype}: bare {rate:.1f} img/s", flush=True)
    if bench.device.type == "cuda":
        return figures
    plain = partial(bare, bench, nn.CrossEntropyLoss())
    over_plain = ratios("  over a bare loop with cross-entropy alone", ours, plain, time_ours=its_own)
    return figures | {f"efficiency_ce{suffix}": over_plain}


def compile_gain(bench: Bench, suffix: str) -> dict[str, float]:
    """Speed of the member's epoch with `train.compile` over its speed without; nothing where no compiler is found."""
    compiled = partial(train_round, bench, torch.compile(bench.setup.state.network))
    try:
        first_s = seconds(compiled)
    except TorchDynamoException as error:
        print(f"  train.compile is not measured: {type(error).__name__}; it needs a C++ compiler", flush=True)
        return {}
    figures = {
        f"compile_gain{suffix}": ratios("  with train.compile, over without", compiled, partial(train_round, bench))
    }
    print(f"  its first round of {bench.steps} steps, compiled in it: {first_s:.0f} s", flush=True)
    return figures


def breakdown(bench: Bench) -> None:
    """Print the milliseconds of a step by phase, with the device waited for after each: a sum above the real step's."""
    setup, device, objective = bench.setup, bench.device, bench.setup.objective
    setup.batches.begin(0, end=1)
    spent: dict[str, list[float]] = {phase: [] for phase in PHASES}
    batches = iter(setup.loader)
    for _ in range(STEPS[device.type]):
        clock = Clock(device, spent)
        batch = next(batches)
        clock.ends("load")
        image_NCHW = objective.preparation(batch.pixels_NHWB.to(device, non_blocking=True))
        clock.ends("transfer")
        loss = objective.loss_of(objective.logits(image_NCHW), batch)
        clock.ends("forward")
        loss.backward()
        clock.ends("backward")
        nn.utils.clip_grad_norm_(setup.state.network.parameters(), setup.plan.train.clip_grad_norm)
        setup.state.optimizer.step()
        setup.state.optimizer.zero_grad(set_to_none=True)
        clock.ends("step")
    shown = {phase: told([1000 * s for s in times], 1) for phase, times in spent.items()}
    print("  ms a step: " + ", ".join(f"{phase} {ms}" for phase, ms in shown.items()), flush=True)


class Clock:
    """Adds the seconds since its last question to the phase that has ended."""

    def __init__(self, device: torch.device, spent: dict[str, list[float]]) -> None:
        self.device, self.spent, self.since = device, spent, time.perf_counter()

    def ends(self, phase: str) -> None:
        synchronise(self.device)
        now = time.perf_counter()
        self.spent[phase].append(now - self.since)
        self.since = now


class PlainTiles(Dataset):
    """The reference's data set: a tile is decoded each time it is seen, flipped, and made a float tensor."""

    def __init__(self, root: Path, tiles: pd.DataFrame, mean_B: np.ndarray, std_B: np.ndarray) -> None:
        self.root, self.images, self.masks = root, tiles.image.tolist(), tiles["mask"].tolist()
        self.mean_B, self.std_B = mean_B.astype(np.float32), std_B.astype(np.float32)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        import cv2

        image_HWB = cv2.imread(str(self.root / self.images[i]), cv2.IMREAD_UNCHANGED)
        mask_HW = cv2.imread(str(self.root / self.masks[i]), cv2.IMREAD_UNCHANGED)
        for axis in (0, 1):
            if torch.rand(()) < 0.5:
                image_HWB, mask_HW = np.flip(image_HWB, axis), np.flip(mask_HW, axis)
        image_HWB = (image_HWB.astype(np.float32) / 255 - self.mean_B) / self.std_B
        return torch.from_numpy(image_HWB.transpose(2, 0, 1).copy()), torch.from_numpy(mask_HW.astype(np.int64) - 1)


def against_reference(experiment_run: Run, bench: Bench) -> float:
    """The reference's loop written plainly: float32, contiguous, OpenCV, one worker, smp's dice and torch's ce."""
    import segmentation_models_pytorch as smp

    device, setup = bench.device, bench.setup
    tiles = pd.read_csv(experiment_run.tiles_csv, dtype={"name": str}).query("split == 'train'")
    order = setup.batches.order_of_epoch(0)
    data = PlainTiles(Path(experiment_run.experiment.data.root), tiles.iloc[order], setup.pack.mean_B, setup.pack.std_B)
    loader = DataLoader(data, setup.plan.train.batch, shuffle=True, num_workers=1, pin_memory=device.type == "cuda")
    model, classes = experiment_run.experiment.models[0], len(setup.record.classes)
    network = build_model(model, setup.objective.preparation.channels, classes).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
    cross_entropy, dice = nn.CrossEntropyLoss(), smp.losses.DiceLoss("multiclass")

    def reference() -> None:
        network.train()
        total = 0.0
        for image_NCHW, target_NHW in loader:
            logits_NCHW = network(image_NCHW.to(device))
            target_NHW = target_NHW.to(device)
            loss = cross_entropy(logits_NCHW, target_NHW) + dice(logits_NCHW, target_NHW)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()

    per, rounds = EPOCHS[device.type], ROUNDS[device.type]  # the reference's round is an epoch
    return ratios("against the reference's loop", partial(train_round, bench), reference, per, rounds, its_own)


def speeds(folder: Path, name: str) -> dict[str, float]:
    """All ratios of one device but those of train.compile; in a process of its own, whose threads and memory are those
    of a member's."""
    figures: dict[str, float] = {}
    for suffix in MODELS[name]:
        experiment_run, bench = ready_bench(folder, name, suffix)
        figures |= efficiency(bench, suffix)
        breakdown(bench)
        save_s = seconds(lambda bench=bench: bench.setup.state.save(checkpoint_path(folder), {}))
        print(f"  a checkpoint, once in {bench.setup.plan.checkpoint_s:.0f} s: {save_s:.2f} s", flush=True)
        if "vs_reference_loop" not in figures:
            figures["vs_reference_loop"] = against_reference(experiment_run, bench)
    return figures


def compiled_speed(folder: Path, name: str) -> dict[str, float]:
    """What train.compile does to the small network; of a large one compiling alone takes minutes."""
    suffix = next(iter(MODELS[name]))
    return compile_gain(ready_bench(folder, name, suffix)[1], suffix)


def ready_bench(folder: Path, name: str, suffix: str) -> tuple[Run, Bench]:
    experiment_run = drawn_run(folder, name, MODELS[name][suffix], BATCH[name][suffix])
    threads = experiment_run.experiment.jobs.model_copy(update={"threads": len(os.sched_getaffinity(0))})
    set_up_cpu(experiment_run.experiment.model_copy(update={"jobs": threads}))
    make_deterministic()
    return experiment_run, make_bench(experiment_run, torch.device(name))


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def parts(device: str, folder: Path) -> Iterator[Callable[[], dict[str, float]]]:
    """What is measured, each in a folder and in processes of its own."""
    yield partial(in_own_process, speeds, folder / "speeds", device)
    yield partial(in_own_process, compiled_speed, folder / "compiled", device)
    if device == "cpu":
        yield partial(in_own_process, resume, folder / "resume")
        yield partial(memory_growth, folder / "memory")
        yield partial(opening, folder / "opening")


def main(argv: list[str] | None = None) -> None:
    parser = plain_parser("benchmarks.training", __doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default: %(default)s")
    add_json(parser)
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU here; leave it out to measure on the CPU")
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        for part in parts(args.device, Path(name)):
            figures |= part()
            write_figures(args.json, figures)  # what is there, should a later part be killed
    print("  ".join(f"{key} {value:.4g}" for key, value in figures.items()))


if __name__ == "__main__":
    run(main)
