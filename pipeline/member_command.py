"""What the commands that work on one member have in common: its lock, its device, and how they end when asked to."""

from collections.abc import Callable

import torch

from base.locks import held
from config import Member, Run
from pipeline.device import pick_device, set_up_cpu
from pipeline.stopping import Stopped, StopRequest

Work = Callable[[torch.device, StopRequest], str]
"""Returns what is said of its end."""


def work_on_member(run: Run, member: Member, work: Work, if_stopped: str = "the same command goes on") -> int:
    """Do some work on a member and say what came of it; the exit code.

    Args:
        if_stopped: what is said of what is left undone.
    """
    set_up_cpu(run.experiment)
    device = pick_device(run.experiment.jobs)
    try:
        with StopRequest() as stop, held(run.member_lock(member), f"member {member}"):
            said = work(device, stop)
    except Stopped:
        print(f"{member}: stopped; {if_stopped}", flush=True)
        return stop.exit_code
    print(said)
    return 0
