"""Laws of every loss in the table, for all classes and for a specialist."""

import pytest
import segmentation_models_pytorch as smp
import torch
from pydantic import TypeAdapter
from torch.nn import functional

from config.losses import LossTerm
from models.losses import build_loss

C = 4
TERMS = {
    "ce": {"name": "ce"},
    "smooth ce": {"name": "ce", "label_smoothing": 0.1},
    "focal": {"name": "focal"},
    "focal below 1": {"name": "focal", "gamma": 0.5},
    "dice": {"name": "dice"},
    "jaccard": {"name": "jaccard"},
    "lovasz": {"name": "lovasz"},
}
PIXEL_MEANS = ["ce", "smooth ce", "focal", "focal below 1"]
MULTI_AND_BINARY = pytest.mark.parametrize("binary", [False, True], ids=["classes", "specialist"])
EVERY_TERM = pytest.mark.parametrize("term", TERMS)


def loss_of(*terms, binary=False, weight=None):
    terms = [
        TypeAdapter(LossTerm).validate_python(TERMS.get(term, term) if isinstance(term, str) else term)
        for term in terms
    ]
    return build_loss(terms, C, weight, binary)


def scene(binary=False, tiles=3, seed=0):
    """Random logits that need a gradient, and a target with every class and a fifth of it ignored."""
    rng = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(tiles, 1 if binary else C, 7, 9, generator=rng)
    target = torch.randint(0, 2 if binary else C, (tiles, 7, 9), generator=rng)
    target[torch.rand(target.shape, generator=rng) < 0.2] = 255
    return logits.requires_grad_(), target


def logits_for(target, binary, strength):
    """Logits that say the target, or with a negative strength anything but it."""
    truth = torch.where(target == 255, 0, target)
    if binary:
        return strength * (2.0 * truth - 1)[:, None]
    return strength * functional.one_hot(truth, C).movedim(-1, 1).float()


@EVERY_TERM
@MULTI_AND_BINARY
def test_ignored_pixels_have_exactly_zero_gradient_and_all_others_some(term, binary):
    logits, target = scene(binary)
    loss_of(term, binary=binary)(logits, target).backward()
    ignored = (target == 255)[:, None].expand_as(logits)
    assert ignored.any()
    assert (logits.grad[ignored] == 0).all()
    assert (logits.grad[~ignored] != 0).float().mean() > 0.5


@EVERY_TERM
@MULTI_AND_BINARY
def test_what_an_ignored_pixel_says_does_not_matter(term, binary):
    logits, target = scene(binary)
    other = torch.where((target == 255)[:, None], -30.0, logits)
    loss = loss_of(term, binary=binary)
    assert loss(logits, target).item() == pytest.approx(loss(other, target).item(), abs=1e-6)


@EVERY_TERM
@MULTI_AND_BINARY
def test_a_batch_of_ignored_pixels_has_loss_and_gradient_0(term, binary):
    logits, target = scene(binary)
    loss = loss_of(term, binary=binary)(logits, torch.full_like(target, 255))
    assert loss.shape == ()
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


@EVERY_TERM
@MULTI_AND_BINARY
def test_right_costs_less_than_unsure_and_unsure_less_than_wrong(term, binary):
    _, target = scene(binary)
    right, unsure, wrong = (
        loss_of(term, binary=binary)(logits_for(target, binary, s), target) for s in (3.0, 0.0, -3.0)
    )
    assert right < unsure < wrong


@EVERY_TERM
@MULTI_AND_BINARY
def test_gradients_are_finite_where_the_network_is_sure(term, binary):
    _, target = scene(binary)
    for strength in (200.0, -200.0):
        logits = logits_for(target, binary, strength).requires_grad_()
        loss_of(term, binary=binary)(logits, target).backward()
        assert torch.isfinite(logits.grad).all()


@EVERY_TERM
def test_renaming_the_classes_changes_nothing(term):
    logits, target = scene()
    new_of_old = torch.tensor([2, 0, 3, 1])
    renamed = torch.where(target == 255, 255, new_of_old[torch.where(target == 255, 0, target)])
    moved = torch.empty_like(logits)
    moved[:, new_of_old] = logits.detach()
    loss = loss_of(term)
    assert loss(moved, renamed).item() == pytest.approx(loss(logits, target).item(), rel=1e-5)


@pytest.mark.parametrize("name", ["dice", "jaccard"])
@MULTI_AND_BINARY
def test_overlaps_are_smps(name, binary):
    theirs = {"dice": smp.losses.DiceLoss, "jaccard": smp.losses.JaccardLoss}[name]
    theirs = theirs("binary" if binary else "multiclass", ignore_index=255)
    for seed in range(5):
        logits, target = scene(binary, seed=seed)
        if seed % 2:
            target[target == 1] = 255  # a class without truth
        ours = loss_of(name, binary=binary)(logits, target)
        assert ours.item() == pytest.approx(theirs(logits, target).item(), abs=1e-6)
        (gradient,) = torch.autograd.grad(ours, logits)
        torch.testing.assert_close(gradient, torch.autograd.grad(theirs(logits, target), logits)[0])


def ties(logits, target):
    """Beside ignored pixels equal errors may be sorted another way, which is another gradient of the same loss."""
    logits = logits[:, :, :1, :1].expand_as(logits)
    return logits.detach().clone().requires_grad_(), torch.where(target == 255, 0, target)


