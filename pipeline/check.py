"""Prove where predictions come from: every OOF row by a member that saw neither the tile nor its group.

Each store is held against the member's record, the member against its weights, and both against the tiles, folds and
experiment of now. All that contradicts is listed at once. Readers of stores call `check_stores` before they begin.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from base.command import run as run_command
from base.command import stage_parser
from base.errors import UserError, counted, listed, refuse_all
from base.files import hash_file, read_json
from base.stamps import read_stamp
from base.threads import track_in_threads
from config import Member, Run, load_experiment
from config.training import Model
from folds.folds_csv import folds_of
from folds.tiles import sources_of, tiles_of
from pipeline.finished import Kind, mean_facts, member_facts
from pipeline.record import record_path, weights_path
from pipeline.store import Store, content_problems, open_store


@dataclass(frozen=True)
class Truth:
    """What tiles and folds are now."""

    test_names: list[str]
    group_of: dict[str, str]
    """Of the train tiles."""
    fold_of: dict[str, int]

    @classmethod
    def of(cls, run: Run) -> "Truth":
        tiles, folds = tiles_of(run), folds_of(run)
        train = tiles[tiles.split == "train"]
        return cls(
            test_names=tiles.name[tiles.split == "test"].tolist(),
            group_of=dict(zip(train.name, train.group, strict=True)),
            fold_of=dict(zip(folds.name, folds.fold.tolist(), strict=True)),
        )


def check_stores(run: Run, content: bool = False, kinds: Sequence[Kind] = get_args(Kind)) -> list[Path]:
    """Prove all stores of a run that are there, in the variant that `predict` names; return their paths.

    Args:
        kinds: of train tiles (oof), of test tiles, or both.
        content: hash the probabilities themselves too. Without it a changed tile is still found when it is read.

    Raises:
        UserError: lists everything that contradicts, and what to run.
    """
    truth = Truth.of(run)
    work: dict[Path, Callable[[], list[str]]] = {}
    for member in run.members():
        for path, kind in ((run.oof_store(member), "oof"), (run.test_part(member), "test")):
            if kind in kinds and path.exists():
                work[path] = partial(_member_store_problems, run, member, path, kind, truth, content)
    for model in run.experiment.models:
        if "test" in kinds and (path := run.test_store(model)).exists():
            work[path] = partial(_mean_store_problems, run, model, path, truth, content)
    problems = folds_problems(truth) if work else []
    for each in track_in_threads(lambda check: check(), work.values(), "check stores"):
        problems += each
    headline = (
        f"run {run.experiment.name!r}: {counted(len(problems), 'contradiction')} about where predictions come from"
    )
    refuse_all(
        f"{headline} (put back what was changed, or delete the folders named and run: "
        f"python -m pipeline.cv --config FILE)",
        problems,
    )
    return list(work)


def folds_problems(truth: Truth) -> list[str]:
    """What is wrong with the folds themselves: tiles without fold, folds without tile, groups in several folds."""
    problems = []
    lone = sorted(truth.group_of.keys() ^ truth.fold_of.keys())
    if lone:
        problems.append(f"folds.csv and tiles.csv hold other train tiles: {listed(lone)} are in one of them only")
    pairs = {(truth.group_of[name], truth.fold_of[name]) for name in truth.group_of.keys() & truth.fold_of.keys()}
    split = sorted(group for group, folds in Counter(group for group, _ in pairs).items() if folds > 1)
    if split:
        problems.append(f"folds.csv splits groups {listed(split)}")
    return problems


def leak_problems(train_tiles: Iterable[str], predicted: Iterable[str], group_of: dict[str, str]) -> list[str]:
    """Tiles that a member predicted though it was trained on them, or on a tile of their group."""
    trained = set(train_tiles)
    groups = {group_of[name] for name in trained if name in group_of}
    seen = sorted(name for name in set(predicted) if name in trained)
    near = sorted(name for name in set(predicted) if name not in trained and group_of.get(name) in groups)
    problems = [f"was trained on {len(seen)} of the tiles that it predicts: {listed(seen)}"] if seen else []
    problems += [f"was trained on the groups of {len(near)} tiles that it predicts: {listed(near)}"] if near else []
    return problems


def _member_store_problems(run: Run, member: Member, path: Path, kind: Kind, truth: Truth, content: bool) -> list[str]:
    """Everything that contradicts about one member's store and the member behind it."""
    expected = member_facts(run, member, kind)
    whose = {key: expected[key] for key in ("model", "fold", "seed", "target")}
    problems, record = _record_problems(record_path(run.member_dir(member)), whose)
    problems += _member_problems(run, member)
    try:
        store = open_store(path)
    except UserError as error:
        return [str(error)] + [f"{path}: {problem}" for problem in problems]
    held_out = [name for name, fold in truth.fold_of.items() if fold == member.fold]
    names, outputs = held_out if kind == "oof" else truth.test_names, run.experiment.outputs_of(member.model)
    problems += _store_problems(store, expected, names, outputs)
    if kind == "oof":
        problems += [f"its member {problem}" for problem in leak_problems(
            record.get("train_tiles", []), store.names, truth.group_of)]  # fmt: skip
    return [f"{path}: {problem}" for problem in problems] + (content_problems(store) if content else [])


