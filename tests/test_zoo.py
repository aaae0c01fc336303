import pytest
import timm
import torch
from safetensors.torch import save_file

from base.errors import UserError
from config.training import Model
from models.zoo import ARCHITECTURES, DIVISOR, build_model, padded_logits

SMALL = {"name": "m", "encoder": "resnet18"}


@pytest.mark.parametrize("arch", ARCHITECTURES.values())
def test_every_architecture_maps_4_bands_to_classes_and_back_propagates(arch):
    encoder = "tu-vit_tiny_patch16_224" if arch == "DPT" else "resnet18"
    network = build_model(Model(name="m", arch=arch, encoder=encoder), in_channels=4, num_classes=3)
    side = {"DPT": 224, "PAN": 128}.get(arch, 64)
    logits = network.train()(torch.rand(2, 4, side, side))
    assert logits.shape == (2, 3, side, side)
    logits.square().mean().backward()
    # A decoder may leave a deep layer of its encoder aside; the first layer is always on the way.
    first = next(p for p in network.encoder.parameters() if p.ndim == 4)
    assert first.shape[1] == 4
    assert first.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "Unett"}, "unknown arch 'Unett'; did you mean Unet"),
        ({"arch": "smp"}, "Segformer"),
        ({"encoder": "resnet19"}, "did you mean resnet"),
        ({"encoder": "tu-convnext_tny"}, "did you mean tu-convnext_tiny"),
        ({"encoder": "timm-efficientnet-b0"}, "write 'tu-efficientnet_b0'"),
        ({"params": {"decoder_chanels": [1]}}, "decoder_chanels"),
        ({"encoder_weights": "no/such/file.pth"}, "no such file"),
    ],
)
def test_mistakes_name_what_is_known(changes, message):
    with pytest.raises(UserError, match=message):
        build_model(Model(**SMALL | changes), in_channels=4, num_classes=3)


@pytest.mark.parametrize("encoder", ["resnet18", "tu-mobilenetv3_small_100"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("bands", [3, 4, 7])
def test_local_encoder_weights_are_loaded_and_the_first_layer_fits_the_bands(tmp_path, encoder, suffix, bands):
    source = build_model(Model(name="m", encoder=encoder), in_channels=3, num_classes=2).encoder
    weights = {key.removeprefix("model."): value.contiguous() for key, value in source.state_dict().items()}
    weights["fc.weight"] = torch.ones(2, 2)  # a classifier's head comes along and is left aside
    path = tmp_path / f"encoder{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)

    loaded = build_model(Model(name="m", encoder=encoder, encoder_weights=str(path)), bands, 2).encoder
    wanted, found = source.state_dict(), loaded.state_dict()
    other = [key for key in wanted if wanted[key].shape != found[key].shape]
    assert len(other) == (0 if bands == 3 else 1)
    for key in wanted.keys() - set(other):
        torch.testing.assert_close(found[key], wanted[key])
    for key in other:  # the response to equal bands stays the same
        torch.testing.assert_close(found[key].sum(1), wanted[key].repeat(1, 3, 1, 1)[:, :bands].sum(1) * 3 / bands)


@pytest.mark.parametrize(
    ("encoder", "arch"),
    [("convnext_atto", "UPerNet"), ("edgenext_xx_small", "UPerNet"), ("pvt_v2_b0", "UPerNet"),
     ("swin_tiny_patch4_window7_224", "UPerNet"), ("maxvit_rmlp_pico_rw_256", "Unet"), ("coatnet_pico_rw_224", "Unet"),
     ("regnety_002", "Unet"), ("vit_tiny_patch16_224", "DPT")],
)  # fmt: skip
def test_timms_own_files_fit_its_encoders(tmp_path, encoder, arch):
    """As `timm.create_model` gives them, and the hub has them: head and all, with the names of the whole network."""
    torch.manual_seed(3)
    source = timm.create_model(encoder, pretrained=False)
    path = tmp_path / "encoder.safetensors"
    save_file({key: value.contiguous() for key, value in source.state_dict().items()}, path)
    loaded = build_model(Model(name="m", arch=arch, encoder=f"tu-{encoder}", encoder_weights=str(path)), 3, 4).encoder
    tensors = {value.numpy().tobytes() for value in source.state_dict().values()}
    assert all(value.numpy().tobytes() in tensors for value in loaded.state_dict().values())


def test_foreign_files_are_refused(tmp_path):
    (tmp_path / "text.pth").write_text("no weights")
    torch.save({"conv1.weight": torch.ones(1)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    for name, message in (("text.pth", "not a file of weights"), ("other.pth", "are not in it"), ("list.pth", "dict")):
        with pytest.raises(UserError, match=message):
            build_model(Model(**SMALL, encoder_weights=str(tmp_path / name)), 4, 2)


@pytest.mark.parametrize("size", [(64, 64), (50, 64), (33, 70), (5, 97)])
def test_padding_gives_logits_of_the_images_size(size):
    def network(image):
        assert image.shape[-2] % DIVISOR == image.shape[-1] % DIVISOR == 0
        return image * 2

    image = torch.rand(2, 4, *size)
    torch.testing.assert_close(padded_logits(network, image), image * 2)


@pytest.mark.parametrize(("arch", "depth"), [("FPN", 3), ("FPN", 4), ("FPN", 5), ("PSPNet", 3), ("PSPNet", 4)])
@pytest.mark.parametrize("size", [(64, 64), (50, 70)])
def test_any_depth_of_encoder_gives_logits_of_the_images_size(arch, depth, size):
    network = build_model(Model(name="a", arch=arch, encoder="resnet18", params={"encoder_depth": depth}), 4, 3).eval()
    assert padded_logits(network, torch.rand(2, 4, *size)).shape == (2, 3, *size)


def test_logits_of_another_size_keep_their_place():
    """A ramp over half the image's size, resized, is the ramp of the image but for its ends."""
    ramp = torch.arange(64.0).expand(1, 1, 64, 64).contiguous()
    half = padded_logits(lambda image: image[..., ::2, ::2] + 0.5, ramp)
    torch.testing.assert_close(half[..., 1:-1, 1:-1], ramp[..., 1:-1, 1:-1])
