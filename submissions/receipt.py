"""What a zip was made from, in JSON beside it: enough to make it again, or to say why it would come out different."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from base.errors import UserError
from base.files import read_json, write_json
from base.stamps import changes
from base.version import code_version
from config import Run
from config.experiment import flat

# What the writer adds. The rest is the blend's: members and weights, decision, hashes, oof_miou, honest_miou,
# class_shares_oof (name -> share of the OOF labels), honest_confusion (C x C, rows truth).
ADDED = ("zip", "sha256", "bytes", "format", "encoder", "tiles", "class_shares", "warnings", "created")


def names_of(run: Run) -> dict[str, str]:
    """What a receipt says of whose zip it is."""
    return {"run": run.experiment.name, "blend": run.experiment.blend.name}


def receipt_path(path: Path) -> Path:
    """The receipt of a zip; of a receipt itself, it."""
    return path if path.name.endswith(".receipt.json") else path.with_suffix(".receipt.json")


def write_receipt(zip_path: Path, made_from: dict[str, Any], about: dict[str, Any]) -> Path:
    """Write the receipt of a zip: what it was made from, and what it is (keys of ADDED)."""
    created = datetime.now(UTC).isoformat(timespec="seconds")
    path = receipt_path(zip_path)
    write_json(path, {"code_version": code_version()} | made_from | about | {"created": created})
    return path


def read_receipt(path: Path) -> dict[str, Any]:
    """The receipt of a zip, given by its own path or the zip's.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = receipt_path(Path(path))
    try:
        receipt = read_json(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such receipt; it is written beside each zip") from None
    except ValueError as error:
        raise UserError(f"{path}: no receipt, or damaged ({error})") from None
    missing = [key for key in ADDED if key not in receipt] if isinstance(receipt, dict) else list(ADDED)
    if missing:
        raise UserError(f"{path}: not a receipt; it lacks {', '.join(missing)}")
    return receipt


def find_receipt(path: Path) -> dict[str, Any]:
    """The same; empty where there is none."""
    return read_receipt(path) if receipt_path(path).exists() else {}


def differences(receipt: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What the zip would be made from now that it was not made from then, as "weights.unet 0.4 -> 0.6".

    Args:
        now: the receipt that would be handed to `write_submission` now.
    """
    then = {key: value for key, value in receipt.items() if key not in ADDED}
    return changes(flat(then), flat({"code_version": code_version()} | now))
