"""Batch norms folded into convolutions change no output, and are left where they would."""

import pytest
import torch
from torch import nn

from config.training import Model
from models.folding import fold_batch_norms
from models.zoo import build_model


def lived_in(network: nn.Module) -> nn.Module:
    """With statistics and factors that are not those of a new batch norm."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    ("arch", "encoder", "left"),
    [
        ("Unet", "resnet18", 0),
        ("UnetPlusPlus", "efficientnet-b0", 1),  # one that never runs
        ("DeepLabV3Plus", "mobilenet_v2", 0),
        ("FPN", "tu-regnety_002", 0),
    ],
)
def test_a_folded_network_says_the_same_without_its_norms(arch, encoder, left):
    network = lived_in(build_model(Model(name="a", arch=arch, encoder=encoder), 5, 3))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    image = torch.randn(2, 5, 96, 64)
    with torch.inference_mode():
        expected = network(image)
        folded = fold_batch_norms(network, 5)
        torch.testing.assert_close(folded(image), expected, rtol=1e-3, atol=1e-3 * float(expected.std()))
    assert norms(network) > 10
    assert norms(folded) == left
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


class Shortcut(nn.Module):
    """The convolution's output goes round the norm as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        seen = self.conv(image)
        return self.norm(seen) + seen


class Shared(Shortcut):
    """One convolution before two norms."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.BatchNorm2d(3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(image)) + self.other(self.conv(image.flip(-1)))


class OneSize(Shortcut):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if image.shape[-1] != 224:
            raise ValueError("tiles of 224 px")
        return self.norm(self.conv(image))


@pytest.mark.parametrize("kind", [Shortcut, Shared, OneSize])
def test_what_cannot_be_folded_is_left_as_it_is(kind):
    network = lived_in(kind())
    assert fold_batch_norms(network, 3) is network
    assert norms(network) >= 1
