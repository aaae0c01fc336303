"""On which machines and devices members are made, and what is done when one of them fails."""

from typing import Annotated

from pydantic import Field, model_validator

from config.base import Section

Device = Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")]
Devices = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] | Annotated[list[Device], Field(min_length=1)]


class Jobs(Section):
    """The machine. Only `split_batch`, and on CPUs `threads`, change a result; nothing makes one stale."""

    devices: Devices = "auto"
    """auto: every GPU, else the CPU; or cpu; or a GPU, or a list of GPUs: [cuda:0, cuda:1]. One stage run by hand
    takes the first."""
    per_device: int = Field(1, ge=1)
    """Jobs side by side on one GPU; more than 1 pays for small networks."""
    parallel: int = Field(0, ge=0)
    """Jobs side by side on a machine at most; 0: as many as its GPUs hold, on CPUs as many as its cores allow."""
    threads: int = Field(0, ge=0)
    """CPU threads of one job; 0: the cores divided by the jobs that can run side by side (1 on CPUs, when the
    experiment has that many members). On a CPU another number adds up in another order, and members come out a
    little different; the number of jobs side by side changes nothing."""
    loader_workers: int | None = Field(None, ge=0)
    """Processes that load and augment for one member; 0: the training process does it; null: none on a CPU, whose cores
    are the network's, and beside a GPU one for each CPU thread of the job, eight at most. Changes no result."""
    checkpoint_s: float = Field(60.0, ge=0)
    """Seconds between a training member's checkpoints: a kill costs at most this much training, and the scoring or the
    prediction that was under way."""
    retries: int = Field(2, ge=0)
    """A job that crashed or was killed goes on from its last checkpoint up to this many times."""
    split_batch: int = Field(1, ge=1)
    """Each batch goes through the network in this many parts whose gradients are added up: less memory, more time.
    Batch norm and dice see the parts alone, so members come out different. Predicted are as many times fewer images at
    once, which changes nothing."""
    shrink_batch: bool = False
    """When CUDA runs out of memory, the job goes on from its checkpoint with twice as many parts (split_batch); false:
    it is tried again as it is, and fails."""
    backend: str = "loky"
    """loky: this machine; dask: the workers of `dask`; or any other backend that is registered with joblib."""
    dask: Annotated[str, Field(pattern=r"^(tcp|tls|ucx|ws|wss)://.+")] | None = None
    """Address of a Dask scheduler, tcp://host:8786; implies that backend. See docs/cluster.md."""

    @property
    def device(self) -> str:
        """Where one stage run by hand works: auto, cpu, cuda:0, ..."""
        return self.devices if isinstance(self.devices, str) else self.devices[0]

    @model_validator(mode="after")
    def _consistent(self) -> "Jobs":
        devices = [self.devices] if isinstance(self.devices, str) else self.devices
        if len({"cuda:0" if device == "cuda" else device for device in devices}) < len(devices):
            raise ValueError("devices: one is given twice")
        if "cpu" in devices and len(devices) > 1:
            raise ValueError("devices: cpu stands alone; jobs on it would take the cores that feed the GPUs")
        if self.backend == "dask" and not self.dask:
            raise ValueError("backend dask needs the scheduler's address: jobs.dask=tcp://HOST:8786")
        return self

    @property
    def joblib_backend(self) -> str:
        return "dask" if self.dask else self.backend
