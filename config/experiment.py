"""Read an experiment: YAML with `extends:`, then `key=value` overrides, then one check that names every mistake."""

import difflib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from base.errors import UserError
from config.base import Section
from config.data import Data, Folds
from config.ensemble import Blend, Jobs, Predict, Submission
from config.training import Model, Seeds, Train


class Experiment(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    """Folder under runs_dir, and the zip's name."""
    runs_dir: str = "runs"
    """Where results are kept; relative to the current folder."""
    zips_dir: str = "submissions/zips"
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
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"models: name {', '.join(twice)} is given twice")
        if self.blend.models is not None:
            _must_be_known(self.blend.models, names, "blend.models")
        for model in self.models:
            if model.target != "all":
                _must_be_known([model.target], [c.name for c in self.data.classes], f"models.{model.name}.target")
            self.train_of(model)
        return self

    def train_of(self, model: Model) -> Train:
        """The training section as it holds for one model: `train`, changed by the model's own `train`."""
        if not model.train:
            return self.train
        return Train.model_validate(_merged(self.train.model_dump(), model.train))

    def model(self, name: str) -> Model:
        """The model of that name, or an error that lists the names there are."""
        _must_be_known([name], [model.name for model in self.models], "model")
        return next(model for model in self.models if model.name == name)

    def dump(self) -> dict[str, Any]:
        """Every key with its value, defaults included, as `experiment.yaml` keeps them."""
        return self.model_dump(mode="json", exclude={"redo"})


def nearest(name: str, known: list[str]) -> str:
    """ "; did you mean X?" for a name that nearly is one of `known`, else the list of them."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}"


def load_experiment(path: str | Path, overrides: list[str] = ()) -> Experiment:
    """The checked experiment of a YAML file with `key=value` overrides; `UserError` lists everything wrong in it."""
    values = _read(Path(path), ())
    for override in overrides:
        _override(values, override)
    try:
        return Experiment.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path}: {'; '.join(_explain(Experiment, e) for e in error.errors())}") from None


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
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such experiment file; the ones that come along are in configs/") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected keys and values, found {type(values).__name__}")
    parent = values.pop("extends", None)
    if parent is None:
        return values
    return _merged(_read(path.parent / str(parent), (*seen, path.resolve())), values)


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `under`: sections merge, everything else (lists too) is replaced."""
    merged = dict(under)
    for key, value in over.items():
        both_sections = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both_sections else value
    return merged


def _override(values: dict[str, Any], override: str) -> None:
    """Apply one `a.b.c=value` in place. Entries of named lists are reached by name or number: models.unet.arch."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UserError(f"{override!r}: expected key=value, as in train.epochs=3")
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        raise UserError(f"{override!r}: the value is not YAML") from None
    *parents, last = path.split(".")
    here: Any = values
    for depth, part in enumerate(parents):
        step = _entry(here, part) if isinstance(here, list) else here.get(part)
        if step is None and isinstance(here, dict):
            step = here[part] = {}
        if not isinstance(step, dict | list):
            raise UserError(f"{override!r}: {'.'.join(parents[: depth + 1])} is no section of this experiment")
        here = step
    if isinstance(here, list):
        raise UserError(f"{override!r}: {'.'.join(parents)} is a list; give it whole, as in {'.'.join(parents)}=[...]")
    here[last] = value


def _entry(entries: list[Any], part: str) -> Any:
    for i, entry in enumerate(entries):
        if part == str(i) or (isinstance(entry, dict) and entry.get("name") == part):
            return entry
    return None


def _must_be_known(names: list[str], known: list[str], what: str) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{what}: unknown {name!r}{nearest(name, known)}")


def _explain(section: type[BaseModel], error: Any) -> str:
    """One mistake found by pydantic, as "train.optmizer: unknown key; did you mean train.optimizer?"."""
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        *parents, last = error["loc"]
        known = _keys_at(section, parents)
        close = difflib.get_close_matches(str(last), known, n=1, cutoff=0.5)
        prefix = "".join(f"{part}." for part in parents)
        return f"{path}: unknown key" + (f"; did you mean {prefix}{close[0]}?" if close else nearest(str(last), known))
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{path}: missing"
    found = "" if error["type"] == "value_error" else f"{error['input']!r}: "
    return f"{path}: {found}{message}" if path else message


def _keys_at(section: type[BaseModel], parents: list[Any]) -> list[str]:
    """The field names of the section at a path of keys and list positions."""
    for part in parents:
        if isinstance(part, str) and part in section.model_fields:
            section = _section_in(section.model_fields[part].annotation) or section
    return list(section.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section class inside an annotation such as `list[Model]` or `Landscape | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if found := _section_in(inner):
            return found
    return None
