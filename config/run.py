"""The folder of one experiment: where each result lies, and on which keys and files it depends."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

from base.files import hash_rows
from base.stamps import FolderResult, hash_files
from config.experiment import PACKS, SCANS, Experiment, flat
from config.training import Model, Train

# Keys of `data` that change no result: where the data lies, and test labels, which nothing is made from.
PLACE_KEYS = {"data.root", "data.test_masks"}
# Patterns of keys of `data` that change no member: which files there are, what is drawn and how masks are written, all
# of which the tile table says by content; and what colours pictures have.
NO_MEMBERS_KEYS = (
    "data.train_images",
    "data.train_masks",
    "data.test_images",
    "data.mask_values",
    "data.ignore_*",
    "data.generate*",
    "data.classes.*.color",
)

# Of a run's folder, where no experiment is at hand: see `Run.jobs_dir` and `Run.run_lock`.
JOBS, RUN_LOCK = "jobs", "run.lock"


def experiment_path(folder: Path) -> Path:
    """Where the folder of a run says what experiment it is of."""
    return folder / "experiment.yaml"


def fold_name(fold: int | None) -> str:
    """A member's fold as `--fold` takes it."""
    return "all" if fold is None else str(fold)


@dataclass(frozen=True)
class Member:
    """One trained network: (model, fold, seed). Its target, all classes or one, is the model's."""

    model: Model
    fold: int | None
    """The fold that it never sees; None: it is trained on every tile."""
    seed: int

    def __hash__(self) -> int:  # names are unique in an experiment; a Model holds dicts, which have no hash
        return hash((self.model.name, self.fold, self.seed))

    @property
    def fold_name(self) -> str:
        return fold_name(self.fold)

    def __str__(self) -> str:
        return f"{self.model.name}/{'all' if self.fold is None else f'fold{self.fold}'}-seed{self.seed}"


@dataclass(frozen=True)
class Run:
    """Paths and stage keys of one experiment. Creating it touches nothing on disk."""

    experiment: Experiment

    @cached_property
    def dir(self) -> Path:
        return Path(self.experiment.runs_dir) / self.experiment.name

    @property
    def tiles_csv(self) -> Path:
        return self.dir / "tiles.csv"

    @property
    def folds_csv(self) -> Path:
        return self.dir / "folds.csv"

    @property
    def blend_dir(self) -> Path:
        return self.dir / "blend" / self.experiment.blend.name

    @property
    def oof_csv(self) -> Path:
        """The OOF table of this blend and its models."""
        return self.blend_dir / "oof.csv"

    @property
    def last_oof_csv(self) -> Path:
        """A copy of that of the blend that was scored last: where people look, and nothing else reads."""
        return self.dir / "oof.csv"

    @property
    def zip_path(self) -> Path:
        blend = self.experiment.blend.name
        stem = self.experiment.name if blend == "blend" else f"{self.experiment.name}.{blend}"
        return Path(self.experiment.zips_dir) / f"{stem}.zip"

    @property
    def packs_dir(self) -> Path:
        return Path(self.experiment.runs_dir) / PACKS

    @property
    def scans_dir(self) -> Path:
        return Path(self.experiment.runs_dir) / SCANS

    def member_dir(self, member: Member) -> Path:
        return self.dir / "members" / str(member)

    @property
    def jobs_dir(self) -> Path:
        """Logs, states and locks of the run's grid."""
        return self.dir / JOBS

    @property
    def jobs_csv(self) -> Path:
        """A row per attempt of a job."""
        return self.dir / "jobs.csv"

    @property
    def run_lock(self) -> Path:
        """Held by whoever makes the run's members."""
        return self.jobs_dir / RUN_LOCK

    def member_lock(self, member: Member) -> Path:
        """Held by whoever trains the member; outside its folder, which `redo=stale` removes."""
        return self.jobs_dir / "locks" / f"{member}.lock"

    def mean_lock(self, model: Model) -> Path:
        """Held by whoever writes the model's test store."""
        return self.jobs_dir / "locks" / model.name / "mean.lock"

    @property
    def variant(self) -> str:
        """Stores made with other weights or views live side by side under this name."""
        return self.experiment.predict.variant

    def oof_store(self, member: Member) -> Path:
        """Probabilities of the member's held-out fold."""
        return self.member_dir(member) / f"oof-{self.variant}"

    def test_part(self, member: Member) -> Path:
        """The member's own test probabilities; removed once `test_store` holds the mean over the model's members."""
        return self.member_dir(member) / f"test-{self.variant}"

    def test_excerpt(self, member: Member) -> Path:
        """Some tiles of `test_part`, which stay: what is lost in the mean is asked of them."""
        return self.member_dir(member) / f"test-excerpt-{self.variant}"

    def test_store(self, model: Model) -> Path:
        """Test probabilities of a model: the mean over its folds and seeds."""
        return self.dir / "test" / f"{model.name}-{self.variant}"

    def members(self, model: Model | None = None) -> Iterator[Member]:
        """All members of the experiment, or of one model, in the order of the tables."""
        for each in [model] if model else self.experiment.models:
            for seed in self.experiment.seeds:
                for fold in range(self.experiment.folds.k):
                    yield Member(each, fold, seed)
                if each.folds == "each+all":
                    yield Member(each, None, seed)

    def oof_members(self, models: Sequence[Model]) -> list[Member]:
        """Those members of the models that have OOF predictions: not the ones that are trained on every tile."""
        return [member for model in models for member in self.members(model) if member.fold is not None]

    @cached_property
    def data_keys(self) -> dict[str, Any]:
        keys = flat({"data": self.experiment.dump()["data"]})
        return {key: value for key, value in keys.items() if key not in PLACE_KEYS}

    @cached_property
    def folds_keys(self) -> dict[str, Any]:
        keys = flat({"folds": self.experiment.dump()["folds"]})
        del keys["folds.allow"]  # it lets a stage go on, and changes no result
        return self.data_keys | keys

    def member_keys(self, model: Model) -> dict[str, Any]:
        train: Train = self.experiment.train_of(model)
        own = model.model_dump(mode="json", exclude={"train", "folds"})  # more members change none
        recipe = train.model_dump(mode="json", exclude={"tensorboard"})  # another picture of the same training
        if recipe["batch_statistics"] == "running":  # as all members were before there was a choice
            del recipe["batch_statistics"]
        tiles = {
            key: value
            for key, value in self.folds_keys.items()
            if not any(fnmatch(key, pattern) for pattern in NO_MEMBERS_KEYS)
        }
        return tiles | flat({"models": {model.name: own}, "train": recipe})

    @property
    def blend_keys(self) -> dict[str, Any]:
        values = self.experiment.dump()
        # The variant names whatever changes a probability: predict.batch does not.
        return {"predict": self.variant} | flat({section: values[section] for section in ("blend", "submission")})

    def member_inputs(self) -> dict[str, str]:
        """Hashes of what every member depends on: a new test set retrains none."""
        return self._tiles_input("train") | hash_files([self.folds_csv])

    def test_inputs(self) -> dict[str, str]:
        """Hashes of what test predictions depend on, beside their members."""
        return self._tiles_input("test")

    def _tiles_input(self, split: str) -> dict[str, str]:
        path = self.tiles_csv
        if not path.exists():
            return {}
        return {f"{path.name}: {split}": hash_rows(path, "split", split, without=("image", "mask"))}

    def member_result(self, member: Member) -> FolderResult:
        return FolderResult(self.member_dir(member), self.member_keys(member.model), self.member_inputs())