LOVASZ_CASES = {
    "ignored": lambda logits, target: (logits, target),
    "plain": lambda logits, target: (logits, torch.where(target == 255, 0, target)),
    "absent": lambda logits, target: (logits, torch.where(target == 1, 0, target)),
    "one pixel": lambda logits, target: (logits, torch.where(torch.arange(9) + target.cumsum(0) == 0, target, 255)),
    "nothing valid": lambda logits, target: (logits, torch.full_like(target, 255)),
    "ties": ties,
}


@pytest.mark.parametrize("case", LOVASZ_CASES)
@MULTI_AND_BINARY
def test_lovasz_is_smps_to_the_bit_of_the_gradient(case, binary):
    theirs = smp.losses.LovaszLoss("binary" if binary else "multiclass", ignore_index=255)
    for seed in range(5):
        logits, target = LOVASZ_CASES[case](*scene(binary, seed=seed))
        ours, expected = loss_of("lovasz", binary=binary)(logits, target), theirs(logits, target).sum()
        assert ours.item() == pytest.approx(expected.item(), abs=1e-6)
        assert torch.equal(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, expected)))


def test_cross_entropy_is_torchs_and_focal_without_gamma_is_cross_entropy():
    logits, target = scene()
    ours = loss_of("smooth ce")(logits, target)
    theirs = functional.cross_entropy(logits, target, ignore_index=255, label_smoothing=0.1)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    plain = loss_of("ce")(logits, target).item()
    assert loss_of({"name": "focal", "gamma": 0.0})(logits, target).item() == pytest.approx(plain, rel=1e-6)
    assert loss_of("focal")(logits, target) < plain


@pytest.mark.parametrize("term", PIXEL_MEANS)
@pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 3.0])], ids=["unweighted", "weighted"])
def test_a_specialists_pixel_loss_is_that_of_two_classes(term, weight):
    logits, target = scene(binary=True)
    two = torch.cat([torch.zeros_like(logits), logits], 1)
    terms = [TypeAdapter(LossTerm).validate_python(TERMS[term])]
    theirs = build_loss(terms, 2, weight, binary=False)(two, target)
    assert build_loss(terms, 1, weight, binary=True)(logits, target).item() == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize("term", ["ce", "focal"])
def test_a_class_weight_multiplies_the_pixels_of_its_class(term):
    logits, target = scene()
    weight = torch.tensor([1.0, 1.0, 5.0, 1.0])
    pixels = (target != 255).sum()
    only_2 = torch.where(target == 2, 2, 255)
    of_class_2 = loss_of(term)(logits, only_2) * (only_2 == 2).sum() / pixels
    expected = loss_of(term)(logits, target) + 4 * of_class_2
    assert loss_of(term, weight=weight)(logits, target).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_sum_is_weighted():
    logits, target = scene()
    parts = [loss_of(term)(logits, target) for term in ("ce", "dice", "lovasz")]
    both = loss_of({"name": "ce", "weight": 0.5}, {"name": "dice", "weight": 2.0}, "lovasz")(logits, target)
    assert both.item() == pytest.approx((0.5 * parts[0] + 2 * parts[1] + parts[2]).item(), rel=1e-6)


@pytest.mark.parametrize("term", PIXEL_MEANS)
@MULTI_AND_BINARY
def test_micro_batches_counted_by_valid_pixels_are_exactly_the_large_batch(term, binary):
    logits, target = scene(binary, tiles=5)
    target[0, :6] = 255  # tiles of very different valid counts
    weight = torch.tensor([0.2, 3.0] if binary else [0.2, 3.0, 1.0, 0.7])
    loss = loss_of(term, binary=binary, weight=weight)
    (whole,) = torch.autograd.grad(loss(logits, target), logits)
    valid_N = (target != 255).sum((1, 2))
    for part in (slice(0, 2), slice(2, 5)):
        (loss(logits[part], target[part]) * (valid_N[part].sum() / valid_N.sum())).backward()
    torch.testing.assert_close(logits.grad, whole, rtol=1e-5, atol=1e-8)


@EVERY_TERM
@MULTI_AND_BINARY
def test_mixed_tiles_count_for_both_targets_by_their_share(term, binary):
    logits, target = scene(binary)
    _, second = scene(binary, seed=1)
    loss = loss_of(term, binary=binary)
    plain, other = loss(logits, target), loss(logits, second)
    assert loss(logits, target, target, torch.full((3,), 0.3)).item() == pytest.approx(plain.item(), rel=1e-5)
    assert loss(logits, target, second, torch.ones(3)).item() == pytest.approx(plain.item(), rel=1e-5)
    assert loss(logits, target, second, torch.zeros(3)).item() == pytest.approx(other.item(), rel=1e-5)
    between = loss(logits, target, second, torch.full((3,), 0.4)).item()
    assert min(plain, other) < between < max(plain, other)


@pytest.mark.parametrize("term", PIXEL_MEANS)
def test_each_mixed_tile_has_its_own_share(term):
    logits, target = scene()
    _, second = scene(seed=1)
    share = torch.tensor([0.9, 0.2, 1.0])
    loss = loss_of(term)
    first_N, second_N = share * (target != 255).sum((1, 2)), (1 - share) * (second != 255).sum((1, 2))
    total = (first_N + second_N).sum()
    parts = [
        first_N[i] * loss(logits[i : i + 1], target[i : i + 1])
        + second_N[i] * loss(logits[i : i + 1], second[i : i + 1])
        for i in range(3)
    ]
    assert loss(logits, target, second, share).item() == pytest.approx((sum(parts) / total).item(), rel=1e-5)


def test_weights_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"shape \(3,\); expected \(4,\)"):
        loss_of("ce", weight=torch.ones(3))
