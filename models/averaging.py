"""Averages of the weights, kept beside them while training: EMA over steps, SWA over the last epochs."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from config.training import Train


class Averages:
    """The averages that a training section asks for, by the name under which their weights are written."""

    def __init__(self, network: nn.Module, train: Train) -> None:
        """
        Args:
            network: its weights at the start; the averages lie on its device.
        """
        self.models: dict[str, AveragedModel] = {}
        if train.ema:
            self.models["ema"] = Ema(network, train.ema.decay)
        if train.swa:
            self.models["swa"] = AveragedModel(network)
        self.swa_start = train.swa.start_epoch if train.swa else None

    def after_step(self, network: nn.Module) -> None:
        """To be called after each optimizer step."""
        if "ema" in self.models:
            self.models["ema"].update_parameters(network)

    def after_epoch(self, network: nn.Module, epochs_done: int) -> None:
        """To be called at the end of each epoch."""
        if self.swa_start is not None and epochs_done > self.swa_start:
            self.models["swa"].update_parameters(network)

    def networks(self) -> dict[str, nn.Module]:
        """The averaged networks that have averaged anything; their batch statistics are still to be estimated."""
        return {name: model.module for name, model in self.models.items() if model.n_averaged > 0}

    def state_dict(self) -> dict[str, Any]:
        return {name: model.state_dict() for name, model in self.models.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, model in self.models.items():
            model.load_state_dict(state[name])


class Ema(AveragedModel):
    """Exponential moving average: decay x average + (1 - decay) x weights, from the first weights on.

    After t steps the decay is (1 + t) / (10 + t) at most, as in TensorFlow's ExponentialMovingAverage with
    `num_updates`: by .999 alone the weights of the first step would still be a third of the average after 1,000.

    Buffers too: until the batch statistics are estimated anew, those of the average fit it best. Numbers as torch's
    `get_ema_multi_avg_fn` has them; but torch copies its counter to the device at every step, for which the host waits
    until a GPU has caught up with it.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network, use_buffers=True)
        self.decay = decay
        self._of: tuple[nn.Module, Tensors, Tensors] | None = None
        """The network of the last update, and tensors of the average and its own."""

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        if self._of is None or self._of[0] is not model:
            # Once: finding the tensors of a large network takes longer than naming its kernels.
            self._of = (model, Tensors.of(self.module), Tensors.of(model))
        _, average, now = self._of
        steps = int(self.n_averaged)  # stays on the host
        if steps == 0:
            torch._foreach_copy_(average.floats, now.floats)
        else:
            decay = min(self.decay, (1 + steps) / (10 + steps))
            torch._foreach_lerp_(average.floats, now.floats, 1 - decay)
        if now.others:
            torch._foreach_copy_(average.others, now.others)
        self.n_averaged += 1


class Tensors(NamedTuple):
    """A network's parameters and buffers."""

    floats: list[Tensor]
    others: list[Tensor]
    """Integers, as counters are; no average of them means anything."""

    @classmethod
    def of(cls, network: nn.Module) -> "Tensors":
        both = [*network.parameters(), *network.buffers()]
        return cls(*([each for each in both if each.is_floating_point() == wanted] for wanted in (True, False)))
