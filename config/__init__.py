"""Every knob of an experiment, checked when it is read, and what each stage's result depends on."""

from config.experiment import Experiment, load_experiment
from config.opening import open_run, refuse_unwritable, stale_members, untrained_models
from config.run import Member, Run

__all__ = [
    "Experiment",
    "Member",
    "Run",
    "load_experiment",
    "open_run",
    "refuse_unwritable",
    "stale_members",
    "untrained_models",
]
