"""How heavy is each model here? Times a few steps of every network on the device, for the plan of `pipeline.cv`."""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict

import torch

from base.command import add_json, stage_parser, write_figures
from base.command import run as run_command
from base.files import read_json, write_json
from base.progress import track
from base.screen import screen, text_table
from config import Experiment, Run, load_experiment
from config.training import Model
from folds.folds_csv import folds_of
from folds.tiles import tiles_of
from models.zoo import build_model, padded_logits
from pipeline.costs import Cost, TileCounts, as_entry, cost_key, costs_path, read_costs
from pipeline.device import autocast, autocast_dtype, pick_device, set_up_cpu

CPU_BATCH = 4  # enough for a CPU's time per tile to settle, and fits where training fits
REPEATS = 3


def measure(run: Run, model: Model, height: int, width: int, device: torch.device) -> Cost:
    """Time forward passes and training steps of a model's network with random weights on random tiles."""
    train, channels = run.experiment.train_of(model), run.experiment.data.input_channels
    outputs = len(run.experiment.outputs_of(model))
    network = build_model(model.model_copy(update={"encoder_weights": None}), channels, outputs).to(device)
    layout = torch.channels_last if train.channels_last else torch.contiguous_format
    network = network.to(memory_format=layout)
    trained, predicted = (
        torch.randn(batch, channels, height, width, device=device).to(memory_format=layout)
        for batch in batch_sizes(run.experiment, model, device)
    )
    optimizer = torch.optim.AdamW(network.parameters())
    dtype = autocast_dtype(train.precision, device)

    def forward() -> None:
        with torch.inference_mode(), autocast(device, dtype):
            padded_logits(network, predicted)

    def step() -> None:
        with autocast(device, dtype):
            logits_NCHW = padded_logits(network, trained)
        optimizer.zero_grad(set_to_none=True)
        logits_NCHW.float().square().mean().backward()
        optimizer.step()

    parameters = sum(each.numel() for each in network.parameters())
    train_s = seconds(step, device) / len(trained)
    network.eval()
    return Cost(train_s, seconds(forward, device) / len(predicted), parameters)


def batch_sizes(experiment: Experiment, model: Model, device: torch.device) -> tuple[int, int]:
    """Images of a step and of a pass of prediction. On a GPU the run's: of few, the host is what is timed."""
    part, at_once = experiment.train_of(model).batch // experiment.jobs.split_batch, experiment.images_at_once
    if device.type == "cpu":
        part = at_once = min(CPU_BATCH, part)
    return max(2, part), max(2, at_once)  # batch norm needs two where the deepest layer is one pixel


def seconds(work: Callable[[], None], device: torch.device) -> float:
    """Median seconds of `work`, the first time not counted."""
    times = []
    for _ in range(1 + REPEATS):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("pipeline.probe", __doc__)
    add_json(parser)
    args = parser.parse_intermixed_args(argv)
    run = Run(load_experiment(args.config, args.overrides))
    set_up_cpu(run.experiment)
    device = pick_device(run.experiment.jobs)
    counts = TileCounts.of(tiles_of(run), folds_of(run), run.experiment.folds.k)
    known = read_costs(run, counts)
    missing = [model for model in run.experiment.models if model.name not in known]
    for model in track(missing, "time networks"):
        known[model.name] = measure(run, model, counts.height, counts.width, device)
        path = costs_path(run)
        measured = read_json(path) if path.exists() else {}
        entry = as_entry(known[model.name], model, str(device))
        write_json(path, measured | {cost_key(run, model, counts): entry})
    rows, figures = [], {}
    for name in (model.name for model in run.experiment.models):
        cost = known[name]
        rows.append((
            name, f"{cost.parameters / 1e6:.1f} M", f"{1e3 * cost.train_s:.1f}", f"{1e3 * cost.forward_s:.1f}"
        ))  # fmt: skip
        figures |= {f"{name}.{key}": value for key, value in asdict(cost).items()}
    title = f"{counts.height}x{counts.width} on {device}"
    columns = ("model", "parameters", "ms/tile to train", "ms/image to predict")
    screen().print(text_table(title, columns, rows, title_justify="left", box=None))
    write_figures(args.json, figures)


if __name__ == "__main__":
    run_command(main)
