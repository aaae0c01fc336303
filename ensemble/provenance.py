"""What a zip of labels is made from: said in its receipt, and compared with what it would be made from now."""

from pathlib import Path
from typing import Any

import numpy as np

from base.errors import UserError
from base.files import hash_file, hash_value
from config import Experiment, Run
from config.ensemble import Blend
from config.run import PLACE_KEYS, experiment_path
from ensemble.fitted import FittedBlend
from ensemble.stores import UnseenStores
from pipeline.store import MANIFEST
from submissions.receipt import differences, names_of

MACHINE = ("runs_dir", "zips_dir", "name")  # keys of an experiment that change no label


def made_from(run: Run, blend: FittedBlend, source: UnseenStores) -> dict[str, Any]:
    """What the labels depend on: with the same, the same bytes come out again."""
    experiment = {key: value for key, value in run.experiment.dump().items() if key not in MACHINE}
    data = {key: value for key, value in experiment["data"].items() if f"data.{key}" not in PLACE_KEYS}
    experiment |= {"data": data}
    return {
        **names_of(run),
        "fitted": blend.to_json(),
        "weights": dict(zip(blend.models, np.mean(blend.weight_MC, axis=1).tolist(), strict=True)),
        "combination": blend.combination,
        "decision": blend.kinds.get("decision", "argmax"),
        "members": {name: store.manifest["members"] for name, store in source.stores.items()},
        "stores_sha256": store_hashes(run, source),
        "tiles_sha256": hash_file(run.tiles_csv),
        "folds_sha256": hash_file(run.folds_csv),
        "experiment_sha256": hash_value(experiment),
        "experiment": experiment,
    }


def changes_since(receipt: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between a receipt and `made_from` now."""
    then = {key: receipt[key] for key in ("code_version", *now) if key in receipt}
    # The hash says no more than the keys, which are named; receipts of older code name test labels too.
    silent = ("experiment_sha256 ", "experiment.data.test_masks ")
    return [change for change in differences(then, now) if not change.startswith(silent)]


def run_of_receipt(experiment: Experiment, receipt: dict[str, Any]) -> Run:
    """The experiment's run with the blend of a receipt, so that nobody has to say its keys again.

    Raises:
        UserError: the receipt is of another run.
    """
    if receipt.get("run", experiment.name) != experiment.name:
        record = experiment_path(Path(experiment.runs_dir) / receipt["run"])
        raise UserError(
            f"the receipt is of run {receipt['run']!r}, the experiment is {experiment.name!r}: give --config {record}"
        )
    if "experiment" not in receipt:
        return Run(experiment)
    return Run(experiment.model_copy(update={"blend": Blend.model_validate(receipt["experiment"]["blend"])}))


def store_hashes(run: Run, source: UnseenStores) -> dict[str, str]:
    """Model -> sha256 of its test store's manifest."""
    models = {model.name: model for model in run.experiment.models}
    return {name: hash_file(run.test_store(models[name]) / MANIFEST) for name in source.stores}
