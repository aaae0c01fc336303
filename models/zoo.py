"""Networks by name: any smp architecture on any smp or timm encoder, with random, ImageNet or local weights."""

import difflib
import inspect
import re
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import nn

from base.errors import UserError, listed, nearest, refuse_all
from config.training import Model

ARCHITECTURES = {arch.lower(): arch for arch in (
    "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "PAN", "UPerNet",
    "Segformer", "DPT",
)}  # fmt: skip
DIVISOR = 32  # every architecture takes sides that are multiples of it


def build_model(model: Model, in_channels: int, num_classes: int) -> nn.Module:
    """The network of a model: (N, in_channels, H, W) float -> logits (N, num_classes, H, W), H and W multiples of 32.

    Raises:
        UserError: unknown architecture, encoder or argument, or encoder weights that do not fit; names what is known.
    """
    refuse_all(f"model {model.name}", [*_misfits_of_arch(model), *_misfits_of_encoder(model)])
    _check_params(model)
    download = model.encoder_weights == "imagenet"
    # timm's encoders take a flag (the weights' name is part of the encoder's), smp's take the weights' name.
    pretrained = (True if model.encoder.startswith("tu-") else "imagenet") if download else None
    try:
        network = smp.create_model(
            model.arch,
            encoder_name=model.encoder,
            encoder_weights=pretrained,
            in_channels=in_channels,
            classes=num_classes,
            **model.params,
        )
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"model {model.name}: {model.arch} with {model.encoder} and {model.params}: {error}") from None
    except (OSError, RuntimeError) as error:
        if not download:
            raise
        raise UserError(
            f"model {model.name}: ImageNet weights of {model.encoder} could not be downloaded ({error}). "
            f"Set encoder_weights to null, or to a local .safetensors or .pth file"
        ) from None
    if model.encoder_weights and not download:
        load_encoder(network.encoder, Path(model.encoder_weights), in_channels)
    return network


def load_encoder(encoder: nn.Module, path: Path, in_channels: int) -> None:
    """Load a local file of encoder weights in place; keys outside the encoder (a classifier's head) are left aside.

    A first layer made for 3 bands is repeated over `in_channels` bands and scaled by 3 / in_channels, as timm does.

    Raises:
        UserError: no such file, not weights, parameters that are missing in it or have another shape.
    """
    weights = _read_weights(path)
    # timm's networks stand one level deeper in smp's wrapper; their files do not know of it.
    wanted = encoder.state_dict()
    if not wanted.keys() & weights.keys():
        weights = {f"model.{key}": value for key, value in weights.items()}
    # Of many networks timm's feature extractor has the stages beside each other, stages.0 of a file as stages_0.
    flat = {re.sub(r"^model\.([a-z_]+)\.(\d+)\.", r"model.\1_\2.", key): value for key, value in weights.items()}
    weights = flat | weights
    missing = [key for key in wanted if key not in weights and not key.endswith("num_batches_tracked")]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of {len(wanted)} encoder parameters are not in it: {listed(missing, 3)}"
        )
    weights = {key: weights[key] for key in wanted if key in weights}
    for key, value in weights.items():
        if value.ndim == 4 and value.shape[1] == 3 != wanted[key].shape[1] == in_channels:
            weights[key] = adapt_input_conv(in_channels, value)
    odd = [
        f"{key} {tuple(value.shape)} for {tuple(wanted[key].shape)}"
        for key, value in weights.items()
        if value.shape != wanted[key].shape
    ]
    if odd:
        raise UserError(f"{path}: {len(odd)} parameters have another shape: {listed(odd, 3)}")
    encoder.load_state_dict(weights, strict=False)


def padded_logits(network: nn.Module, image_NCHW: torch.Tensor) -> torch.Tensor:
    """Logits for any height and width: sides are padded to multiples of 32 by their edge, and the logits cut back.

    smp's FPN and PSPNet enlarge by a fixed factor, made for one `encoder_depth`; of another, their logits come in
    another size than the image's, and are resized.
    """
    height, width = image_NCHW.shape[-2:]
    below, right = -height % DIVISOR, -width % DIVISOR
    if below or right:
        # The edge's own values: a reflection would need sides larger than the padding, zeros would be a new object.
        image_NCHW = nn.functional.pad(image_NCHW, (0, right, 0, below), mode="replicate")
    logits_NCHW = network(image_NCHW)
    if logits_NCHW.shape[-2:] != image_NCHW.shape[-2:]:
        size = image_NCHW.shape[-2:]
        logits_NCHW = nn.functional.interpolate(logits_NCHW, size, mode="bilinear", align_corners=False)
    return logits_NCHW[..., :height, :width]


def _misfits_of_arch(model: Model) -> list[str]:
    known = [*ARCHITECTURES.values()]
    return [] if model.arch.lower() in ARCHITECTURES else [f"unknown arch {model.arch!r}{nearest(model.arch, known)}"]


def _misfits_of_encoder(model: Model) -> list[str]:
    name = model.encoder
    if name.startswith("timm-"):
        timms = [f"tu-{each}" for each in timm.list_models()]
        new = name.replace("timm-", "tu-")
        new = new if new in timms else difflib.get_close_matches(new, timms, n=1, cutoff=0.0)[0]
        return [f"encoder {name!r} is an old name of smp; write {new!r}"]
    if name.startswith("tu-"):
        known = [f"tu-{each}" for each in timm.list_models()]
        plain = name.split(".")[0]  # tu-resnet18.a1_in1k names a set of weights too
    else:
        known, plain = smp.encoders.get_encoder_names(), name
        known = [each for each in known if not each.startswith("timm-")]
    if plain in known:
        return []
    close = nearest(plain, known) if len(known) < 100 else nearest(plain, known).split("known:")[0]
    return [f"unknown encoder {name!r}{close.rstrip('; ')}"]


def _check_params(model: Model) -> None:
    """smp hands unknown arguments to the encoder, and its own encoders drop them without a word."""
    if model.encoder.startswith("tu-"):
        return  # timm takes arguments of its own, and refuses unknown ones
    taken = inspect.signature(getattr(smp, ARCHITECTURES[model.arch.lower()])).parameters
    known = [
        name for name in taken if name not in ("encoder_name", "encoder_weights", "in_channels", "classes", "kwargs")
    ]
    unknown = [f"{name!r}{nearest(name, known)}" for name in model.params if name not in known]
    if unknown:
        raise UserError(f"model {model.name}: {model.arch} takes no params {', '.join(unknown)}")


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    if not path.exists():
        raise UserError(f"{path}: no such file; encoder_weights is null, imagenet, or a local file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds for a file that is not theirs
        raise UserError(f"{path}: not a file of weights ({' '.join(str(error).split())[:160]})") from None
    weights = weights.get("state_dict", weights) if isinstance(weights, dict) else weights
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise UserError(f"{path}: expected a dict of tensors")
    return weights
