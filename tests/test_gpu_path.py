"""What runs on a GPU, on tensors that have a device and a shape but no numbers (torch's FakeTensorMode).

As a real one it refuses a tensor of the host among its own. And nobody can ask it for a number, for which the host
would wait until the device has done all its work. Not run are backward passes, since autograd asks for a driver, and
torch's fused SGD, which knows no such tensors.
"""

from functools import partial
from unittest.mock import patch

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from config.ensemble import Predict
from config.losses import LossTerm
from config.training import Model, Train
from models.batch_statistics import update_batch_statistics
from models.losses import build_loss
from models.zoo import build_model, padded_logits
from pipeline import loop, prepare
from pipeline.checkpoint import TrainState
from pipeline.data import Batch
from pipeline.loop import Plan, optimizer_step
from pipeline.objective import Objective
from pipeline.outputs import decisions, stored
from pipeline.prepare import Preparation
from pipeline.schedule import build_optimizer
from pipeline.tta import SYMMETRIES, build_views, predict_probs
from tests.tiny import SMALL_UNET

GPU = torch.device("cuda:0")
BANDS = ["red", "green", "blue", "nir"]
HEIGHT, WIDTH = 64, 96


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(loop, "ToHost", PlayedNumber)
    prepare._on.cache_clear()  # numbers on a device that are of another mode
    with FakeTensorMode():
        yield
    prepare._on.cache_clear()


class PlayedNumber:
    def __init__(self, loss: torch.Tensor) -> None:
        assert loss.device == GPU

    def number(self) -> float:
        return 1.5


def on_gpu(network: nn.Module) -> nn.Module:
    """`network.to(GPU)`, which fake tensors do not allow."""
    for module in network.modules():
        for name, value in module._parameters.items():
            if value is not None:
                module._parameters[name] = nn.Parameter(torch.empty(value.shape, device=GPU))
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = torch.empty(value.shape, dtype=value.dtype, device=GPU)
    return network


def preparation(normalize: str = "dataset") -> Preparation:
    return Preparation(BANDS, ["ndvi"], normalize, [0.1, 0.2, 0.3, 0.4], [0.2, 0.3, 0.1, 0.5])


def network_of(classes: int) -> nn.Module:
    return on_gpu(build_model(Model(name="unet", params=SMALL_UNET), len(BANDS) + 1, classes))


def batch_of(mixed: bool) -> Batch:
    target_NHW = torch.empty((2, HEIGHT, WIDTH), dtype=torch.uint8)
    pixels_NHWB = torch.empty((2, HEIGHT, WIDTH, len(BANDS)), dtype=torch.uint8)
    others = (target_NHW, torch.empty(2)) if mixed else ()
    return Batch([(0, 0, 0), (0, 1, 0)], pixels_NHWB, target_NHW, [3.0, 4.0], *others)


def step(terms: list[LossTerm], batch: Batch, binary: bool, **train: object) -> None:
    network, settings = network_of(1 if binary else 3), Train(loss=terms, **train)
    weight_C = [0.5, 2.0] if binary else [0.5, 1.0, 2.0]
    loss_fn = build_loss(terms, 1 if binary else 3, weight_C, binary).to(GPU)
    optimizer = build_optimizer(network, settings)
    state = TrainState(network, optimizer, torch.amp.GradScaler("cuda", enabled=False), None, None)

    def backward(loss: torch.Tensor) -> None:
        assert (loss.device, tuple(loss.shape)) == (GPU, ())
        for weight in network.parameters():
            weight.grad = torch.empty_like(weight)

    plan = Plan("unet/fold0-seed0", settings, 0, 0, ["a", "b"])
    objective = Objective(network, preparation(), loss_fn, GPU, None)
    with patch.object(torch.Tensor, "backward", backward):
        losses = optimizer_step(plan, state, objective, [batch, batch], 1e-3)
    assert losses == [1.5, 1.5]


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("name", ["ce", "focal", "dice", "jaccard", "lovasz"])
def test_a_training_step_mixes_no_devices_and_waits_for_nothing(name, binary, mixed):
    terms = TypeAdapter(list[LossTerm]).validate_python([{"name": name}])
    step(terms, batch_of(mixed), binary)


@pytest.mark.parametrize("name", ["adamw", "nadamw", "lamb", "adoptw", "lion"])
def test_nor_with_another_optimizer(name):
    step(Train().loss, batch_of(mixed=False), False, optimizer={"name": name})


def test_nor_do_the_batch_statistics_of_averaged_weights():
    images = [preparation()(torch.empty((2, HEIGHT, WIDTH, len(BANDS)), dtype=torch.uint8, device=GPU))] * 3
    network = network_of(3)
    update_batch_statistics(network, images)
    assert {value.device for value in network.state_dict().values()} == {GPU}


@pytest.mark.parametrize("normalize", ["dataset", "tile"])
@pytest.mark.parametrize("merge", ["mean", "gmean"])
@pytest.mark.parametrize("classes", [1, 3])
def test_a_prediction_mixes_no_devices_and_waits_for_nothing(classes, merge, normalize):
    network = network_of(classes).eval()
    settings = Predict(tta=list(SYMMETRIES), scales=[1.25], merge=merge)
    pixels_NHWB = torch.empty((2, HEIGHT, WIDTH, len(BANDS)), dtype=torch.uint8, device=GPU)
    images = [preparation(normalize)(pixels) for pixels in (pixels_NHWB, pixels_NHWB.float())]
    with torch.no_grad():
        probs = predict_probs(lambda image: padded_logits(network, image), images, build_views(settings), merge, 4)
    assert (probs.device, tuple(probs.shape)) == (GPU, (2, classes, HEIGHT, WIDTH))


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("output", [decisions, partial(stored, dtype="uint8"), partial(stored, dtype="float16")])
def test_nor_does_what_is_made_of_its_probabilities(output, classes):
    for values in output(torch.empty((2, classes, HEIGHT, WIDTH), device=GPU)):
        assert (values.device, len(values)) == (GPU, 2)


def test_a_tensor_left_on_the_host_is_found():
    """The law of the other tests: without it they would pass whatever they are given."""
    loss_fn = build_loss(Train().loss, 3, [0.5, 1.0, 2.0], False)  # its weights stay on the host
    target_NHW = torch.empty((2, HEIGHT, WIDTH), dtype=torch.int64, device=GPU)
    with pytest.raises(RuntimeError, match="device"):
        loss_fn(torch.empty((2, 3, HEIGHT, WIDTH), device=GPU), target_NHW)


def test_a_number_asked_for_is_found():
    with pytest.raises(RuntimeError, match="local_scalar_dense"):
        torch.empty((), device=GPU).item()
