"""Networks that cannot be built are named before a tile is read, all at once."""

import pytest
import torch
from safetensors.torch import save_file

from base.errors import UserError
from config import Run, load_experiment, untrained_models
from models.check import check_models, main
from models.zoo import build_model
from tests.tiny import SMALL_UNET, tiny_values, write_config


def experiment_of(tmp_path, *models: dict):
    values = tiny_values(tmp_path / "data", tmp_path) | {"models": list(models)}
    return load_experiment(write_config(tmp_path / "tiny.yaml", values))


@pytest.mark.parametrize(
    "model",
    [
        {"name": "a", "encoder": "resnet18", "params": SMALL_UNET},
        {"name": "b", "arch": "FPN", "encoder": "tu-regnety_002", "target": "bare"},
        {"name": "c", "arch": "Segformer", "encoder": "mit_b0"},  # cannot be built without memory
    ],
    ids=lambda model: model["name"],
)
def test_parameters_are_those_of_the_network_that_is_trained(tmp_path, model):
    experiment = experiment_of(tmp_path, model, {"name": "all"})
    asked = experiment.models[:1]
    built = build_model(asked[0], 4, 1 if "target" in model else 3)
    assert check_models(experiment, asked) == {model["name"]: sum(p.numel() for p in built.parameters())}


def test_a_network_sees_derived_bands_too_and_a_specialist_says_one_class(tmp_path):
    experiment = experiment_of(tmp_path, {"name": "all"}, {"name": "of_bare", "target": "bare"})
    data = experiment.data.model_copy(update={"derived": ["ndvi"]})
    experiment = experiment.model_copy(update={"data": data})
    of_all, of_one = (experiment.outputs_of(model) for model in experiment.models)
    assert (of_all, of_one) == (["field", "forest", "bare"], ["bare"])
    network = build_model(experiment.models[0], 5, 3)
    assert check_models(experiment, experiment.models[:1]) == {"all": sum(p.numel() for p in network.parameters())}


def test_all_that_cannot_be_built_are_named_at_once(tmp_path):
    half = build_model(experiment_of(tmp_path, {"name": "a"}).models[0], 4, 3).encoder.state_dict()
    save_file(dict(list(half.items())[5:]), tmp_path / "half.safetensors")
    models = (
        {"name": "good", "encoder": "resnet18"},
        {"name": "arch", "arch": "Unett"},
        {"name": "encoder", "encoder": "resnet81"},
        {"name": "both", "arch": "unett", "encoder": "RESNET34"},
        {"name": "params", "params": {"decoder_chanels": [1]}},
        {"name": "depth", "params": {"encoder_depth": 9}},
        {"name": "half", "encoder_weights": str(tmp_path / "half.safetensors")},
        {"name": "none", "encoder_weights": str(tmp_path / "none.pth")},
    )
    experiment = experiment_of(tmp_path, *models)
    with pytest.raises(UserError) as refused:
        check_models(experiment, experiment.models)
    for said in (
        "model arch: unknown arch 'Unett'; did you mean Unet?",
        "model encoder: unknown encoder 'resnet81'; did you mean resnet18?",
        "model both: unknown arch 'unett'; did you mean Unet?; unknown encoder 'RESNET34'; did you mean resnet34?",
        "model params: Unet takes no params 'decoder_chanels'; did you mean decoder_channels?",
        "model depth: Unet with resnet18",
        "half.safetensors: ",
        "none.pth: no such file",
    ):
        assert said in str(refused.value)
    assert "good" not in str(refused.value)


def test_local_weights_that_fit_pass(tmp_path):
    encoder = build_model(experiment_of(tmp_path, {"name": "a"}).models[0], 3, 3).encoder
    torch.save(encoder.state_dict(), tmp_path / "whole.pth")
    experiment = experiment_of(tmp_path, {"name": "a", "encoder_weights": str(tmp_path / "whole.pth")})
    assert check_models(experiment, experiment.models)["a"] > 0


def test_finished_models_are_not_asked_again(tmp_path, capsys):
    experiment = experiment_of(
        tmp_path, {"name": "done", "encoder": "resnet81"}, {"name": "half", "params": SMALL_UNET}
    )
    run = Run(experiment)
    for member in [*run.members(experiment.models[0]), *list(run.members(experiment.models[1]))[:2]]:
        folder = run.member_dir(member)
        folder.mkdir(parents=True)
        (folder / "weights").write_text("weights")
        run.member_result(member).finish([folder / "weights"])
    assert [model.name for model in untrained_models(run)] == ["half"]
    main(["--config", str(tmp_path / "tiny.yaml")])
    assert capsys.readouterr().out.startswith("networks: half ")
