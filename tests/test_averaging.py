import copy

import pytest
import torch
from torch import nn

from config.training import Train
from models.averaging import Averages


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout2d(0.5), nn.Conv2d(3, 2, 1))


def weights_of(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def train_a_little(net, averages, epochs=5, steps=3):
    """Random steps; the weights after each step and at each epoch's end."""
    after_step, after_epoch = [], []
    generator = torch.Generator().manual_seed(1)
    for epoch in range(1, epochs + 1):
        for _ in range(steps):
            with torch.no_grad():
                for weight in net.parameters():
                    weight += torch.randn(weight.shape, generator=generator)
            averages.after_step(net)
            after_step.append(weights_of(net))
        averages.after_epoch(net, epoch)
        after_epoch.append(weights_of(net))
    return after_step, after_epoch


def test_swa_is_the_plain_mean_of_the_epochs_from_its_start():
    net = network()
    averages = Averages(net, Train(epochs=5, swa={"start_epoch": 2, "lr": 1e-3}))
    _, after_epoch = train_a_little(net, averages)
    averaged = dict(averages.networks()["swa"].named_parameters())
    for name, value in averaged.items():
        torch.testing.assert_close(value, torch.stack([weights[name] for weights in after_epoch[2:]]).mean(0))


@pytest.mark.parametrize("decay", [0.3, 0.8])  # reached after 3 steps; not reached
def test_ema_is_the_recursion_of_tensorflow(decay):
    net = network()
    averages = Averages(net, Train(ema={"decay": decay}))
    after_step, _ = train_a_little(net, averages)
    averaged = dict(averages.networks()["ema"].named_parameters())
    for name, value in averaged.items():
        expected = after_step[0][name]
        for steps, weights in enumerate(after_step[1:], 1):
            kept = min(decay, (1 + steps) / (10 + steps))
            expected = kept * expected + (1 - kept) * weights[name]
        torch.testing.assert_close(value, expected)


def test_ema_looks_for_a_networks_tensors_once_and_finds_another_networks(monkeypatch):
    net, other, walks = network(), network(seed=5), []
    averages = Averages(net, Train(ema={"decay": 0.8}))
    walk = nn.Module.named_modules
    monkeypatch.setattr(
        nn.Module, "named_modules", lambda self, *args, **kw: walks.append(self) or walk(self, *args, **kw)
    )
    for _ in range(3):
        averages.after_step(net)
    found = len(walks)
    averages.after_step(net)
    assert len(walks) == found
    average = averages.networks()["ema"]
    for buffer in other.buffers():
        buffer += 7
    kept, before = (1 + 4) / (10 + 4), [value.clone() for value in average.state_dict().values()]
    averages.after_step(other)
    for now, then, value in zip(average.state_dict().values(), before, other.state_dict().values(), strict=True):
        torch.testing.assert_close(now, kept * then + (1 - kept) * value if value.is_floating_point() else value)


def test_a_short_training_forgets_its_beginning():
    net = network()
    averages = Averages(net, Train(ema={}))
    for step in range(100):
        with torch.no_grad():
            for weight in net.parameters():
                weight.fill_(1000.0 if step == 0 else 3.0)
        averages.after_step(net)
    for weight in averages.networks()["ema"].parameters():
        torch.testing.assert_close(weight, torch.full_like(weight, 3.0))


def test_nothing_asked_for_nothing_kept_and_nothing_averaged_nothing_written():
    net = network()
    averages = Averages(net, Train())
    averages.after_step(net)
    averages.after_epoch(net, 1)
    assert averages.networks() == {}
    late = Averages(net, Train(epochs=9, swa={"start_epoch": 8, "lr": 1e-3}))
    late.after_epoch(net, 8)
    assert late.networks() == {}


def test_the_averages_are_not_the_network():
    net = network()
    averages = Averages(net, Train(ema={}, swa={"start_epoch": 0, "lr": 1e-3}))
    before = weights_of(net)
    train_a_little(net, averages, epochs=1)
    for kind in ("ema", "swa"):
        assert averages.networks()[kind] is not net
    with torch.no_grad():
        for weight in averages.networks()["ema"].parameters():
            weight.zero_()
    assert any((weight != 0).any() for weight in net.parameters())
    assert before.keys() == weights_of(net).keys()


def test_saved_and_loaded_goes_on_as_if_nothing_had_been(tmp_path):
    train = Train(epochs=5, ema={"decay": 0.9}, swa={"start_epoch": 0, "lr": 1e-3})
    net = network()
    whole = Averages(net, train)
    train_a_little(net, whole, epochs=2)
    torch.save(whole.state_dict(), tmp_path / "averages.pt")

    loaded = Averages(network(seed=9), train)
    loaded.load_state_dict(torch.load(tmp_path / "averages.pt", weights_only=True))
    twin = copy.deepcopy(net)
    train_a_little(net, whole, epochs=2)
    train_a_little(twin, loaded, epochs=2)
    for kind in ("ema", "swa"):
        ours, theirs = loaded.networks()[kind].state_dict(), whole.networks()[kind].state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
