"""Can every network of the experiment be built? Asked before a tile is read, so that a misspelt name costs nothing.

Networks are built without memory for their parameters where that can be, and with local encoder weights if they have
any; what smp would download is not asked for.
"""

import torch
from torch import nn

from base.command import run as run_command
from base.command import stage_parser
from base.errors import UserError, refuse_all
from config import Experiment, Run, load_experiment, refuse_unwritable, untrained_models
from config.training import Model
from models.zoo import build_model


def count_parameters(model: Model, bands: int, num_classes: int) -> int:
    """Parameters of a model's network.

    Raises:
        UserError: it cannot be built, or its local encoder weights do not fit.
    """
    if model.encoder_weights == "imagenet":
        model = model.model_copy(update={"encoder_weights": None})
    network = _without_memory(model, bands, num_classes) or build_model(model, bands, num_classes)
    return sum(parameter.numel() for parameter in network.parameters())


def _without_memory(model: Model, bands: int, num_classes: int) -> nn.Module | None:
    """The network without memory for its parameters; None where that cannot be."""
    if model.encoder_weights:  # they need a place to go
        return None
    try:
        with torch.device("meta"):
            return build_model(model, bands, num_classes)
    except RuntimeError:  # smp's mit encoders look at values while they are built
        return None


def check_models(experiment: Experiment, models: list[Model]) -> dict[str, int]:
    """Model -> parameters.

    Raises:
        UserError: lists every model that cannot be built.
    """
    counts, problems = {}, []
    for model in models:
        try:
            outputs = len(experiment.outputs_of(model))
            counts[model.name] = count_parameters(model, experiment.data.input_channels, outputs)
        except UserError as error:
            problems.append(str(error))
    refuse_all("networks that cannot be built", problems)
    return counts


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("models.check", __doc__, "models.upernet_r18.encoder=tu-convnext_tiny")
    args = parser.parse_intermixed_args(argv)
    experiment = load_experiment(args.config, args.overrides)
    refuse_unwritable(experiment)
    counts = check_models(experiment, untrained_models(Run(experiment)))
    if counts:
        print("networks: " + ", ".join(f"{name} {count / 1e6:.1f} M parameters" for name, count in counts.items()))


if __name__ == "__main__":
    run_command(main)
