"""The laws that no pretended GPU can show: on the CPU and, where there is one, on a real GPU."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from config import Member, Run, load_experiment, open_run
from folds.assign import make_folds
from folds.tiles import read_tiles
from models.averaging import Ema
from models.zoo import build_model
from pipeline.forward import Predictor
from pipeline.members import load_member
from pipeline.outputs import decisions, stored
from pipeline.pack import open_pack
from pipeline.predict import predict_oof
from pipeline.quantise import STORE_DTYPES, quantise
from pipeline.record import weights_path
from pipeline.setup import set_up
from pipeline.stopping import Stopped, StopRequest
from pipeline.store import open_store
from pipeline.to_host import ToHost
from pipeline.train import train_member
from tests.stored import read_many_raw
from tests.test_store import random_probs
from tests.test_train import EVERYTHING, StopAfter
from tests.tiny import tiny_values, write_config, write_tiny

no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.fixture(params=["cpu", pytest.param("cuda:0", marks=no_gpu)])
def device(request) -> torch.device:
    device = torch.device(request.param)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


@pytest.fixture
def exact():
    """float32 is float32: TF32 would round as bf16 nearly does."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def run_of(tmp_path: Path, name: str = "tiny", workers: int = 2, **train) -> Run:
    if not (tmp_path / "data").exists():
        write_tiny(tmp_path / "data")
    values = tiny_values(tmp_path / "data", tmp_path) | {"name": name, "jobs": {"loader_workers": workers}}
    values["train"] |= train
    run = open_run(load_experiment(write_config(tmp_path / f"{name}.yaml", values)))
    make_folds(run)
    return run


def member_of(run: Run) -> Member:
    return Member(run.experiment.models[0], 0, 0)


def weights_of(run: Run, kind: str) -> dict[str, torch.Tensor]:
    return load_file(weights_path(run.member_dir(member_of(run)), kind))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stopped_training_goes_on_with_the_same_batches_to_the_same_weights(tmp_path, device, exact, precision):
    """To the bit on a CPU; on a GPU, whose sums may come in another order, nearly."""
    whole, again = (run_of(tmp_path, name, **EVERYTHING, precision=precision) for name in ("whole", "again"))
    train_member(whole, member_of(whole), device, StopRequest())
    with pytest.raises(Stopped):
        train_member(again, member_of(again), device, StopAfter(4))
    train_member(again, member_of(again), device, StopRequest())
    for kind in ("last", "ema", "swa", "best"):
        for (key, wanted), value in zip(weights_of(whole, kind).items(), weights_of(again, kind).values(), strict=True):
            near = {"atol": 0.0, "rtol": 0.0} if device.type == "cpu" else {"atol": 1e-3, "rtol": 1e-2}
            torch.testing.assert_close(value, wanted, **near, msg=f"{kind}: {key}")


@no_gpu
def test_fp16_trains_where_its_losses_are_scaled(tmp_path):
    run = run_of(tmp_path, **EVERYTHING, precision="fp16")
    train_member(run, member_of(run), torch.device("cuda:0"), StopRequest())
    assert all(value.isfinite().all() for value in weights_of(run, "ema").values())


def test_what_is_stored_is_what_the_host_makes_of_the_devices_probabilities(tmp_path, device):
    run = run_of(tmp_path, epochs=1)
    member = member_of(run)
    train_member(run, member, device, StopRequest())
    store = open_store(predict_oof(run, member, device, StopRequest()))
    loaded, pack = load_member(run, member, device), open_pack(run, read_tiles(run.tiles_csv))
    rows = np.array([pack.train_names.index(name) for name in store.names])
    predictor = loaded.predictor(run.experiment.predict, "auto", device)
    probs = np.concatenate(list(predictor.probs(pack.train_image_NHWB, rows)))
    assert np.array_equal(read_many_raw(store, range(len(store))), quantise(probs))


def test_every_device_predicts_as_the_cpu_does_in_float32(tmp_path, device, exact):
    run = run_of(tmp_path, epochs=1)
    member = member_of(run)
    train_member(run, member, torch.device("cpu"), StopRequest())
    pack = open_pack(run, read_tiles(run.tiles_csv))
    settings = run.experiment.predict.model_copy(update={"tta": "d4", "stretch": [2.0], "batch": 32})
    probs = {}
    for place in (torch.device("cpu"), device):
        loaded = load_member(run, member, place)
        predictor = Predictor(loaded.networks * 2, loaded.preparation, settings, "fp32", place)
        tiles = pack.train_image_NHWB, np.array([7, 2, 2, 0, 5])
        probs[place] = np.concatenate(list(predictor.probs(*tiles)))
        whole = np.concatenate([index for (index,) in predictor.outputs(*tiles, decisions)])
        assert np.array_equal(whole, probs[place].argmax(1))
    np.testing.assert_allclose(probs[device], probs[torch.device("cpu")], atol=1e-4)


@pytest.mark.parametrize("dtype", STORE_DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 10])
def test_a_device_rounds_to_the_bit_as_the_host_does(device, channels, dtype):
    probs = random_probs(3, max(channels, 2))[:, :channels]
    values, sound = stored(torch.from_numpy(probs).to(device), dtype)
    assert sound.tolist() == [True] * 3
    assert np.array_equal(values.cpu().numpy(), quantise(probs, dtype))


def test_an_ema_is_the_mean_of_its_formula(device):
    network = build_model(run_model(), 4, 3).to(device)
    ema, expected = Ema(network, 0.8), None
    for step in range(4):
        with torch.no_grad():
            for weight in network.parameters():
                weight.add_(step + 1)
        ema.update_parameters(network)
        now = [weight.detach().double() for weight in network.parameters()]
        kept = min(0.8, (1 + step) / (10 + step))
        expected = now if step == 0 else [kept * e + (1 - kept) * n for e, n in zip(expected, now, strict=True)]
    for average, wanted in zip(ema.module.parameters(), expected, strict=True):
        torch.testing.assert_close(average.double(), wanted, atol=1e-5, rtol=1e-5)


def run_model():
    return load_experiment("configs/demo.yaml").models[0].model_copy(update={"encoder_weights": None})


def test_a_loss_arrives_early_and_as_it_was(device):
    value = torch.tensor(3.0, device=device) * 1.5
    early = ToHost(value)
    value.mul_(0)
    assert early.number() == (4.5 if device.type == "cuda" else 0.0)


def test_the_batches_of_a_gpu_are_pinned(tmp_path, device):
    setup = set_up(run_of(tmp_path, augment=[{"name": "mixup", "p": 1.0}]), member_of(run_of(tmp_path)), device)
    setup.batches.begin(0, end=1)
    batch = next(iter(setup.loader))
    tensors = (batch.pixels_NHWB, batch.target_NHW, batch.second_NHW, batch.share_N)
    assert [tensor.is_pinned() for tensor in tensors] == [device.type == "cuda"] * 4
    assert batch.valid > 0
