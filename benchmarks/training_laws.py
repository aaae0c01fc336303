"""Parts of `benchmarks.training` that are laws and not speeds: kills change nothing, memory does not grow, opening is
cheap. Each works in processes of its own.
"""

import os
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from base.files import hash_file, write_json, write_npy_head
from benchmarks.measure import in_own_process, peak_mib, resident_mib, seconds
from config import Member, Run, load_experiment, open_run
from folds.assign import make_folds
from folds.tiles import read_tiles, sources_hash
from pipeline.device import set_up_cpu
from pipeline.loop import Hooks, fit
from pipeline.pack import open_pack, pack_dir
from pipeline.progress import TrainProgress
from pipeline.setup import set_up
from pipeline.stopping import StopRequest
from pipeline.train import main as train_main
from tests.tiny import tiny_values, write_config, write_tiny

KILLS = 20
EPOCHS_OF_MEMORY = 60
COMPETITION_TILES, PX, BANDS = 16_017, 256, 4
EVERYTHING = {
    "epochs": 4, "batch": 2, "validate_every": 1, "accumulate": {"steps": 2}, "ema": {"decay": 0.9},
    "swa": {"start_epoch": 2, "lr": 1e-4}, "sampler": {"name": "repeat_factor", "threshold": 0.9},
    "augment": [{"name": "copy_paste", "params": {"classes": ["bare"]}}, {"name": "d4", "p": 1.0},
                {"name": "noise"}, {"name": "mixup"}],
}  # fmt: skip


def tiny_run(folder: Path, name: str, **train: Any) -> tuple[Path, Run]:
    """The config and run of a small network on nine small tiles, with everything that a checkpoint must hold."""
    if not (folder / "data").exists():
        write_tiny(folder / "data")
    values = tiny_values(folder / "data", folder) | {"name": name, "jobs": {"checkpoint_s": 0.0, "threads": 1}}
    values["models"][0]["encoder"] = "efficientnet-b0"  # it leaves blocks out at random while it trains
    values["train"] |= EVERYTHING | train
    config = write_config(folder / f"{name}.yaml", values)
    run = open_run(load_experiment(config))
    make_folds(run)
    return config, run


def resume(folder: Path) -> dict[str, int]:
    """Runs that are killed at a random moment and started again, KILLS of them; then one that is killed KILLS times."""
    context = get_context("fork")  # what is imported is imported: a start costs milliseconds instead of seconds

    def trained(config: Path, kill_after_s: float | None = None) -> bool:
        """Run `python -m pipeline.train` in a process of its own; whether it was killed before its end."""
        words = ["--config", str(config), "--model", "unet", "--fold", "0"]
        process = context.Process(target=_quietly, args=(words,))
        process.start()
        process.join(kill_after_s)
        if alive := process.is_alive():
            process.kill()
        process.join()
        if not alive and process.exitcode:
            raise RuntimeError(f"training ended with code {process.exitcode}")
        return alive

    def bits(run: Run) -> dict[str, str]:
        member = run.member_dir(Member(run.experiment.models[0], 0, 0))
        return {path.name: hash_file(path) for path in [*member.glob("weights/*.safetensors"), member / "log.csv"]}

    config, run = tiny_run(folder, "undisturbed")
    whole_s = seconds(lambda: trained(config))
    wanted, rng = bits(run), np.random.default_rng(0)
    same, tries, late = 0, 0, 0
    while tries < KILLS:
        config, run = tiny_run(folder, f"killed{tries}-{late}")
        if not trained(config, rng.uniform(0, whole_s)):
            late += 1  # it was faster than the undisturbed one: no kill, no try
            continue
        trained(config)
        tries += 1
        same += bits(run) == wanted
    print(f"killed once in its {whole_s:.1f} s and run again: {same} of {tries} end with the same bits of "
          f"{', '.join(sorted(wanted))}", flush=True)  # fmt: skip
    config, run = tiny_run(folder, "killed-often")
    hits = sum(trained(config, rng.uniform(0.05, 0.3) * whole_s) for _ in range(KILLS))
    trained(config)
    print(f"one run killed {hits} times, then run to its end: {'the same' if bits(run) == wanted else 'OTHER'} bits")
    return {"resume_identical": same + (bits(run) == wanted), "resume_tries": tries + 1}


