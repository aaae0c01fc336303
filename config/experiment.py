"""Read an experiment: YAML with `extends:`, then `key=value` overrides, then one check that names every mistake."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from base.errors import UserError, listed, nearest
from config.base import Folder, Name, Section
from config.data import Data, Folds
from config.ensemble import Blend, Predict, Submission
from config.jobs import Jobs
from config.losses import ClassTimes, FixedWeights
from config.reader import read_yaml
from config.sections import Kinds, changes_kind, kinds_at, merged, mistakes
from config.training import Model, Seeds, Train

PACKS, SCANS = "packs", "scans"
"""Folders under runs_dir that are no runs: beside them, since runs on the same tiles share them."""


class Experiment(Section):
    name: Name
    """Folder under runs_dir, and the zip's name."""
    runs_dir: Folder = "runs"
    """Where results are kept; relative to the current folder."""
    zips_dir: Folder = "submissions/zips"
    """Where zips and receipts are written."""
    seeds: Seeds = [0]
    """Each model is trained once per fold and seed."""
    data: Data
    folds: Folds = Folds()
    models: list[Model] = Field(min_length=1)
    train: Train = Train()
    predict: Predict = Predict()
    blend: Blend = Blend()
    submission: Submission = Submission()
    jobs: Jobs = Jobs()
    redo: Literal["nothing", "stale"] = "nothing"
    """stale: throw away results that were made with other keys, and make them again. Not kept in experiment.yaml."""

    @model_validator(mode="after")
    def _consistent(self) -> "Experiment":
        names = [model.name for model in self.models]
        classes = self.data.class_names
        twice = sorted({name for name in names if names.count(name) > 1})
        problems = [f"models: name {', '.join(twice)} is given twice"] if twice else []
        if self.name in (PACKS, SCANS):
            problems.append(f"name {self.name}: a folder that all runs share is called so; choose another name")
        if self.blended_models and all(model.target != "all" for model in self.blended_models):
            what = ", ".join(model.name for model in self.blended_models)
            problems.append(f"models: only specialists are blended ({what}); a blend needs a model of all classes")
        problems += _unknown(self.blend.models or [], names, "blend.models")
        problems += _unknown(self.folds.split_groups_of, classes, "folds.split_groups_of")
        if self.submission.labels and len(self.submission.labels) != len(classes):
            problems.append(f"submission.labels: {len(self.submission.labels)} values for {len(classes)} classes")
        colors = [tuple(each.color) for each in self.data.classes]
        if self.submission.format == "color_png" and (twice := sorted({c for c in colors if colors.count(c) > 1})):
            problems.append(f"submission.format color_png: two classes have the colour {', '.join(map(str, twice))}")
        for model in self.models:
            if model.target != "all":
                problems += _unknown([model.target], classes, f"models.{model.name}.target")
            try:
                train = self.train_of(model)
                if model.folds == "each+all" and (
                    train.schedule.name == "plateau" or "best" in self.predict.weight_kinds
                ):
                    problems.append(
                        f"models.{model.name}.folds each+all: a member trained on every tile has no held-out score, "
                        f"which schedule plateau and predict.weights best need"
                    )
                problems += _misfits_of_classes(train, classes, model) + _misfits_of_weights(self.predict, train, model)
            except ValidationError as error:
                problems += mistakes(Train, error, f"models.{model.name}.train.")
        if problems:
            raise ValueError("; ".join(dict.fromkeys(problems)))
        return self

    def train_of(self, model: Model) -> Train:
        """The training section as it holds for one model: `train`, changed by the model's own `train`."""
        if not model.train:
            return self.train
        return Train.model_validate(merged(self.train.model_dump(), model.train, [Train]))

    def model(self, name: str) -> Model:
        """The model of that name, or an error that lists the names there are."""
        for problem in _unknown([name], [model.name for model in self.models], "model"):
            raise UserError(problem)
        return next(model for model in self.models if model.name == name)

    def outputs_of(self, model: Model) -> list[str]:
        """The classes of a model's output channels: all, or a specialist's one."""
        return self.data.class_names if model.target == "all" else [model.target]

    @property
    def blended_models(self) -> list[Model]:
        """The models that the blend may use, specialists too: those of `blend.models`, or all."""
        chosen = self.blend.models
        return [model for model in self.models if chosen is None or model.name in chosen]

    def dump(self) -> dict[str, Any]:
        """Every key with its value, defaults included, as `experiment.yaml` keeps them; not the machine's, `jobs`:
        every job has a device of its own, and none of it is the experiment."""
        return self.model_dump(mode="json", exclude={"redo", "jobs"})

    @property
    def images_at_once(self) -> int:
        """Images of one pass of prediction."""
        return max(1, self.predict.batch // self.jobs.split_batch)

    @property
    def member_count(self) -> int:
        return sum(self.folds.k + (model.folds == "each+all") for model in self.models) * len(self.seeds)


def load_experiment(path: str | Path, overrides: list[str] = ()) -> Experiment:
    """The checked experiment of a YAML file with `key=value` overrides; `UserError` lists everything wrong in it."""
    values = _read(Path(path), ())
    # Kinds first: `train.schedule.power=2 train.schedule.name=poly` means the same in either order.
    for override in sorted(overrides, key=lambda each: not _sets_kind(each.partition("=")[0].split("."))):
        _override(values, override)
    try:
        return Experiment.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path}: {'; '.join(mistakes(Experiment, error))}") from None


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as {"train.schedule.name": ...}; lists of named entries by name, other lists as they are."""
    keys: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, list) and value and all(isinstance(entry, dict) and "name" in entry for entry in value):
            by_name = {entry["name"]: entry for entry in value}
            # Two entries of one name (the same augmentation twice) keep their place in the list as the key.
            entries = by_name if len(by_name) == len(value) else {str(i): entry for i, entry in enumerate(value)}
            keys |= flat(entries, f"{prefix}{key}.")
            keys[f"{prefix}{key}"] = list(entries)  # the order matters too
        elif isinstance(value, dict) and value:
            keys |= flat(value, f"{prefix}{key}.")
        else:
            keys[f"{prefix}{key}"] = value
    return keys


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """A YAML file merged over the one that it extends."""
    if path.resolve() in seen:
        raise UserError(f"{path}: extends itself, through {', '.join(p.name for p in seen)}")
    try:
        values = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such experiment file; the ones that come along are in configs/") from None
    except ValueError as error:
        raise UserError(f"{path}: no good YAML: {error}") from None
    if not isinstance(values, dict):
        found = "nothing" if values is None else repr(values)[:60]
        raise UserError(f"{path}: expected keys and values, found {found}")
    parent = values.pop("extends", None)
    if parent is None:
        return values
    return merged(_read(path.parent / str(parent), (*seen, path.resolve())), values, [Experiment])


def _override(values: dict[str, Any], override: str) -> None:
    """Apply one `a.b.c=value` in place. Entries of named lists are reached by name or number: models.unet.arch."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        is_file = override.endswith((".yaml", ".yml"))
        hint = f"; an experiment is given by --config {override}" if is_file else ""
        raise UserError(f"{override!r}: expected key=value, as in train.epochs=3{hint}")
    try:
        value = read_yaml(text)
    except ValueError as error:
        raise UserError(f"{override!r}: the value is no good YAML: {error}") from None
    *parents, last = path.split(".")
    here: Any = values
    for depth, part in enumerate(parents):
        step = _entry(here, part) if isinstance(here, list) else here.get(part)
        if step is None and isinstance(here, dict):
            step = here[part] = {}
        if not isinstance(step, dict | list):
            known = [str(entry.get("name", i)) for i, entry in enumerate(here)] if isinstance(here, list) else []
            hint = nearest(part, known) if known else ""
            raise UserError(f"{override!r}: {'.'.join(parents[: depth + 1])} is no section of this experiment{hint}")
        here = step
    if isinstance(here, list):
        raise UserError(f"{override!r}: {'.'.join(parents)} is a list; give it whole, as in {'.'.join(parents)}=[...]")
    if _sets_kind(path.split(".")) and changes_kind(here, {"name": value}, _kinds_on(parents)):
        here.clear()  # keys of another kind
    here[last] = value


