"""Every curve against its formula and against torch's or timm's scheduler; every optimizer against its settings."""

import math

import pytest
import timm.scheduler
import torch
from torch import nn
from torch.optim import SGD, lr_scheduler, swa_utils

from config.schedules import Adaptive, Lion, Sgd
from config.sections import names_of
from config.training import Train
from pipeline.schedule import Plateau, build_optimizer, lr_at, set_lr

EPOCHS, STEPS = 7, 11  # per epoch
LR = 0.02
CURVES = {
    "constant": {},
    "warmup_cosine": {"min_lr": 1e-3},
    "cosine_restarts": {"t_0": 1, "t_mult": 2, "min_lr": 1e-3},
    "multistep": {"milestones": [2, 5], "gamma": 0.3},
    "poly": {"power": 0.9, "min_lr": 1e-3},
    "noam": {"warmup_epochs": 2},
    "plateau": {},
}
OPTIMIZERS = {
    "adamw": {"betas": [0.8, 0.95], "eps": 1e-6},
    "nadamw": {},
    "lamb": {},
    "adoptw": {},
    "lion": {"betas": [0.8, 0.95]},
    "sgd": {"momentum": 0.7, "nesterov": False},
}


def train(name, warmup=0.0, swa=None, **changes):
    schedule = {"name": name, "warmup_epochs": warmup, **CURVES[name], **changes}
    return Train(epochs=EPOCHS, lr=LR, schedule=schedule, swa=swa, validate_every=1)


def curve(settings):
    return [lr_at(step, STEPS, settings) for step in range(EPOCHS * STEPS)]


def of_scheduler(make, steps=EPOCHS * STEPS):
    """The rates that a torch scheduler gives, stepped after each optimizer step."""
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def of_timm(make):
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = make(optimizer)
    rates = []
    for step in range(EPOCHS * STEPS):
        scheduler.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def test_constant():
    assert curve(train("constant")) == [LR] * (EPOCHS * STEPS)


@pytest.mark.parametrize("name", [name for name in CURVES if name != "noam"])
def test_the_warm_up_is_a_line_that_ends_where_the_curve_begins(name):
    rates = curve(train(name, warmup=1.5))
    warmup = round(1.5 * STEPS)
    assert rates[:warmup] == pytest.approx([LR * (step + 1) / (warmup + 1) for step in range(warmup)])
    assert rates[warmup] == pytest.approx(LR)


def test_warmup_cosine_is_timms():
    for warmup in (0.0, 1.5):
        first = round(warmup * STEPS)
        theirs = of_timm(
            lambda optimizer, first=first: timm.scheduler.CosineLRScheduler(
                optimizer,
                t_initial=EPOCHS * STEPS - first,
                lr_min=1e-3,
                warmup_t=first,
                warmup_lr_init=LR / (first + 1),
                warmup_prefix=True,
                t_in_epochs=False,
            )
        )
        assert curve(train("warmup_cosine", warmup=warmup)) == pytest.approx(theirs)
    settings = train("warmup_cosine")
    assert lr_at(EPOCHS * STEPS // 2, STEPS, settings) == pytest.approx((LR + 1e-3) / 2, rel=0.05)
    assert lr_at(EPOCHS * STEPS, STEPS, settings) == pytest.approx(1e-3)


@pytest.mark.parametrize("t_mult", [1, 2])
def test_cosine_restarts_is_torchs(t_mult):
    theirs = of_scheduler(
        lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, STEPS, t_mult, eta_min=1e-3)
    )
    assert curve(train("cosine_restarts", t_mult=t_mult)) == pytest.approx(theirs)


def test_cosine_restarts_starts_anew_at_the_ends_that_the_reference_names():
    schedule = {"name": "cosine_restarts", "t_0": 3, "t_mult": 2, "min_lr": 1e-5}
    settings = Train(epochs=93, lr=3e-4, schedule=schedule)
    starts = [epoch for epoch in range(93) if lr_at(epoch * 10, 10, settings) == pytest.approx(3e-4)]
    assert starts == [0, 3, 9, 21, 45]  # epochs 44 and 92, counted from 0, are the last of a cycle
    assert all(lr_at(epoch * 10 - 1, 10, settings) < 2e-5 for epoch in (3, 9, 21, 45, 93))


