"""A whole run as the stages leave it, without any training: members are played by probabilities drawn from the masks.

The landscape is the generated competition. A member errs as networks do: it blurs borders, loses small things, mistakes
whole objects for a class that it confuses them with, and is less sure there, but not always.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from scipy import ndimage

from base.files import write_json
from config import Member, Run, load_experiment
from config.data import IGNORE_INDEX
from config.training import Model
from ensemble.apply import labels_of
from ensemble.build import build_blend
from ensemble.fitted import uniform_blend
from ensemble.oof import make_table
from ensemble.stores import ProvenStores
from folds.assign import make_folds
from folds.classes import ClassTable
from folds.images import read_mask
from folds.landscape import make_landscape
from folds.tiles import read_tiles
from pipeline.finished import mean_facts, member_facts
from pipeline.pack import open_pack
from pipeline.store import write_store
from submissions.write import write_submission

DEMO = Path(__file__).parent.parent / "configs" / "demo.yaml"


def played_config(folder: Path, **landscape: int) -> Path:
    """The demo's experiment with a smaller landscape, all under `folder`."""
    values = yaml.safe_load(DEMO.read_text())
    values |= {"name": "played", "runs_dir": str(folder / "runs"), "zips_dir": str(folder / "zips" / "zips")}
    values["data"]["root"] = str(folder / "data")
    values["data"]["generate"] |= {"train_scenes": 6, "test_scenes": 1, "scene_tiles": 3, "tile_px": 64, **landscape}
    values["blend"] = {"sample_pixels": 10_000, "weights": "uniform", "postprocess": "none"}  # seconds, not minutes
    del values["predict"]  # no network is there that could adapt
    values["folds"]["allow"] = ["class_in_few_groups"]
    path = folder / "played.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def member_probs(rng: np.random.Generator, truth_HW: np.ndarray, num_classes: int, skill: float = 6.0) -> np.ndarray:
    """(C, H, W) float32 of a tile, by a network that errs.

    Args:
        skill: logit of the true class in the middle of a large object; noise has about 1.6.
    """
    truth_HW = np.where(truth_HW == IGNORE_INDEX, 0, truth_HW)
    onehot_CHW = (truth_HW == np.arange(num_classes)[:, None, None]).astype(np.float32)
    for c, mask_HW in enumerate(truth_HW == np.arange(num_classes)[:, None, None]):
        objects_HW, count = ndimage.label(mask_HW)
        # One object in twelve is taken for the class beside it in the table, with more or less conviction.
        for taken in np.flatnonzero(rng.random(count) < 1 / 12) + 1:
            share = rng.uniform(0.4, 0.9)
            inside = objects_HW == taken
            onehot_CHW[(c + 1) % num_classes][inside] += share
            onehot_CHW[c][inside] -= share
    logits_CHW = skill * ndimage.gaussian_filter(onehot_CHW, (0, 1.5, 1.5))
    field_CHW = ndimage.gaussian_filter(rng.normal(size=logits_CHW.shape), (0, 5, 5))
    logits_CHW += 1.6 * field_CHW / field_CHW.std()
    probs_CHW = np.exp(logits_CHW - logits_CHW.max(0))
    return (probs_CHW / probs_CHW.sum(0)).astype(np.float32)


def play(
    config: Path,
    to_the_end: bool = True,
    opinion: Callable[..., np.ndarray] = member_probs,
    weight_bytes: int = 100,
) -> Run:
    """Tiles, folds, jobs, and members with logs and OOF stores of an experiment.

    Args:
        to_the_end: also the test stores, the blend with its table, and the zip.
        opinion: what a member makes of a mask, with the arguments of `member_probs`.
        weight_bytes: of each member's weights, which are noise.
    """
    run = Run(load_experiment(config))
    make_landscape(run.experiment.data)
    folds = make_folds(run)
    tiles = read_tiles(run.tiles_csv)
    classes = ClassTable.of(run.experiment.data)
    pack = open_pack(run, tiles)
    row_of = {name: row for row, name in enumerate(pack.train_names)}
    jobs = []
    for number, member in enumerate(run.members()):
        held_out = folds.name[folds.fold == member.fold].tolist()
        _leave_member(run, member, folds, weight_bytes)
        rng = np.random.default_rng([number, 7])
        manifest = member_facts(run, member, "oof")
        channels = run.experiment.outputs_of(member.model)
        with write_store(run.oof_store(member), held_out, channels, *pack.size_px, manifest) as writer:
            for name in held_out:
                truth_HW = pack.train_mask_NHW[row_of[name]]
                probs_CHW = opinion(rng, truth_HW, len(classes), 6.0 - number % 2)
                writer.append(probs_CHW[None, [classes.names.index(name) for name in channels]])
        jobs.append(
            {"job": str(member), "attempt": 1, "host": "here", "device": "cpu", "started": "2026-01-01 00:00:00",
             "exit_code": 0, "wall_s": 61.0 + 7 * number, "peak_mib": 900.0 + number, "note": ""}
        )  # fmt: skip
    pd.DataFrame(jobs).to_csv(run.dir / "jobs.csv", index=False)
    if to_the_end:
        for number, model in enumerate(run.experiment.models):
            _play_test(run, model, tiles, np.random.default_rng([number, 9]), opinion)
        stores = ProvenStores(run)
        make_table(stores, build_blend(stores))
        _hand_in(stores, tiles)
    return run


def _hand_in(stores: ProvenStores, tiles: pd.DataFrame) -> None:
    """The zip of the plain mean, with receipt and ledger."""
    run, source = stores.run, stores.unseen
    blend = uniform_blend(source.classes, source.models)
    write_submission(run, tiles, labels_of(blend, source), {"run": run.experiment.name, "oof_miou": 0.5})


def _leave_member(run: Run, member: Member, folds: pd.DataFrame, weight_bytes: int) -> None:
    """What training leaves, with noise for weights."""
    folder = run.member_dir(member)
    (folder / "weights").mkdir(parents=True)
    rng = np.random.default_rng([member.fold, len(member.model.name)])
    weights = folder / "weights" / "last.safetensors"
    weights.write_bytes(rng.bytes(weight_bytes))
    facts = {"model": member.model.name, "fold": member.fold, "seed": member.seed, "target": member.model.target}
    inside = folds.fold == member.fold
    tiles = {"train_tiles": folds.name[~inside].tolist(), "held_out": folds.name[inside].tolist()}
    write_json(folder / "member.json", facts | tiles)
    epochs = np.arange(1, 7)
    log = {"epoch": epochs, "lr": 1e-3 / epochs, "loss": 2 / epochs + rng.random(6) / 9, "val_miou": 0.5 - 0.4 / epochs}
    pd.DataFrame(log).to_csv(folder / "log.csv", index=False)
    run.member_result(member).finish([weights])


def _play_test(
    run: Run, model: Model, tiles: pd.DataFrame, rng: np.random.Generator, opinion: Callable[..., np.ndarray]
) -> None:
    data = run.experiment.data
    classes = ClassTable.of(data)
    test = tiles[tiles.split == "test"]
    size_px = int(test.height.iloc[0]), int(test.width.iloc[0])
    channels = run.experiment.outputs_of(model)
    with write_store(run.test_store(model), test.name.tolist(), channels, *size_px, mean_facts(run, model)) as writer:
        for name in test.name:
            mask = data.test_masks.format(name=name)
            truth_HW = classes.to_index(read_mask(Path(data.root) / mask), where=mask)
            probs_CHW = opinion(rng, truth_HW, len(classes), 6.0)
            writer.append(probs_CHW[None, [classes.names.index(name) for name in channels]])