def _sets_kind(path: list[str]) -> bool:
    """Whether an override such as train.schedule.name=poly picks the kind of a section."""
    return path[-1] == "name" and len(_kinds_on(path[:-1])) > 1


def _kinds_on(path: list[str]) -> Kinds:
    """The classes of the section at a path of keys, list positions and entries' names."""
    kinds: Kinds = [Experiment]
    for part in path:
        if kinds == [Model] and part == "train":
            kinds = [Train]
        elif any(part in kind.model_fields for kind in kinds):
            kinds = kinds_at(kinds, part)
    return kinds


def _entry(entries: list[Any], part: str) -> Any:
    for i, entry in enumerate(entries):
        if part == str(i) or (isinstance(entry, dict) and entry.get("name") == part):
            return entry
    return None


def _unknown(names: list[str], known: list[str], what: str) -> list[str]:
    return [f"{what}: unknown {name!r}{nearest(name, known)}" for name in names if name not in known]


def _misfits_of_classes(train: Train, classes: list[str], model: Model) -> list[str]:
    """Class names in a training section that the data set does not have, and weights that some class lacks."""
    problems = []
    if isinstance(train.sampler, ClassTimes):
        problems += _unknown([*train.sampler.times], classes, "train.sampler.times")
    for augmentation in train.augment:
        if augmentation.name == "copy_paste":
            problems += _unknown(augmentation.params["classes"], classes, "train.augment.copy_paste.params.classes")
    if isinstance(train.class_weights, FixedWeights):
        wanted = classes if model.target == "all" else ["other", model.target]
        problems += _unknown([*train.class_weights.weights], wanted, "train.class_weights.weights")
        lacking = [name for name in wanted if name not in train.class_weights.weights]
        if lacking:
            problems.append(f"train.class_weights.weights of model {model.name}: no weight for {listed(lacking)}")
    return problems


def _misfits_of_weights(predict: Predict, train: Train, model: Model) -> list[str]:
    """Whether training leaves the weights that are to predict."""
    there = {"last": True, "best": train.validate_every > 0, "ema": train.ema is not None, "swa": train.swa is not None}
    needs = {"best": "validate_every 1 or more", "ema": "ema: {decay: ...}", "swa": "swa: {start_epoch: ..., lr: ...}"}
    absent = [kind for kind in predict.weight_kinds if not there[kind]]
    return [f"predict.weights {kind} needs train.{needs[kind]} (model {model.name})" for kind in absent]
