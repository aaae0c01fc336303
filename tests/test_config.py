"""Reading experiments: every mistake is named, with its path and the nearest known name, before anything is run."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from base.errors import UserError
from config import Experiment, load_experiment
from config.experiment import flat
from config.training import Train
from tests.tiny import tiny_values, write_config

CONFIGS = sorted(Path("configs").glob("*.yaml"))


@pytest.fixture
def base(tmp_path):
    """A valid experiment file."""
    return write_config(tmp_path / "base.yaml", tiny_values(tmp_path / "data", tmp_path))


def child(base, values, name="child.yaml"):
    return write_config(base.parent / name, {"extends": "base.yaml", **values})


def refusal(path, *overrides):
    with pytest.raises(UserError) as error:
        load_experiment(path, list(overrides))
    return str(error.value)


# --- What comes along


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_experiment_that_comes_along_survives_a_round_trip(path, tmp_path):
    experiment = load_experiment(path)
    written = write_config(tmp_path / "experiment.yaml", experiment.dump())
    assert load_experiment(written) == experiment
    assert experiment.name == path.stem


def test_the_usual_keys_are_a_valid_experiment():
    assert Train() == Train.model_validate(Train().model_dump())
    assert Train() == Train.model_validate(Train().model_dump(mode="json"))


# --- Mistakes


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.optmizer=adamw", "train.optmizer: unknown key; did you mean train.optimizer?"),
        ("trian.epochs=3", "trian: unknown key; did you mean train?"),
        ("train.schedule.minlr=1", "train.schedule.minlr: unknown key; did you mean train.schedule.min_lr?"),
        ("train.precision=bf61", "train.precision: unknown 'bf61'; did you mean bf16?"),
        ("train.schedule.name=ploy", "train.schedule.name: unknown 'ploy'; did you mean poly?"),
        ("data.bands=[red, green, red, nir]", "data: bands: red is given twice"),
        ("data.train_masks=train/{name}/{name}.png", "must hold {name} once, and no other braces"),
        ("data.train_masks=train/{name}_{id}.png", "must hold {name} once, and no other braces"),
        ("data.test_masks='truth/{name:3}.png'", "must hold {name} once, and no other braces"),
        ("data.train_masks='train/{name.png'", "must hold {name} once, and no other braces"),
        ("data.train_images='train/{name}*.tif'", "must have no wildcard beside {name}, and no ** after it"),
        ("data.test_images='test/{name}/**/image.tif'", "must have no wildcard beside {name}, and no ** after it"),
        ("data.train_images='train/{id}.tif'", "must hold {name} once, and no other braces"),
        ("data.train_images='train/*.png'", "train_images and train_masks match the same files, train/*.png"),
        ("data.ignore_color=[1, 2, 3]", "ignore_color is for masks of colours"),
        ("data.classes.bare.name=group", "classes: name group is taken: by a column of tables"),
        ("data.classes.bare.name=miou", "classes: name miou is taken: by a column of tables"),
        ("data.classes.bare.name=ships", "classes: name ships is taken: by a column of tables"),
        ("data.classes.bare.name=difference", "classes: name difference is taken: by a column of tables"),
        ("data.classes.bare.name=all", "classes: name all is taken: by a column of tables"),
        ("train.schedule.name=cosine_restarts", "train.schedule.t_0: missing"),
        ("train.schedule.name=multistep", "train.schedule.milestones: missing"),
        ("train.schedule.name=noam", "train.schedule.warmup_epochs: missing"),
        ("train.schedule.name=plateau", "train: schedule plateau needs the validation score: set validate_every"),
        ("train.schedule.warmup_epochs=2", "train: schedule.warmup_epochs 2 must be below epochs 2"),
        ("train.schedule.min_lr=1", "train: schedule.min_lr 1 must not be above lr 0.001"),
        ("train.schedule={name: multistep, milestones: [1, 5]}", "train: schedule.milestones [1.0, 5.0] must be below"),
        ("train.schedule={name: multistep, milestones: [1, 1]}", "train: schedule.milestones [1.0, 1.0] must rise"),
        ("train.loss=[{name: dise}]", "train.loss.0.name: unknown 'dise'; did you mean dice?"),
        ("train.loss=[{weight: 2}]", "train.loss.0.name: missing"),
        ("train.loss=[{name: dice, label_smoothing: 0.1}]", "train.loss.0.label_smoothing: unknown key"),
        ("train.loss=[]", "train.loss: []: List should have at least 1 item"),
        ("train.optimizer.name=adamm", "train.optimizer.name: unknown 'adamm'; did you mean adamw?"),
        ("train.optimizer={name: sgd, betas: [0.9, 0.99]}", "train.optimizer.betas: unknown key"),
        ("train.optimizer={name: sgd, momentum: 0}", "train.optimizer: nesterov needs a momentum above 0"),
        ("train.class_weights.name=inverse", "train.class_weights.name: unknown 'inverse'; did you mean log_inverse?"),
        ("train.class_weights.name=effective_number", "train.class_weights.beta: missing"),
        ("train.sampler.name=repeat_factor", "train.sampler.threshold: missing"),
        ("train.sampler={name: class_times, times: {forst: 3}}", "unknown 'forst'; did you mean forest?"),
        ("train.class_weights={name: fixed, weights: {forest: 3}}", "no weight for field, bare"),
        ("train.swa.start_epoch=1", "train.swa.lr: missing"),
        ("train.swa={start_epoch: 2, lr: 1.0e-3}", "train: swa.start_epoch 2 must be below epochs 2"),
        ("train.ema.decay=1.5", "train.ema.decay: 1.5: Input should be less than 1"),
        ("train.accumulate.reduce=men", "train.accumulate.reduce: unknown 'men'; did you mean mean?"),
        ("train.augment=[{name: mixap}]", "train.augment.0: unknown augmentation 'mixap'; did you mean mixup?"),
        ("train.augment=[{name: noise, params: {std_rang: 1}}]", "unknown argument 'std_rang'; did you mean std_"),
        ("train.augment=[{name: d4, params: {angle: 1}}]", "d4: unknown argument 'angle'; it takes none"),
        ("train.augment=[{name: mixup}, {name: d4}]", "train: augment: mixup gives a tile two masks, so it comes last"),
        ("train.augment=[{name: copy_paste}]", "copy_paste: params.classes names the classes"),
        ("train.augment=[{name: copy_paste, params: {classes: bare}}]", "copy_paste: params.classes names the classes"),
        ("seeds=[0, 1, 0]", "seeds: one is given twice"),
        ("seeds=[-1]", "seeds.0: -1: Input should be greater than or equal to 0"),
        ("folds.seed=-1", "folds.seed: -1: Input should be greater than or equal to 0"),
        ("folds.gap_tiles=2", "folds: gap_tiles is for groups georeference; groups is column"),
        ("folds={groups: none, block_tiles: 4}", "folds: block_tiles cuts groups into blocks; groups is none"),
        ("jobs.devices=[cuda, 'cuda:0']", "devices: one is given twice"),
        ("train.augment=[{name: copy_paste, params: {classes: [bear]}}]", "unknown 'bear'; did you mean bare?"),
        ("models.unet.target=forst", "models.unet.target: unknown 'forst'; did you mean forest?"),
        ("predict.tta=flps", "predict.tta: unknown 'flps'; did you mean flips?"),
        ("predict.weights=ema", "predict.weights ema needs train.ema"),
        ("blend.models=[unett]", "blend.models: unknown 'unett'; did you mean unet?"),
        ("blend.models=[]", "blend.models: []: List should have at least 1 item"),
        ("models.unet.target=forest", "models: only specialists are blended (unet); a blend needs a model"),
        ("seeds=[100000000000000000000000]", "seeds.0: 100000000000000000000000: Input should be less than 2147483648"),
        ("name=..", "name: '..': String should match pattern"),
        ("name=.hidden", "name: '.hidden': String should match pattern"),
        ("blend.name=..", "blend.name: '..': String should match pattern"),
        ("models.unet.name=-x", "models.0.name: '-x': String should match pattern"),
        ("name=packs", "name packs: a folder that all runs share is called so"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_path(base, override, message):
    assert message in refusal(base, override)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("data.ignore_label=0", "ignore_label is for masks of labels"),
        ("data.ignore_color=[0, 128, 0]", "mask_values colors: (0, 128, 0) is given twice"),
        ("data.classes.bare.color=[0, 128, 0]", "mask_values colors: (0, 128, 0) is given twice"),
    ],
)
def test_masks_of_colours_have_a_colour_for_each_class(base, key, message):
    load_experiment(base, ["data.mask_values=colors", "data.ignore_color=[9, 9, 9]"])
    assert message in refusal(base, "data.mask_values=colors", key)


def test_all_mistakes_are_listed_at_once(base):
    message = refusal(
        base, "train.lr=-1", "train.loss=[{name: dise}]", "predict.tta=all", "name=a b", "data.bandz=[red]"
    )
    for path in ("train.lr", "train.loss.0.name", "predict.tta", "name", "data.bandz"):
        assert f"{path}: " in message
        assert message.count(f" {path}: ") == 1
    assert message.startswith(f"{base}: ")
    together = refusal(base, "train.swa={start_epoch: 9, lr: 1.0}", "train.schedule={name: multistep, milestones: [7]}")
    assert "swa.start_epoch" in together
    assert "milestones" in together


def test_mistakes_in_a_models_own_train_have_its_name(base):
    models = [
        {"name": "a", "train": {"epohs": 3, "schedule": {"name": "multistep"}}},
        {"name": "b", "target": "forst", "train": {"loss": [{"name": "ce", "gamma": 1}]}},
    ]
    message = refusal(child(base, {"models": models}))
    assert "models.a.train.epohs: unknown key; did you mean models.a.train.epochs?" in message
    assert "models.a.train.schedule.milestones: missing" in message
    assert "models.b.train.loss.0.gamma: unknown key" in message
    assert "models.b.target: unknown 'forst'" in message


def test_a_section_that_is_no_section(base):
    assert "train.schedule: 'poly': expected keys, as in {name: ...}" in refusal(base, "train.schedule=poly")


def test_values_are_not_read_as_another_kind(base):
    assert "train.epochs" in refusal(base, "train.epochs=2.5")
    assert "train.epochs" in refusal(base, "train.epochs=many")


# --- Kinds


def test_a_section_without_a_name_changes_the_usual_kind(base):
    assert load_experiment(base, ["train.schedule={min_lr: 1.0e-5}"]).train.schedule.name == "warmup_cosine"
    assert load_experiment(base, ["train.optimizer={betas: [0.8, 0.9]}"]).train.optimizer.betas == (0.8, 0.9)


def test_an_override_of_the_kind_leaves_no_key_of_the_old_one(base):
    path = child(base, {"train": {"schedule": {"name": "cosine_restarts", "t_0": 1}}})
    assert load_experiment(path).train.schedule.t_0 == 1
    for overrides in (
        ["train.schedule.name=poly", "train.schedule.power=2"],
        ["train.schedule.power=2", "train.schedule.name=poly"],
    ):
        schedule = load_experiment(path, overrides).train.schedule
        assert (schedule.name, schedule.power) == ("poly", 2)
    assert load_experiment(path, ["train.schedule.name=cosine_restarts"]).train.schedule.t_0 == 1


def test_a_child_that_names_another_kind_replaces_the_section_and_else_merges(base):
    parent = child(base, {"train": {"schedule": {"name": "cosine_restarts", "t_0": 1, "t_mult": 3}}}, "base2.yaml")
    values = {"extends": parent.name, "train": {"schedule": {"t_0": 2}}}
    merged = load_experiment(write_config(base.parent / "same.yaml", values)).train.schedule
    assert (merged.t_0, merged.t_mult) == (2, 3)
    values["train"] = {"schedule": {"name": "constant"}}
    assert load_experiment(write_config(base.parent / "other.yaml", values)).train.schedule.name == "constant"


def test_a_models_own_train_does_the_same(base):
    models = [
        {"name": "a", "train": {"schedule": {"name": "multistep", "milestones": [1]}, "optimizer": {"name": "sgd"}}},
        {"name": "b", "train": {"schedule": {"t_mult": 3}, "epochs": 1}},
        {"name": "c"},
    ]
    train = {"schedule": {"name": "cosine_restarts", "t_0": 1}, "optimizer": {"betas": [0.5, 0.6]}}
    experiment = load_experiment(child(base, {"models": models, "train": train}))
    a, b, c = (experiment.train_of(model) for model in experiment.models)
    assert (a.schedule.milestones, a.optimizer.momentum) == ([1], 0.9)
    assert (b.schedule.t_0, b.schedule.t_mult, b.epochs, b.optimizer.betas) == (1, 3, 1, (0.5, 0.6))
    assert c == experiment.train


def test_a_kind_in_a_models_own_train_can_be_overridden(base):
    models = [{"name": "a", "train": {"schedule": {"name": "multistep", "milestones": [1]}}}]
    path = child(base, {"models": models})
    experiment = load_experiment(path, ["models.a.train.schedule.name=poly", "models.a.train.schedule.power=3"])
    assert experiment.train_of(experiment.models[0]).schedule.power == 3


def test_the_name_of_an_experiment_or_a_blend_is_no_kind(base):
    path = child(base, {"name": "other", "blend": {"decision": "argmax"}})
    experiment = load_experiment(path, ["blend.name=second"])
    assert (experiment.name, experiment.blend.decision, experiment.blend.name) == ("other", "argmax", "second")
    assert experiment.train.batch == 3


# --- extends


def test_extends_merges_sections_and_replaces_lists(base):
    path = child(base, {"train": {"lr": 0.01, "augment": []}, "seeds": [1, 2]})
    experiment, parent = load_experiment(path), load_experiment(base)
    assert (experiment.train.lr, experiment.train.augment, experiment.seeds) == (0.01, [], [1, 2])
    assert experiment.train.batch == parent.train.batch
    assert experiment.data == parent.data


def test_extends_goes_from_file_to_file_relative_to_each(base):
    middle = write_config(base.parent / "sub" / "middle.yaml", {"extends": "../base.yaml", "train": {"lr": 0.5}})
    path = write_config(base.parent / "sub" / "leaf.yaml", {"extends": middle.name, "train": {"batch": 5}})
    train = load_experiment(path).train
    assert (train.lr, train.batch, train.epochs) == (0.5, 5, 2)


def test_extends_in_a_circle_and_from_nowhere_is_refused(base):
    write_config(base.parent / "a.yaml", {"extends": "b.yaml"})
    path = write_config(base.parent / "b.yaml", {"extends": "a.yaml"})
    assert "extends itself" in refusal(path)
    path = write_config(base.parent / "c.yaml", {"extends": "nowhere.yaml"})
    assert "nowhere.yaml: no such experiment file" in refusal(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "no good YAML: "),
        ("- 1", "expected keys and values, found [1]"),
        ("", "expected keys and values, found nothing"),
        ("name: a\nname: b", "key name is given twice in line 2, column 1"),
        ("data: {root: a, root: a}", "key root is given twice in line 1, column 17"),
        (
            "data:\n  train_images: */images/*.tif",
            "column 18; a value that begins with * or { stands in quotes",
        ),
        (
            "data:\n  train_masks: {name}_mask.png",
            "column 22; a value that begins with * or { stands in quotes",
        ),
    ],
)
def test_a_file_that_is_no_experiment(tmp_path, text, message):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    assert message in refusal(path)


# --- Overrides


def test_overrides_reach_named_and_numbered_entries(base):
    experiment = load_experiment(
        base, ["models.unet.arch=FPN", "models.0.encoder=resnet34", "train.ema.decay=0.9", "data.test_images="]
    )
    assert (experiment.models[0].arch, experiment.models[0].encoder) == ("FPN", "resnet34")
    assert experiment.train.ema.decay == 0.9
    assert experiment.data.test_images is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs", "expected key=value"),
        ("mine.yaml", "an experiment is given by --config mine.yaml"),
        ("=3", "expected key=value"),
        ("train.epochs=[1", "the value is no good YAML: expected"),
        ("data.train_images=*.tif", "a value that begins with * or { stands in quotes: '*.tif'"),
        ("models.nobody.arch=FPN", "models.nobody is no section of this experiment; known: unet"),
        ("train=3", "train: 3: expected keys, as in {epochs: ...}"),
        ("models.unet=3", "models is a list; give it whole"),
        ("name.first=a", "name is no section of this experiment"),
    ],
)
def test_an_override_that_leads_nowhere(base, override, message):
    assert message in refusal(base, override)


def test_a_home_folder_may_be_short(base, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    experiment = load_experiment(base, ["data.root=~/x", "runs_dir=~/runs", "zips_dir=z~"])
    assert experiment.data.root == f"{tmp_path}/x"
    assert (experiment.runs_dir, experiment.zips_dir) == (f"{tmp_path}/runs", "z~")


# --- flat


def test_flat_names_every_value_once(base):
    keys = flat(load_experiment(base).dump())
    assert keys["train.schedule.name"] == "warmup_cosine"
    assert keys["models.unet.arch"] == "Unet"
    assert keys["models"] == ["unet"]
    assert keys["data.classes.bare.label"] == 4
    assert keys["train.loss.dice.weight"] == 1.0
    assert not any(isinstance(value, dict) and value for value in keys.values())


def test_flat_keeps_entries_of_one_name_apart():
    entries = [{"name": "noise", "p": 0.1}, {"name": "noise", "p": 0.2}]
    assert flat({"augment": entries}) == {
        "augment.0.name": "noise",
        "augment.0.p": 0.1,
        "augment.1.name": "noise",
        "augment.1.p": 0.2,
        "augment": ["0", "1"],
    }


def test_flat_sees_every_change(base):
    before = flat(load_experiment(base).dump())
    for override, key in (
        ("train.optimizer.name=sgd", "train.optimizer.name"),
        ("train.loss=[{name: dice}, {name: ce}]", "train.loss"),
        ("train.augment=[]", "train.augment"),
        ("train.ema.decay=0.9", "train.ema.decay"),
    ):
        after = flat(load_experiment(base, [override]).dump())
        assert before.get(key) != after.get(key), key


def test_an_experiment_made_in_python_is_checked_too(tmp_path):
    values = tiny_values(tmp_path, tmp_path)
    assert Experiment.model_validate(values).train.epochs == 2
    values["models"][0]["train"] = {"epohs": 1}
    with pytest.raises(ValidationError, match=r"models\.unet\.train\.epohs: unknown key"):
        Experiment.model_validate(values)
