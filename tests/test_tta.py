"""Laws of the views: there and back is the tile again, all views are different, an equivariant network needs none."""

import numpy as np
import pytest
import torch
import ttach
from pydantic import ValidationError
from torch import nn

from config.ensemble import VIEW_SETS, Predict
from models.zoo import padded_logits
from pipeline import tta
from pipeline.tta import SYMMETRIES, View, build_views, predict_probs

HEIGHT, WIDTH = 24, 40


@pytest.fixture(params=[True, False], ids=["by tile", "by pass"], autouse=True)
def ways(request, monkeypatch):
    """As on a CPU, and as on a GPU."""
    monkeypatch.setattr(tta, "_goes_by_tile", lambda device: request.param)


def random_images(tiles: int = 3, bands: int = 4, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    """Noise on a slope: no symmetry maps it on itself."""
    noise = torch.randn(tiles, bands, height, width, generator=torch.Generator().manual_seed(0))
    return noise + torch.linspace(0, 3, width) + torch.linspace(0, 1, height)[:, None]


def pointwise(channels: int = 3) -> nn.Module:
    """Looks at each pixel alone: equivariant under every symmetry."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(4, 8, 1), nn.Tanh(), nn.Conv2d(8, channels, 1)).requires_grad_(False)


def looking_around(channels: int = 3) -> nn.Module:
    """Sees directions: no symmetry leaves its answer as it is."""
    torch.manual_seed(2)
    return nn.Conv2d(4, channels, 5, padding=2).requires_grad_(False)


def views_of(**keys) -> list[View]:
    return build_views(Predict(**keys))


def by_definition(network, images, views, merge="mean"):
    """One view at a time, no stacking, in float64."""
    size = images[0].shape[2:]
    seen = []
    for image in images:
        for view in views:
            logits = network(view.look(image)).double()
            if logits.shape[1] == 1:
                logits = torch.cat([logits, torch.zeros_like(logits)], 1)
            values = logits.softmax(1) if merge == "mean" else logits.log_softmax(1)
            seen.append(view.back(values, size))
    mean = torch.stack(seen).mean(0)
    mean = mean if merge == "mean" else mean.exp() / mean.exp().sum(1, keepdim=True)
    return mean[:, :1] if network(images[0]).shape[1] == 1 else mean


@pytest.mark.parametrize("name", SYMMETRIES)
def test_back_undoes_look_exactly(name):
    image = random_images()
    seen = View(name).look(image)
    assert sorted(seen.shape[2:]) == sorted(image.shape[2:])
    assert torch.equal(View(name).back(seen, (HEIGHT, WIDTH)), image)


def test_names_say_what_happens():
    image = random_images()
    expected = {
        "identity": image,
        "hflip": image.flip(3),
        "vflip": image.flip(2),
        "rot180": image.flip(2, 3),
        "transpose": image.transpose(2, 3),
        "antitranspose": image.flip(2, 3).transpose(2, 3),
        "rot90": image.transpose(2, 3).flip(2),  # counter-clockwise
        "rot270": image.transpose(2, 3).flip(3),
    }
    assert expected.keys() == SYMMETRIES.keys()
    for name, turned in expected.items():
        assert torch.equal(View(name).look(image), turned), name


@pytest.mark.parametrize(("tta", "count"), [("none", 1), ("hflip", 2), ("flips", 4), ("d4", 8), (["rot90"], 1)])
def test_number_of_views_and_each_is_different(tta, count):
    views = views_of(tta=tta)
    assert len(views) == count
    assert len(views_of(tta=tta, scales=[0.5, 1.5])) == 3 * count
    square = random_images(height=32, width=32)
    looks = {view.look(square).numpy().tobytes() for view in views}
    assert len(looks) == count


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("merge", ["mean", "gmean"])
@pytest.mark.parametrize("tta", VIEW_SETS)
def test_an_equivariant_network_needs_no_views(tta, merge, channels):
    network, image = pointwise(channels), random_images()
    plain = predict_probs(network, [image], views_of(tta="none"))
    probs = predict_probs(network, [image], views_of(tta=tta), merge, batch=7)
    assert probs.dtype == torch.float32
    assert probs.std() > 0.01
    assert (probs - plain).abs().max() <= 1e-6


@pytest.mark.parametrize("batch", [1, 6, 7, 1000])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("merge", ["mean", "gmean"])
@pytest.mark.parametrize("tta", [*VIEW_SETS, ["hflip", "rot270", "transpose"]])
def test_stacking_changes_nothing(tta, merge, channels, batch):
    network, views = looking_around(channels), views_of(tta=tta, scales=[0.5, 1.1])
    images = [random_images(), random_images().square()]
    expected = by_definition(network, images, views, merge)
    probs = predict_probs(network, images, views, merge, batch)
    assert (probs - expected).abs().max() <= 2e-6
    plain = predict_probs(network, images[:1], views_of(tta="none"))
    assert (probs - plain).abs().max() > 1e-3, "a network that sees directions must notice the views"


def test_views_are_stacked_up_to_the_batch():
    sizes = []

    def forward(image_NCHW):
        sizes.append(len(image_NCHW))
        return looking_around()(image_NCHW)

    predict_probs(forward, [random_images(3, height=32, width=32)], views_of(tta="d4"), batch=16)
    assert sizes == [15, 9]
    sizes.clear()
    predict_probs(forward, [random_images(3)], views_of(tta="d4"), batch=16)  # upright and lying views do not mix
    assert sizes == [12, 12]


def test_flipping_the_tile_flips_the_result():
    network, image, views = looking_around(), random_images(), views_of(tta="d4", merge="gmean")
    probs = predict_probs(network, [image], views, "gmean")
    for name in SYMMETRIES:
        turned = predict_probs(network, [View(name).look(image)], views, "gmean")
        assert (turned - View(name).look(probs)).abs().max() <= 1e-6


def test_ttach_gives_the_same_mean():
    network, image = looking_around(), random_images(height=32, width=32)
    wrapper = ttach.SegmentationTTAWrapper(nn.Sequential(network, nn.Softmax(1)), ttach.aliases.d4_transform())
    assert (predict_probs(network, [image], views_of(tta="d4")) - wrapper(image)).abs().max() <= 1e-6


@pytest.mark.parametrize("scale", [0.3, 0.77, 1.1, 1.9])
def test_other_sizes_come_back_to_the_tiles_size(scale):
    image = random_images(height=37, width=51)
    view = View("rot90", scale)
    assert view.look(image).shape[2:] == (round(51 * scale), round(37 * scale))
    assert view.back(view.look(image), (37, 51)).shape == image.shape
    probs = predict_probs(looking_around(), [image], views_of(tta="flips", scales=[scale]))
    assert (probs.sum(1) - 1).abs().max() <= 1e-5


@pytest.mark.parametrize("merge", ["mean", "gmean"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_no_logits_give_nan(dtype, channels, merge):
    extremes = [0.0, 1e-30, 80.0, -80.0, 6e4, -6e4, torch.inf, -torch.inf]
    if dtype != torch.float16:
        extremes += [torch.finfo(torch.bfloat16).max, torch.finfo(torch.bfloat16).min]
    numbers = np.random.default_rng(0).choice(extremes, (2, channels, 64, 64))
    logits = torch.tensor(numbers).to(dtype)
    probs = predict_probs(lambda image: logits, [torch.zeros(2, 4, 64, 64)], views_of(tta="d4"), merge)
    assert torch.isfinite(probs).all()
    assert probs.min() >= 0
    assert probs.max() <= 1 + 1e-6
    if channels > 1:
        assert (probs.sum(1) - 1).abs().max() <= 1e-5


def test_the_networks_output_is_left_alone():
    logits = random_images(2, 3) * 1e31
    before = logits.clone()
    predict_probs(lambda image: logits, [random_images(2)], views_of(tta="flips"))
    assert torch.equal(logits, before)


def test_autocast_around_it_changes_only_the_forward():
    network, image, views = looking_around(), random_images(), views_of(tta="d4", scales=[0.5])
    exact = predict_probs(network, [image], views)
    with torch.autocast("cpu", torch.bfloat16):
        probs = predict_probs(network, [image], views)
    assert probs.dtype == torch.float32
    assert (probs - exact).abs().max() < 0.05
    assert (probs.sum(1) - 1).abs().max() <= 1e-5


def test_channels_last_changes_nothing():
    network, image, views = looking_around(), random_images(), views_of(tta="d4")
    expected = predict_probs(network, [image], views)
    last = predict_probs(
        network.to(memory_format=torch.channels_last), [image.contiguous(memory_format=torch.channels_last)], views
    )
    assert last.is_contiguous()
    assert (last - expected).abs().max() <= 1e-6


def test_tiles_of_any_size_go_through_a_network_with_a_divisor():
    network = nn.Sequential(nn.Conv2d(4, 8, 2, stride=32), nn.ConvTranspose2d(8, 3, 32, stride=32)).requires_grad_(
        False
    )
    image = random_images(height=45, width=70)
    probs = predict_probs(lambda x: padded_logits(network, x), [image], views_of(tta="d4", scales=[0.75]), batch=8)
    assert probs.shape == (3, 3, 45, 70)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"tta": []}, "empty list"),
        ({"tta": ["hflip", "hflip"]}, "hflip is given twice"),
        ({"tta": ["upside_down"]}, "upside_down"),
        ({"tta": "d5"}, "d5"),
        ({"scales": [1.0]}, "always there"),
        ({"scales": [0.5, 0.5]}, "0.5 is given twice"),
        ({"scales": [0.01]}, "0.25"),
        ({"stretch": [1.0, 1.0]}, "1.0 is given twice"),
        ({"stretch": [60]}, "20"),
    ],
)
def test_what_makes_no_sense_is_refused_on_loading(keys, why):
    with pytest.raises(ValidationError, match=why):
        Predict(**keys)


def test_every_setting_that_changes_probabilities_changes_the_name():
    other = {
        "tta": "d4",
        "scales": [0.5],
        "stretch": [2.0],
        "merge": "gmean",
        "weights": "best",
        "adapt": True,
        "dtype": "float16",
    }
    assert other.keys() | {"batch"} == Predict.model_fields.keys()
    names = {Predict().variant} | {Predict(**{key: value}).variant for key, value in other.items()}
    assert len(names) == 1 + len(other)
    assert Predict(tta=["identity", "rot90"], scales=[0.75, 1.5], merge="gmean").variant == (
        "last-identity+rot90-gmean-scale0.75+1.5"
    )
