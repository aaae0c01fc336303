"""What a device makes of probabilities: the numbers that the host would have made of them, to the bit."""

import numpy as np
import pytest
import torch

from config.training import Model
from models.casting import cast_weights
from models.folding import fold_batch_norms
from models.zoo import build_model
from pipeline.outputs import decisions, probabilities, stored
from pipeline.quantise import STORE_DTYPES, quantise
from pipeline.store import PROBS, content_problems, open_store, write_store
from tests.test_store import random_probs
from tests.tiny import SMALL_UNET


def tied_probs(channels: int) -> np.ndarray:
    """Probabilities of few values, so that many tie at the top, exactly and after rounding."""
    rng = np.random.default_rng(channels)
    numbers = rng.integers(1, 4, (3, channels, 24, 40)) + rng.choice([0, 1e-3], (3, channels, 24, 40))
    return (numbers / numbers.sum(1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("dtype", STORE_DTYPES)
@pytest.mark.parametrize("channels", [2, 3, 10, 255])
@pytest.mark.parametrize("draw", [lambda channels: random_probs(3, channels), tied_probs], ids=["random", "tied"])
def test_rounding_is_that_of_the_host(draw, channels, dtype):
    probs = draw(channels)
    values, sound = stored(torch.from_numpy(probs), dtype)
    assert sound.tolist() == [True] * 3
    assert values.numpy().dtype == dtype
    assert np.array_equal(values.numpy(), quantise(probs, dtype))


@pytest.mark.parametrize("dtype", STORE_DTYPES)
def test_so_is_that_of_a_specialist(dtype):
    around = np.float32(0.5) + np.arange(-3000, 3000, dtype=np.float32) * np.float32(2**-25)
    probs = np.concatenate([around, np.linspace(0, 1, 4000, dtype=np.float32)]).reshape(1, 1, 100, 100)
    values, _ = stored(torch.from_numpy(probs), dtype)
    assert np.array_equal(values.numpy(), quantise(probs, dtype))


@pytest.mark.parametrize("channels", [2, 10])
def test_decisions_are_the_largest_probability_and_the_first_of_equals(channels):
    for probs in (random_probs(2, channels), tied_probs(channels)):
        (index,) = decisions(torch.from_numpy(probs))
        assert index.dtype == torch.uint8
        assert np.array_equal(index.numpy(), probs.argmax(1))


def test_a_specialist_says_yes_from_one_half_on():
    probs = torch.tensor([0.0, 0.4999999, 0.5, 0.9]).reshape(1, 1, 2, 2)
    assert decisions(probs)[0].tolist() == [[[0, 0], [1, 1]]]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("value", [np.nan, 1.01, np.inf])
def test_tiles_of_no_probabilities_are_marked(value, channels):
    probs = torch.full((4, channels, 5, 6), 1 / channels)
    probs[2, channels - 1, 3, 1] = value
    assert stored(probs, "uint8")[1].tolist() == [True, True, False, True]


@pytest.mark.parametrize("dtype", STORE_DTYPES)
def test_a_store_of_rounded_tiles_has_the_bytes_of_one_of_floats(tmp_path, dtype):
    probs = random_probs(7, 4)
    names, classes = [f"{i}" for i in range(7)], ["a", "b", "c", "d"]
    for output, name in ((probabilities, "floats"), (lambda batch: stored(batch, dtype), "rounded")):
        with write_store(tmp_path / name, names, classes, *probs.shape[2:], {}, dtype) as writer:
            for batch in torch.from_numpy(probs).split(3):
                writer.append(*(each.numpy() for each in output(batch)))
        assert content_problems(open_store(tmp_path / name)) == []
    for file in (tmp_path / "floats").iterdir():
        assert (tmp_path / "rounded" / file.name).read_bytes() == file.read_bytes()
    assert (tmp_path / "rounded" / PROBS).stat().st_size > 1000


@pytest.mark.parametrize(
    ("arch", "encoder", "params"),
    [
        ("Unet", "resnet18", SMALL_UNET),
        ("UnetPlusPlus", "efficientnet-b0", SMALL_UNET),
        ("Segformer", "mit_b0", {}),
        ("FPN", "tu-tf_efficientnet_lite0", {}),
        ("UPerNet", "tu-convnext_atto", {"encoder_depth": 4}),
        ("DeepLabV3Plus", "tu-resnetv2_50d_gn", {}),  # convolutions that standardise their weights first
    ],
)
@pytest.mark.parametrize("folded", [False, True])
def test_weights_cast_once_give_the_bits_of_autocast(arch, encoder, params, folded):
    torch.manual_seed(0)
    network = build_model(Model(name="m", arch=arch, encoder=encoder, params=params), 4, 5).eval()
    for module in network.modules():  # statistics that are no identity
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.3, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    network = fold_batch_norms(network, 4) if folded else network
    network = network.to(memory_format=torch.channels_last)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    image = torch.randn(2, 4, 64, 96).to(memory_format=torch.channels_last)
    cast = cast_weights(network, torch.bfloat16)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cast(image), network(image))
    assert sum(weight.dtype == torch.bfloat16 for weight in cast.parameters()) > 10
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert cast_weights(network, None) is network
    assert cast_weights(cast, torch.bfloat16) is cast