def _quietly(words: list[str]) -> None:
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        sys.exit(train_main(words))


def memory_growth(folder: Path) -> dict[str, float]:
    """KiB that an epoch adds to the memory of the training process: of many short epochs with everything on."""
    growth = in_own_process(_grow, folder)
    print(f"memory: {growth:+.1f} KiB an epoch over the last half of {EPOCHS_OF_MEMORY} epochs", flush=True)
    return {"memory_growth_kib_epoch": growth}


def _grow(folder: Path) -> float:
    _, run = tiny_run(folder, "memory", epochs=EPOCHS_OF_MEMORY)
    set_up_cpu(run.experiment)
    setup = set_up(run, Member(run.experiment.models[0], 0, 0), torch.device("cpu"))
    seen: list[tuple[int, float]] = []

    def save(state: Any) -> None:
        state.save(folder / "memory.pt", {})
        seen.append((state.epoch, resident_mib()))

    plan = replace(setup.plan, checkpoint_s=0.0)
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing), TrainProgress("", EPOCHS_OF_MEMORY, 0) as progress:
        fit(plan, setup.state, setup.objective, setup.loader, setup.batches, Hooks(save, save, StopRequest(), progress))
    epochs, mib = np.array(seen).T
    late = epochs >= EPOCHS_OF_MEMORY / 2
    return float(np.polyfit(epochs[late], mib[late], 1)[0] * 1024)


def opening(folder: Path) -> dict[str, float]:
    """Seconds and MiB that COMPETITION_TILES packed tiles cost a training process before it sees the first of them."""
    run = sparse_competition(folder)
    found = [in_own_process(_open, run) for _ in range(3)]
    open_s, open_mib = (float(np.median(values)) for values in zip(*found, strict=True))
    print(f"opening {COMPETITION_TILES} packed tiles: {open_s:.2f} s, {open_mib:.0f} MiB", flush=True)
    return {"open_16k_s": open_s, "open_16k_mib": open_mib}


def sparse_competition(folder: Path) -> Run:
    """A packed data set of the competition's size whose pixels are holes in files: opening reads none of them."""
    data = load_experiment("configs/suichang.yaml").data.model_dump(mode="json")
    values = tiny_values(folder / "empty", folder) | {"name": "open", "data": data | {"root": str(folder / "empty")}}
    values["folds"] = {"k": 5, "groups": "none"}
    run = Run(load_experiment(write_config(folder / "open.yaml", values)))
    names = [f"{i:06d}" for i in range(COMPETITION_TILES)]
    (folder / "empty" / "train").mkdir(parents=True)
    tiles = pd.DataFrame(
        {"name": names, "split": "train", "image": [f"train/{name}.tif" for name in names],
         "mask": [f"train/{name}.png" for name in names], "height": PX, "width": PX, "group": names}
    )  # fmt: skip
    for path in (*tiles.image, *tiles["mask"]):
        (folder / "empty" / path).touch()
    for spec in data["classes"]:
        tiles[spec["name"]] = PX * PX // len(data["classes"])
    run.dir.mkdir(parents=True)
    tiles.to_csv(run.tiles_csv, index=False)
    pack = pack_dir(run, sources_hash(tiles, folder / "empty"))
    pack.mkdir(parents=True)
    for name, shape in (
        ("train_image", (COMPETITION_TILES, PX, PX, BANDS)),
        ("train_mask", (COMPETITION_TILES, PX, PX)),
    ):
        with open(pack / f"{name}.npy", "wb") as file:
            write_npy_head(file, np.empty(shape[1:], np.uint8), shape[0])
            file.truncate(file.tell() + int(np.prod(shape)))
    write_json(pack / "pack.json", {"mean": [0.5] * BANDS, "std": [0.2] * BANDS})
    return run


def _open(run: Run) -> tuple[float, float]:
    before = peak_mib()
    started = time.perf_counter()
    pack = open_pack(run, read_tiles(run.tiles_csv))
    opened_s = time.perf_counter() - started
    assert len(pack.train_names) == COMPETITION_TILES
    return opened_s, peak_mib() - before
