"""What of a member is finished and valid, and what its stores say that they were made from.

Without torch, so that a grid of hundreds of members is planned at once.
"""

from pathlib import Path
from typing import Any, Literal

from base.errors import UserError
from base.files import hash_value
from base.stamps import folder_stamp, read_stamp
from config import Member, Run
from config.training import Model
from pipeline.record import weights_path
from pipeline.store import open_store

Kind = Literal["oof", "test"]
STEPS = ("train", "oof", "test")
SECONDS = "seconds.json"  # beside a store's own files and part of no hash: tiles, and the seconds that they took


def member_is_finished(run: Run, member: Member) -> bool:
    """Whether the member's training has ended, and would come out the same now."""
    return run.member_result(member).is_fresh()


def weights_hash(run: Run, member: Member) -> str | None:
    """sha256 of the weights that `predict.weights` names, as written down when they were made, several joined by +.

    None: not all of them are there.
    """
    folder = run.member_dir(member)
    stamp, kinds = read_stamp(folder_stamp(folder)), run.experiment.predict.weight_kinds
    hashes = [stamp.outputs.get(weights_path(folder, kind).name) for kind in kinds] if stamp else []
    return "+".join(hashes) if hashes and all(hashes) else None


def member_facts(run: Run, member: Member, kind: Kind) -> dict[str, Any]:
    """What the manifest of a member's store, of its held-out fold or of the test tiles, says if it was made now."""
    return {
        "kind": kind,
        "model": member.model.name,
        "fold": member.fold,
        "seed": member.seed,
        "target": member.model.target,
        "variant": run.variant,
        "weights_sha256": weights_hash(run, member),
        "inputs": run.member_inputs() | (run.test_inputs() if kind == "test" else {}),
        "keys_sha256": hash_value(run.member_keys(member.model)),
    }


def mean_facts(run: Run, model: Model) -> dict[str, Any]:
    """The same of a model's test store, the mean over its members."""
    return {
        "kind": "test",
        "model": model.name,
        "variant": run.variant,
        "members": {str(member): weights_hash(run, member) for member in run.members(model)},
        "inputs": run.test_inputs(),
    }


def mean_is_finished(run: Run, model: Model) -> bool:
    """Whether the model's test store is there, of the test tiles and by the weights that all its members have now."""
    return _says(run.test_store(model), mean_facts(run, model))


def part_is_finished(run: Run, member: Member) -> bool:
    """Whether the member's own predictions of these test tiles are there, and made from its weights."""
    return _is_made_from(run.test_part(member), member_facts(run, member, "test"))


def oof_is_finished(run: Run, member: Member) -> bool:
    """Whether the member's predictions of its held-out fold are there, and made from its weights."""
    return _is_made_from(run.oof_store(member), member_facts(run, member, "oof"))


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


def _is_made_from(path: Path, facts: dict[str, Any]) -> bool:
    return facts["weights_sha256"] is not None and _says(path, facts)


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
