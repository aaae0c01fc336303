"""What of a member is finished and valid. Without torch, so that a grid of hundreds of members is planned at once."""

from pathlib import Path
from typing import Any

from base.errors import UserError
from base.stamps import folder_stamp, read_stamp
from config import Member, Run
from config.training import Model
from pipeline.store import open_store

STEPS = ("train", "oof", "test")
SECONDS = "seconds.json"  # beside a store's own files and part of no hash: tiles, and the seconds that they took


def member_is_finished(run: Run, member: Member) -> bool:
    """Whether the member's training has ended, and would come out the same now."""
    return run.member_result(member).is_fresh()


def weights_hash(run: Run, member: Member) -> str | None:
    """sha256 of the weights that `predict.weights` names, as written down when they were made, several joined by +.

    None: not all of them are there.
    """
    stamp = read_stamp(folder_stamp(run.member_dir(member)))
    hashes = [stamp.outputs.get(f"{kind}.safetensors") for kind in run.experiment.predict.weight_kinds] if stamp else []
    return "+".join(hashes) if hashes and all(hashes) else None


def mean_is_finished(run: Run, model: Model) -> bool:
    """Whether the model's test store is there, of the test tiles and by the weights that all its members have now."""
    wanted = {"members": {str(member): weights_hash(run, member) for member in run.members(model)}}
    return _says(run.test_store(model), wanted | {"inputs": run.test_inputs()})


def part_is_finished(run: Run, member: Member) -> bool:
    """Whether the member's own predictions of these test tiles are there, and made from its weights."""
    made_from = weights_hash(run, member)
    inputs = run.member_inputs() | run.test_inputs()
    return made_from is not None and _says(run.test_part(member), {"weights_sha256": made_from, "inputs": inputs})


def oof_is_finished(run: Run, member: Member) -> bool:
    """Whether the member's predictions of its held-out fold are there, and made from its weights."""
    made_from = weights_hash(run, member)
    return made_from is not None and _says(run.oof_store(member), {"weights_sha256": made_from})


def steps_left(run: Run, member: Member, has_test: bool) -> list[str]:
    """Those of `STEPS` that a job of this member would do now."""
    wanted = {"train": True, "oof": member.fold is not None, "test": has_test}
    if not member_is_finished(run, member):
        return [step for step in STEPS if wanted[step]]
    left = []
    if wanted["oof"] and not oof_is_finished(run, member):
        left.append("oof")
    if has_test and not part_is_finished(run, member) and not mean_is_finished(run, member.model):
        left.append("test")
    return left


def _says(path: Path, wanted: dict[str, Any]) -> bool:
    """Whether a store's manifest holds all of this; no where there is no store, or a damaged one, of which the job will
    say more."""
    if not path.exists():
        return False
    try:
        manifest = open_store(path).manifest
    except UserError:
        return False
    return all(manifest.get(key) == value for key, value in wanted.items())
