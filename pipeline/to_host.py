"""Numbers on their way from the device: asked for once more work is queued, so that a GPU never waits for the host."""

import numpy as np
import torch


class ToHost:
    """Tensors that are being copied to the host."""

    def __init__(self, *values: torch.Tensor) -> None:
        self.host, self.arrived = [value.detach() for value in values], None
        if values[0].is_cuda:
            on_device = self.host
            self.host = [torch.empty(each.shape, dtype=each.dtype, pin_memory=True) for each in on_device]
            for host, each in zip(self.host, on_device, strict=True):
                host.copy_(each, non_blocking=True)
            self.arrived = torch.cuda.Event()
            self.arrived.record()

    def arrays(self) -> tuple[np.ndarray, ...]:
        """All of them, once they are there."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return tuple(each.numpy() for each in self.host)

    def number(self) -> float:
        """The scalar that was sent, alone."""
        (value,) = self.arrays()
        return float(value)
