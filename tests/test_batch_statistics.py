"""Batch norms go by the images that they are given, whatever batches these come in."""

import copy

import pytest
import torch
from torch import nn

from config.training import Model
from models.batch_statistics import batch_norms, update_batch_statistics
from models.zoo import build_model


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout2d(0.5), nn.Conv2d(3, 2, 1))


def images(count, seed=0):
    """Unlike each other: each has a level and a contrast of its own."""
    generator = torch.Generator().manual_seed(seed)
    level, contrast = torch.rand((2, count, 2, 1, 1), generator=generator)
    return 5 * level + (1 + 3 * contrast) * torch.randn((count, 2, 20, 32), generator=generator)


@pytest.mark.parametrize("sizes", [[7], [2, 5], [3, 2, 2]])
def test_statistics_are_those_of_all_images_together_whatever_their_batches(sizes):
    net, image_NCHW = network().train(), images(7)
    update_batch_statistics(net, image_NCHW.split(sizes))
    # As in training: a side that is no multiple of 32 is padded by its edge.
    given_NCHW = net[0](nn.functional.pad(image_NCHW, (0, 0, 0, 12), mode="replicate"))
    torch.testing.assert_close(net[1].running_mean, given_NCHW.mean((0, 2, 3)))
    torch.testing.assert_close(net[1].running_var, given_NCHW.var((0, 2, 3), correction=0))
    assert net[1].momentum == pytest.approx(0.1)
    assert net.training


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_rest_of_a_share_is_of_the_statistics_that_were_there(share):
    whole, part, before = network(), network(), (torch.tensor([1.0, -2.0, 3.0]), torch.tensor([4.0, 5.0, 0.5]))
    for net in (whole, part):
        net[1].running_mean.copy_(before[0])
        net[1].running_var.copy_(before[1])
    update_batch_statistics(whole, images(6).split(3))
    update_batch_statistics(part, images(6).split(3), share)
    for name, old in zip(("running_mean", "running_var"), before, strict=True):
        new = getattr(whole[1], name)
        torch.testing.assert_close(getattr(part[1], name), share * new + (1 - share) * old)
        assert not torch.allclose(new, old)


@pytest.mark.parametrize("encoder", ["resnet18", "tu-mobilenetv3_small_100"])
def test_layers_work_by_their_batch_meanwhile_and_none_is_asked_for_a_number(monkeypatch, encoder):
    """As torch's and timm's layers do in training; of one batch their own statistics are the same."""
    ours = build_model(Model(name="unet", encoder=encoder), 4, 3)
    theirs, generator = copy.deepcopy(ours).eval(), torch.Generator().manual_seed(1)
    image_NCHW = 3 + 2 * torch.randn(3, 4, 64, 64, generator=generator)
    layers = batch_norms(theirs)
    given = {layer: [] for layer in layers}
    for layer in layers:
        layer.momentum = 1.0
        layer.train()
        layer.register_forward_pre_hook(lambda layer, values: given[layer].append(values[0]))
    with torch.no_grad():
        theirs(image_NCHW)

    def refuse(value):
        raise AssertionError("a number was asked for")

    monkeypatch.setattr(torch.Tensor, "__float__", refuse)
    momenta = [layer.momentum for layer in batch_norms(ours)]
    update_batch_statistics(ours, [image_NCHW])
    assert len(layers) > 20
    for our, their in zip(batch_norms(ours), layers, strict=True):
        count = given[their][0][:, 0].numel()
        torch.testing.assert_close(our.running_mean, their.running_mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(our.running_var * count / (count - 1), their.running_var, rtol=1e-3, atol=1e-5)
    assert [layer.momentum for layer in batch_norms(ours)] == momenta


def test_statistics_depend_neither_on_what_was_there_nor_on_chance():
    """So that they come out with the same bits when a killed run takes them again."""
    deep = nn.Sequential(network(), nn.BatchNorm2d(2))  # behind a dropout
    states = []
    for start in (0.0, 5.0):
        deep[1].running_mean.fill_(start)
        update_batch_statistics(deep, [torch.ones(4, 2, 6, 6).normal_(generator=torch.Generator().manual_seed(2))])
        states.append(copy.deepcopy(deep.state_dict()))
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_layer_that_the_network_does_not_use_stays_as_it_is():
    net = network()
    net.spare = nn.BatchNorm2d(3)  # a stage of an encoder that the decoder does not ask for
    net.spare.running_mean.fill_(7.0)
    net.forward = lambda image_NCHW: net[4](net[1](net[0](image_NCHW)))
    update_batch_statistics(net, images(4).split(2))
    assert (net.spare.running_mean == 7.0).all()
    assert (net[1].running_mean != 0).all()


def test_without_batch_norm_nothing_is_run():
    def refuse():
        yield torch.full((1,), torch.nan)
        raise AssertionError("a batch was asked for")

    update_batch_statistics(nn.Conv2d(2, 3, 1), refuse())
