"""`last.pt`: all that the next step depends on, so that a killed run ends with the bits of an undisturbed one."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from base.errors import UserError
from base.files import whole_file
from models.averaging import Averages
from pipeline.schedule import Plateau


def checkpoint_path(folder: Path) -> Path:
    """Where a member's folder has its checkpoint; none once it is finished."""
    return folder / "last.pt"


@dataclass
class TrainState:
    """What training changes. `epoch` and `micro_step` say where it stands: that many are done."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    averages: Averages
    plateau: Plateau
    epoch: int = 0
    micro_step: int = 0
    loss_sum: float = 0.0
    """Of this epoch's micro-batches so far."""
    log: list[dict[str, float | int | None]] = field(default_factory=list)
    """One row per finished epoch; log.csv is written from it."""
    best_miou: float = -1.0
    skipped: int = 0
    """Steps without a finite gradient, in a row up to now; not saved: a resumed run counts anew."""

    def save(self, path: Path, identity: dict[str, Any]) -> None:
        """
        Args:
            identity: the member's keys and inputs, compared before anything is resumed.
        """
        random_state = {"cpu": torch.get_rng_state()}
        if next(self.network.parameters()).is_cuda:  # asked of the network: the question itself would wake a GPU
            random_state["cuda"] = torch.cuda.get_rng_state()
        with whole_file(path) as aside:
            torch.save(
                {
                    "identity": identity,
                    "network": self.network.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "scaler": self.scaler.state_dict(),
                    "averages": self.averages.state_dict(),
                    "plateau": self.plateau.state_dict(),
                    "epoch": self.epoch,
                    "micro_step": self.micro_step,
                    "loss_sum": self.loss_sum,
                    "log": self.log,
                    "best_miou": self.best_miou,
                    "random_state": random_state,
                },
                aside,
            )

    def load(self, path: Path, identity: dict[str, Any], device: torch.device) -> None:
        """Go on from `path`.

        Raises:
            UserError: unreadable, or a checkpoint of another experiment; names what differs.
        """
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            of = saved["identity"]
        except Exception as error:  # whatever a damaged or foreign file makes torch raise, or is instead
            raise UserError(
                f"{path}: not a checkpoint of ours ({' '.join(str(error).split())[:120]}). "
                f"Delete the member's folder to train it from the start"
            ) from None
        differing = sorted(key for key in identity if of.get(key) != identity[key])
        if differing:
            changes = ", ".join(f"{key} {of.get(key)} -> {identity[key]}" for key in differing[:10])
            # The member's stamp, which redo=stale heeds, is of this experiment or absent: somebody put the file here.
            raise UserError(
                f"{path}: checkpoint of another experiment: {changes}. "
                f"Delete the member's folder to train it from the start"
            )
        self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if saved["scaler"]:  # empty unless it was saved in fp16, which else begins with its first scale
            self.scaler.load_state_dict(saved["scaler"])
        self.averages.load_state_dict(saved["averages"])
        self.plateau.load_state_dict(saved["plateau"])
        self.epoch, self.micro_step = saved["epoch"], saved["micro_step"]
        self.loss_sum, self.log, self.best_miou = saved["loss_sum"], saved["log"], saved["best_miou"]
        torch.set_rng_state(saved["random_state"]["cpu"])
        if device.type == "cuda" and "cuda" in saved["random_state"]:
            torch.cuda.set_rng_state(saved["random_state"]["cuda"])