@pytest.mark.parametrize("cycle", range(1, 25))
@pytest.mark.parametrize("t_mult", [1, 2])
def test_cosine_restarts_after_parts_of_an_epoch_are_at_their_step(cycle, t_mult):
    """Steps of a tenth of an epoch; every cycle is of whole steps."""
    schedule = {"name": "cosine_restarts", "t_0": cycle / 10, "t_mult": t_mult, "min_lr": 0.0}
    settings = Train(epochs=40, lr=0.3, schedule=schedule)
    expected, first, length = [], 0, cycle
    while first < 400:
        expected += [0.15 * (1 + math.cos(math.pi * step / length)) for step in range(length)]
        first, length = first + length, length * t_mult
    assert [lr_at(step, 10, settings) for step in range(400)] == pytest.approx(expected[:400], abs=1e-12)


def test_multistep_is_torchs():
    milestones = [2 * STEPS, 5 * STEPS]
    theirs = of_scheduler(lambda optimizer: lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.3))
    assert curve(train("multistep")) == pytest.approx(theirs)


def test_poly_is_torchs_and_timms():
    theirs = of_scheduler(lambda optimizer: lr_scheduler.PolynomialLR(optimizer, EPOCHS * STEPS, power=0.9))
    assert curve(train("poly", min_lr=0.0)) == pytest.approx(theirs)
    theirs = of_timm(
        lambda optimizer: timm.scheduler.PolyLRScheduler(
            optimizer, t_initial=EPOCHS * STEPS, power=0.9, lr_min=1e-3, t_in_epochs=False
        )
    )
    assert curve(train("poly")) == pytest.approx(theirs)


def test_noam_is_its_formula():
    rates = curve(train("noam", warmup=2))
    # Attention Is All You Need, (3), with the warm-up's last step at lr: min(s^-1/2, s w^-3/2), steps counted from 1.
    w = 2 * STEPS + 1
    assert rates == pytest.approx([LR * math.sqrt(w) * min(s**-0.5, s * w**-1.5) for s in range(1, len(rates) + 1)])
    assert max(rates) == rates[2 * STEPS] == pytest.approx(LR)


def test_plateau_is_torchs():
    scores = [0.3, 0.4, 0.4, 0.40005, 0.39, 0.41, 0.2, 0.2, 0.2, 0.2, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    settings = train("plateau", factor=0.4, patience=2, threshold=1e-4, min_lr=0.002)
    plateau = Plateau(settings)
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=LR)
    theirs = lr_scheduler.ReduceLROnPlateau(
        optimizer, "max", factor=0.4, patience=2, threshold=1e-4, threshold_mode="abs", min_lr=0.002
    )
    seen = []
    for score in scores:
        plateau.after_validation(score)
        theirs.step(score)
        seen.append(plateau.scale * lr_at(5, STEPS, settings))
        assert seen[-1] == pytest.approx(optimizer.param_groups[0]["lr"])
    assert len(set(seen)) == 4  # it fell three times, the last one to min_lr
    assert seen[-1] == pytest.approx(0.002)


def test_plateau_remembers_over_a_restart(tmp_path):
    settings = train("plateau", patience=2)
    whole, resumed = Plateau(settings), Plateau(settings)
    for score in (0.5, 0.4, 0.4):
        whole.after_validation(score)
    torch.save(whole.state_dict(), tmp_path / "plateau.pt")
    resumed.load_state_dict(torch.load(tmp_path / "plateau.pt", weights_only=True))
    for score in (0.4, 0.4, 0.4):
        whole.after_validation(score)
        resumed.after_validation(score)
        assert resumed.scale == whole.scale
    assert whole.scale < 1


@pytest.mark.parametrize("name", [name for name in CURVES if name != "plateau"])
def test_scores_change_no_other_schedule(name):
    plateau = Plateau(train(name, warmup=2))
    for _ in range(20):
        plateau.after_validation(0.1)
    assert plateau.scale == 1


