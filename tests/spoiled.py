"""A small run with predictions, as the stages leave it, and the ways to spoil its provenance. Weights are noise.

For the tests and for `python -m benchmarks.prediction`, which counts how many are found.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from base.files import hash_file, read_json, write_json
from config import Member, Run, load_experiment
from folds.assign import make_folds
from folds.tiles import read_tiles
from pipeline.finished import mean_facts, member_facts
from pipeline.store import INDEX, MANIFEST, PROBS, open_store, write_store
from tests.tiny import tiny_values, write_config, write_tiny

PX = 32
CLASSES = ["field", "forest", "bare"]


def write_member(run: Run, member: Member, train_tiles: list[str], held_out: list[str]) -> None:
    """What training leaves, with noise for weights."""
    folder = run.member_dir(member)
    (folder / "weights").mkdir(parents=True)
    rng = np.random.default_rng([member.fold, len(member.model.name)])
    for kind in ("last", "best"):
        (folder / "weights" / f"{kind}.safetensors").write_bytes(rng.bytes(500))
    facts = {"model": member.model.name, "fold": member.fold, "seed": member.seed, "target": member.model.target}
    write_json(folder / "member.json", facts | {"train_tiles": train_tiles, "held_out": held_out})
    outputs = sorted((folder / "weights").iterdir())
    run.member_result(member).finish(outputs)


def channels(member: Member) -> list[str]:
    return CLASSES if member.model.target == "all" else [member.model.target]


def write_probs(path: Path, names: list[str], classes: list[str], manifest: dict, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    with write_store(path, names, classes, PX, PX, manifest) as writer:
        writer.append(rng.dirichlet(np.ones(max(2, len(classes))), (len(names), PX, PX))
                      .transpose(0, 3, 1, 2)[:, : len(classes)].astype(np.float32))  # fmt: skip


def write_run(config: Path) -> Run:
    """Folds, members and stores of the tiny experiment, with a specialist, as the stages leave them."""
    run = Run(load_experiment(config))
    folds = make_folds(run)
    test = read_tiles(run.tiles_csv).query("split == 'test'").name.tolist()
    for member in run.members():
        held_out = folds.name[folds.fold == member.fold].tolist()
        write_member(run, member, folds.name[folds.fold != member.fold].tolist(), held_out)
        write_probs(run.oof_store(member), held_out, channels(member), member_facts(run, member, "oof"))
    unet, bare = run.experiment.models
    write_probs(run.test_store(unet), test, CLASSES, mean_facts(run, unet))
    for member in run.members(bare):  # its mean is still to come
        write_probs(run.test_part(member), test, ["bare"], member_facts(run, member, "test"))
    return run


def write_clean(folder: Path, seed: int = 0) -> Path:
    """Data, a run with a model of all classes and a specialist, and their stores under `folder`; the experiment."""
    values = tiny_values(write_tiny(folder / "data", px=PX, seed=seed), folder)
    specialist = values["models"][0] | {"name": "bare_unet", "target": "bare"}
    values["models"] = [*values["models"], specialist]
    config = write_config(folder / "tiny.yaml", values)
    write_run(config)
    return config


def member(run: Run, fold: int = 0, model: int = 0) -> Member:
    return Member(run.experiment.models[model], fold, 0)


def edit_json(path: Path, change: Callable[[dict], None]) -> None:
    value = read_json(path)
    change(value)
    path.write_text(json.dumps(value))


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swapped_folds_file(run: Run) -> None:
    folds = pd.read_csv(run.folds_csv, dtype={"name": str})
    folds.assign(fold=(folds.fold + 1) % 3).to_csv(run.folds_csv, index=False)


def group_split_over_folds(run: Run) -> None:
    folds = pd.read_csv(run.folds_csv, dtype={"name": str})
    folds.loc[0, "fold"] = (folds.loc[0, "fold"] + 1) % 3
    folds.to_csv(run.folds_csv, index=False)


def other_groups(run: Run) -> None:
    tiles = pd.read_csv(run.tiles_csv, dtype={"name": str})
    tiles["group"] = tiles["group"].replace("scene0", "scene1")
    tiles.to_csv(run.tiles_csv, index=False)


def edited_checkpoint(run: Run) -> None:
    flip_byte(run.member_dir(member(run)) / "weights" / "last.safetensors")


def missing_checkpoint(run: Run) -> None:
    (run.member_dir(member(run)) / "weights" / "last.safetensors").unlink()


def trained_anew(run: Run) -> None:
    weights = run.member_dir(member(run)) / "weights"
    (weights / "last.safetensors").write_bytes(b"other weights")
    run.member_result(member(run)).finish(sorted(weights.iterdir()))


def half_trained(run: Run) -> None:
    run.member_result(member(run)).begin()


def rewritten(run: Run, change_names: Callable[[list[str]], list[str]], classes: list[str] | None = None) -> None:
    """The OOF store of fold 0 written again by a correct writer with other names."""
    path = run.oof_store(member(run))
    names = open_store(path).names
    write_probs(path, change_names(names), classes or CLASSES, member_facts(run, member(run), "oof"))


def duplicated_tile(run: Run) -> None:
    path = run.oof_store(member(run))
    rewritten(run, lambda names: [*names, "extra"])
    index = pd.read_csv(path / INDEX, dtype={"name": str})
    index.loc[len(index) - 1, "name"] = index.name[0]
    index.to_csv(path / INDEX, index=False)
    edit_json(path / MANIFEST, lambda manifest: manifest.update(index_sha256=hash_file(path / INDEX)))


def missing_tile(run: Run) -> None:
    rewritten(run, lambda names: names[1:])


def tile_of_another_fold(run: Run) -> None:
    other = open_store(run.oof_store(member(run, 1))).names[0]
    rewritten(run, lambda names: [*names, other])


def swapped_classes(run: Run) -> None:
    rewritten(run, list, CLASSES[::-1])


def renamed_tiles(run: Run) -> None:
    path = run.oof_store(member(run)) / INDEX
    lines = path.read_text().splitlines()
    names = [line.split(",", 1)[0] for line in lines[1:]]
    rest = [line.split(",", 1)[1] for line in lines[1:]]
    moved = [f"{name},{facts}" for name, facts in zip(names[1:] + names[:1], rest, strict=True)]
    path.write_text("\n".join([lines[0], *moved]) + "\n")


def store_of_another_tta(run: Run) -> None:
    edit_json(run.oof_store(member(run)) / MANIFEST, lambda manifest: manifest.update(variant="last-d4"))


def store_of_another_fold(run: Run) -> None:
    shutil.rmtree(run.oof_store(member(run)))
    shutil.copytree(run.oof_store(member(run, 1)), run.oof_store(member(run)))


def store_of_other_keys(run: Run) -> None:
    edit_json(run.oof_store(member(run)) / MANIFEST, lambda manifest: manifest.update(keys_sha256="0" * 64))


def member_of_other_folds(run: Run) -> None:
    """Everything else fits: only the list of its training tiles tells."""

    def swap(record: dict) -> None:
        record["train_tiles"][0], record["held_out"][0] = record["held_out"][0], record["train_tiles"][0]

    edit_json(run.member_dir(member(run)) / "member.json", swap)


def member_under_another_name(run: Run) -> None:
    shutil.rmtree(run.member_dir(member(run)))
    shutil.copytree(run.member_dir(member(run, 1)), run.member_dir(member(run)))


def no_record(run: Run) -> None:
    (run.member_dir(member(run)) / "member.json").unlink()


def truncated_record(run: Run) -> None:
    path = run.member_dir(member(run)) / "member.json"
    path.write_bytes(path.read_bytes()[:-30])


def record_without_tiles(run: Run) -> None:
    edit_json(run.member_dir(member(run)) / "member.json", lambda record: record.pop("train_tiles"))


def truncated_manifest(run: Run) -> None:
    path = run.oof_store(member(run)) / MANIFEST
    path.write_bytes(path.read_bytes()[:-30])


def manifest_without_hash(run: Run) -> None:
    edit_json(run.oof_store(member(run)) / MANIFEST, lambda manifest: manifest.pop("index_sha256"))


def truncated_probabilities(run: Run) -> None:
    path = run.oof_store(member(run)) / PROBS
    path.write_bytes(path.read_bytes()[:-7])


def edited_probabilities(run: Run) -> None:
    flip_byte(run.oof_store(member(run)) / PROBS)


def edited_specialist(run: Run) -> None:
    flip_byte(run.test_part(member(run, 2, model=1)) / PROBS)


def older_mean(run: Run) -> None:
    def other(manifest: dict) -> None:
        manifest["members"]["unet/fold1-seed0"] = "0" * 64

    edit_json(run.test_store(run.experiment.models[0]) / MANIFEST, other)


def mean_of_other_tiles(run: Run) -> None:
    path = run.test_store(run.experiment.models[0])
    store = open_store(path)
    facts = {key: store.manifest[key] for key in ("kind", "model", "variant", "members", "inputs")}
    write_probs(path, store.names[:-1], CLASSES, facts)


def edited_mean(run: Run) -> None:
    flip_byte(run.test_store(run.experiment.models[0]) / PROBS)


SPOILED = {
    swapped_folds_file: "folds.csv has other content",
    group_split_over_folds: "splits groups",
    other_groups: "was trained on the groups of",
    edited_checkpoint: "weights last.safetensors were changed",
    missing_checkpoint: "weights last.safetensors are missing",
    trained_anew: "predicted by other weights",
    half_trained: "not trained to its end",
    duplicated_tile: "twice",
    missing_tile: "lacks 1 tiles",
    tile_of_another_fold: "was trained on 1 of the tiles",
    swapped_classes: "classes are bare",
    renamed_tiles: "index.csv was changed",
    store_of_another_tta: "variant is 'last-d4', not 'last-flips'",
    store_of_another_fold: "fold is 1, not 0",
    store_of_other_keys: "made with other keys",
    member_of_other_folds: "was trained on 1 of the tiles",
    member_under_another_name: "member.json: fold is 1, not 0",
    no_record: "has no record",
    truncated_record: "is not JSON",
    record_without_tiles: "does not say what it was trained on",
    truncated_manifest: "manifest.json is not JSON",
    manifest_without_hash: "manifest.json lacks index_sha256",
    truncated_probabilities: "probs.bin has",
    edited_probabilities: "tiles changed after they were written",
    edited_specialist: "tiles changed after they were written",
    older_mean: "the mean over other members",
    mean_of_other_tiles: "lacks 1 tiles",
    edited_mean: "tiles changed after they were written",
}