def _record_problems(path: Path, facts: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """What contradicts about a member's record, and the record; empty where there is none to be read."""
    try:
        record = read_json(path)
    except FileNotFoundError:
        return [f"its member has no record {path}"], {}
    except ValueError:
        return [f"its member's record {path} is not JSON; it was cut short or changed"], {}
    lacking = [] if "train_tiles" in record else [f"{path.name}: does not say what it was trained on"]
    return [f"{path.name}: {problem}" for problem in _unlike(record, facts)] + lacking, record


def _member_problems(run: Run, member: Member) -> list[str]:
    """Whether the member is finished, was made from what there is now, and has the weights that were written then."""
    result = run.member_result(member)
    folder, stamp = result.path, read_stamp(result.stamp_path)
    if stamp is None or not stamp.finished:
        return ["its member is not trained to its end"]
    problems = [f"its member differs: {change}" for change in stamp.differences(result.keys, result.inputs)]
    for kind in run.experiment.predict.weight_kinds:
        weights = weights_path(folder, kind)
        if not weights.exists():
            problems.append(f"its weights {weights.name} are missing; delete {folder} too")
        elif hash_file(weights) != stamp.outputs.get(weights.name):
            problems.append(f"its weights {weights.name} were changed after they were written; delete {folder} too")
    return problems


def _mean_store_problems(run: Run, model: Model, path: Path, truth: Truth, content: bool) -> list[str]:
    """Everything that contradicts about a model's mean over its members."""
    try:
        store = open_store(path)
    except UserError as error:
        return [str(error)]
    problems = _store_problems(store, mean_facts(run, model), truth.test_names, run.experiment.outputs_of(model))
    return [f"{path}: {problem}" for problem in problems] + (content_problems(store) if content else [])


def _store_problems(store: Store, facts: dict[str, Any], names: list[str], outputs: list[str]) -> list[str]:
    """How a store differs from what it should have been made from, hold, and give."""
    problems = _unlike(store.manifest, facts) + _names_problems(store.names, names)
    if store.classes != outputs:
        problems.append(f"classes are {listed(store.classes)}, not {listed(outputs)}")
    return problems


def _unlike(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """The keys whose values differ; hashes are not spelled out."""
    problems = []
    for key, value in expected.items():
        if found.get(key) == value:
            continue
        plain = (value is None or isinstance(value, str | int)) and not key.endswith("sha256")
        problems.append(f"{key} is {found.get(key)!r}, not {value!r}" if plain else CONTRADICTIONS[key])
    return problems


CONTRADICTIONS = {
    "weights_sha256": "predicted by other weights than its member has now",
    "inputs": "made with another tiles.csv or folds.csv, or when images or masks had other pixels",
    "keys_sha256": "made with other keys of data, folds, model or train",
    "members": "the mean over other members, or over other weights of them",
}


def _names_problems(names: list[str], expected: list[str]) -> list[str]:
    """How the tiles of a store differ from those that it should hold. Their order does not matter: rows have names."""
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    missing, strange = sorted(set(expected) - set(names)), sorted(set(names) - set(expected))
    problems = [f"holds {listed(twice)} twice"] if twice else []
    problems += [f"lacks {len(missing)} tiles: {listed(missing)}"] if missing else []
    problems += [f"holds {len(strange)} tiles that are not its own: {listed(strange)}"] if strange else []
    return problems


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("pipeline.check", __doc__.splitlines()[0])
    args = parser.parse_intermixed_args(argv)
    # Not open_run: it would stop at members that are stale, and this command tells everything and writes nothing.
    run = Run(load_experiment(args.config, args.overrides))
    # Here alone: readers of stores need neither images nor masks, which may lie on another machine.
    sources_of(run, tiles_of(run))
    checked = check_stores(run, content=True)
    members = run.oof_members(run.experiment.models)
    oof = sum(run.oof_store(member) in checked for member in members)
    print(f"run {run.experiment.name!r}, {run.variant}: {len(checked)} stores proven")
    print(f"{oof} of {len(members)} members have predicted their held-out fold")


if __name__ == "__main__":
    run_command(main)