@pytest.mark.parametrize("anneal", [0, 1, 2])
def test_the_rate_of_swa_is_torchs_swalr(anneal):
    settings = train("warmup_cosine", swa={"start_epoch": 4, "lr": 0.005, "anneal_epochs": anneal})
    rates = curve(settings)
    first, plain = 4 * STEPS, curve(train("warmup_cosine"))
    assert rates[:first] == plain[:first]
    if anneal:
        optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=plain[first])
        swalr = swa_utils.SWALR(optimizer, 0.005, anneal * STEPS)
        for rate in rates[first:]:
            assert rate == pytest.approx(optimizer.param_groups[0]["lr"])
            optimizer.step()
            swalr.step()
    assert rates[first + anneal * STEPS :] == pytest.approx([0.005] * ((3 - anneal) * STEPS))


class Network(nn.Module):
    """Encoder and decoder by the names that smp gives them."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
        self.decoder = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3))
        self.segmentation_head = nn.Conv2d(3, 2, 1)

    def forward(self, image):
        return self.segmentation_head(self.decoder(self.encoder(image)))


def group_of(optimizer, parameter):
    (group,) = [g for g in optimizer.param_groups if any(p is parameter for p in g["params"])]
    return group


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_descends_and_has_its_settings(name):
    torch.manual_seed(0)
    network = Network()
    settings = Train(lr=1e-3, optimizer={"name": name, **OPTIMIZERS[name]})
    optimizer = build_optimizer(network, settings)
    image, target = torch.randn(4, 2, 9, 9), torch.randint(0, 2, (4, 5, 5))
    losses = []
    for _ in range(30):
        set_lr(optimizer, 1e-2)
        loss = nn.functional.cross_entropy(network(image), target)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.95 * losses[0]
    for key, value in OPTIMIZERS[name].items():
        found = optimizer.param_groups[0][key]
        assert list(found) == value if isinstance(value, list) else found == value


def test_the_table_of_optimizers_is_the_configs():
    assert {name for kind in (Adaptive, Lion, Sgd) for name in names_of(kind)} == set(OPTIMIZERS)


def test_nesterov_is_what_it_says():
    nesterov = build_optimizer(Network(), Train(optimizer={"name": "sgd"}))
    assert nesterov.param_groups[0]["nesterov"]
    assert nesterov.param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize("decay_norm_and_bias", [False, True])
@pytest.mark.parametrize("factor", [1.0, 0.1])
def test_every_parameter_has_its_rate_and_decay(decay_norm_and_bias, factor):
    network = Network()
    settings = Train(lr=LR, weight_decay=0.3, encoder_lr_factor=factor, decay_norm_and_bias=decay_norm_and_bias)
    optimizer = build_optimizer(network, settings)
    set_lr(optimizer, 0.5 * LR)
    for name, parameter in network.named_parameters():
        group = group_of(optimizer, parameter)
        is_weight = parameter.ndim > 1
        assert group["weight_decay"] == (0.3 if is_weight or decay_norm_and_bias else 0.0), name
        assert group["lr"] == pytest.approx(0.5 * LR * (factor if name.startswith("encoder") else 1.0)), name


def test_group_factors_survive_a_checkpoint(tmp_path):
    settings = Train(lr=LR, encoder_lr_factor=0.1)
    optimizer = build_optimizer(Network(), settings)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    network = Network()
    loaded = build_optimizer(network, settings)
    loaded.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    set_lr(loaded, 1.0)
    assert group_of(loaded, network.encoder[0].weight)["lr"] == pytest.approx(0.1)
    assert group_of(loaded, network.decoder[0].weight)["lr"] == pytest.approx(1.0)


def test_a_lowered_plateau_lowers_no_rate_of_swa():
    settings = train("plateau", swa={"start_epoch": 4, "lr": 0.003, "anneal_epochs": 1})
    curve = [lr_at(step, STEPS, settings, scale=0.25) for step in range(EPOCHS * STEPS)]
    assert curve[0] == pytest.approx(LR / 4)
    assert curve[-1] == pytest.approx(0.003)


def test_no_optimizer_clips_by_itself():
    """`clip_grad_norm: null` is not clipped, and any other value is the only clipping."""
    network = nn.Linear(2, 2)
    optimizer = build_optimizer(network, Train(optimizer={"name": "lamb"}))
    assert optimizer.defaults["max_grad_norm"] is None
