import copy

import pytest
import torch
from torch import nn

from config.training import Model, Train
from models.averaging import Averages, update_batch_statistics
from models.zoo import build_model


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


def test_batch_statistics_are_those_of_the_batches():
    net = network().train()
    batches = [3 + 2 * torch.randn(4, 2, 20, 32, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    update_batch_statistics(net, batches)
    # As in training: a side that is no multiple of 32 is padded by its edge.
    outputs = [net[0](nn.functional.pad(batch, (0, 0, 0, 12), mode="replicate")) for batch in batches]
    torch.testing.assert_close(net[1].running_mean, torch.stack([out.mean((0, 2, 3)) for out in outputs]).mean(0))
    torch.testing.assert_close(net[1].running_var, torch.stack([out.var((0, 2, 3)) for out in outputs]).mean(0))
    assert net[1].momentum == pytest.approx(0.1)
    assert net.training


@pytest.mark.parametrize("encoder", ["resnet18", "tu-mobilenetv3_small_100"])
def test_batch_statistics_have_the_bits_of_torchs_own_mean_and_no_layer_is_asked_for_a_number(monkeypatch, encoder):
    """torch's and timm's layers without a momentum, which read how many batches they have seen."""
    ours = build_model(Model(name="unet", encoder=encoder), 4, 3)
    theirs, generator = copy.deepcopy(ours).eval(), torch.Generator().manual_seed(1)
    batches = [3 + 2 * torch.randn(2, 4, 32, 64, generator=generator) for _ in range(3)]
    layers = [layer for layer in theirs.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    with torch.no_grad():
        for batch in batches:
            theirs(batch)

    def refuse(value):
        raise AssertionError("a number was asked for")

    momenta = [layer.momentum for layer in ours.modules() if isinstance(layer, nn.BatchNorm2d)]
    monkeypatch.setattr(torch.Tensor, "__float__", refuse)
    update_batch_statistics(ours, batches)
    assert len(layers) > 20
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    assert [layer.momentum for layer in ours.modules() if isinstance(layer, nn.BatchNorm2d)] == momenta


def test_batch_statistics_do_not_depend_on_what_was_there_nor_on_chance():
    batches = [torch.randn(4, 2, 6, 6)]
    deep = nn.Sequential(network(), nn.BatchNorm2d(2))  # behind a dropout
    stats = []
    for start in (0.0, 5.0):
        deep[1].running_mean.fill_(start)
        update_batch_statistics(deep, batches)
        stats.append(deep[1].running_mean.clone())
    assert torch.equal(*stats)


def test_without_batch_norm_nothing_is_run():
    def refuse():
        yield torch.full((1,), torch.nan)
        raise AssertionError("a batch was asked for")

    update_batch_statistics(nn.Conv2d(2, 3, 1), refuse())
