"""Open a run: the first line of every stage.

What exists is compared with what the experiment would make now: members that would come out different stop the run, and
nothing is ever mixed silently.
"""

import shutil
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile

import yaml

from base.errors import UserError, listed, refuse_all
from base.files import hash_file, write_text
from base.locks import held
from base.stamps import file_stamp, read_stamp
from config.experiment import Experiment
from config.run import Member, Run, experiment_path
from config.training import Model


def refuse_unwritable(experiment: Experiment) -> None:
    """Where results and zips go can be made and written: asked where the main job begins, before time is spent.

    Raises:
        UserError: lists those that cannot.
    """
    problems = []
    for key in ("runs_dir", "zips_dir"):
        path = Path(getattr(experiment, key))
        try:
            path.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=path):
                pass
        except OSError as error:
            problems.append(f"{key} {path} ({error.strerror})")
    refuse_all("folders that cannot be made or written", problems)


def _refuse_damaged(tiles_csv: Path) -> None:
    """Before members are compared with it: a table that was cut short would make all of them look stale.

    Raises:
        UserError: the table is not what was written.
    """
    stamp = read_stamp(file_stamp(tiles_csv))
    if stamp and tiles_csv.exists() and stamp.outputs.get(tiles_csv.name) != hash_file(tiles_csv):
        raise UserError(
            f"{tiles_csv} was changed after it was made. Run: python -m folds.tiles --config FILE, which makes it again"
        )


def stale_members(run: Run) -> dict[Member, list[str]]:
    """Members, finished or begun, that would come out different now, each with what differs."""
    stale = {}
    for member in run.members():
        result = run.member_result(member)
        stamp = read_stamp(result.stamp_path)
        # A table that is not there is made again before it is compared.
        changed = stamp.differences(result.keys, stamp.inputs | result.inputs) if stamp else []
        if changed:
            stale[member] = changed
    return stale


def untrained_models(run: Run) -> list[Model]:
    """The models with a member that is still to be trained."""
    return [
        model
        for model in run.experiment.models
        if not all(run.member_result(member).is_fresh() for member in run.members(model))
    ]


def open_run(experiment: Experiment) -> Run:
    """The run of an experiment, its `experiment.yaml` written.

    Raises:
        UserError: `tiles.csv` was changed after it was made; or members exist that were made with other keys or files,
            and `redo=stale` was not said; or it was, and one of them is just being trained.
    """
    run = Run(experiment)
    _refuse_damaged(run.tiles_csv)
    stale = stale_members(run)
    if stale and experiment.redo != "stale":
        changes = sorted({change for changed in stale.values() for change in changed})
        raise UserError(
            f"run {experiment.name!r}: {len(stale)} members were made from something else ({listed(stale)}); "
            f"what differs: {listed(changes)}. Say redo=stale to throw them away and train again, "
            f"or give this run another name (name=...)"
        )
    with ExitStack() as locks:
        for member in stale:
            locks.enter_context(held(run.member_lock(member), f"member {member}, which redo=stale would throw away,"))
        for member in stale:
            shutil.rmtree(run.member_dir(member))
    text = yaml.safe_dump(experiment.dump(), sort_keys=False, allow_unicode=True)
    path = experiment_path(run.dir)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    return run
