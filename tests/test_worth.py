"""What a model costs: the seconds that its members took for the tiles they predicted."""

import numpy as np
import pytest
import torch

from base.files import hash_file, read_json, write_json
from config import Run, load_experiment, open_run
from config.ensemble import PLAIN_MEAN, Blend
from ensemble.fit import fit_blend
from ensemble.sample import draw_sample
from ensemble.worth import member_counts, model_worth, same_kinds, seconds_per_1000_tiles
from folds.assign import make_folds
from pipeline.check import check_stores
from pipeline.finished import SECONDS
from pipeline.predict import predict_oof
from pipeline.stopping import StopRequest
from pipeline.store import MANIFEST
from pipeline.train import train_member
from tests.posteriors import random_source
from tests.tiny import tiny_values, write_config, write_tiny

CPU, GO_ON = torch.device("cpu"), StopRequest()


def test_predictions_say_how_long_they_took_and_that_is_in_no_hash(tmp_path):
    values = tiny_values(write_tiny(tmp_path / "data", train=6, test=3), tmp_path)
    values["train"] |= {"epochs": 1}
    values["folds"]["k"] = 2
    run = open_run(load_experiment(write_config(tmp_path / "tiny.yaml", values)))
    make_folds(run)
    (model,) = run.experiment.models
    assert np.isnan(seconds_per_1000_tiles(run)[model.name])
    first, second = run.members()
    train_member(run, first, CPU, GO_ON)
    path = predict_oof(run, first, CPU, GO_ON)
    took, manifest = read_json(path / SECONDS), hash_file(path / MANIFEST)
    assert took["tiles"] == 3
    assert seconds_per_1000_tiles(run)[model.name] == pytest.approx(2 * 1000 * took["seconds"] / 3)
    write_json(path / SECONDS, {"tiles": 4, "seconds": 2.0})
    assert hash_file(path / MANIFEST) == manifest
    assert check_stores(run, content=True) == [path]
    run.oof_store(second).mkdir(parents=True)
    write_json(run.oof_store(second) / SECONDS, {"tiles": 2, "seconds": 2.0})
    assert seconds_per_1000_tiles(run)[model.name] == pytest.approx(500 + 1000)


def test_members_that_were_trained_on_every_tile_are_counted_apart(tmp_path):
    values = tiny_values(tmp_path / "data", tmp_path)
    values["seeds"] = [0, 1]
    values["folds"]["k"] = 3
    values["models"] += [values["models"][0] | {"name": "with_all", "folds": "each+all"}]
    run = Run(load_experiment(write_config(tmp_path / "tiny.yaml", values)))
    counts = list(member_counts(run).values())
    assert counts == [{"members": 6, "on_all_tiles": 0}, {"members": 8, "on_all_tiles": 2}]


def test_a_model_is_worth_what_fits_say_that_do_as_the_blend_does_and_choose_nothing():
    source = random_source(1, tiles=30, px=32, shares=(0.8, 0.14, 0.04, 0.02), noises=(1.3, 1.6, 2.0))
    sample = draw_sample(source, 10**6)
    stages = fit_blend(sample, Blend()).stages
    assert set(stages["decision"].kinds.values()) & {"miou", "bias"}  # something was chosen
    for stage in stages.values():
        temperatures = stage.kinds.get("temperatures", "none")
        again = fit_blend(sample.of_models(stage.models), same_kinds(stage, Blend()), temperatures=temperatures)
        assert again.choices == []
        taken = {step: kind for step, kind in stage.kinds.items() if step in (*PLAIN_MEAN, "temperatures")}
        assert taken.items() <= again.blend.kinds.items()
        assert again.blend.models == stage.models
    plain = stages["uniform"]
    assert fit_blend(sample, same_kinds(plain, Blend())).blend.weight_MC == plain.weight_MC


def test_a_model_that_was_left_out_is_worth_nothing_to_the_blend(tmp_path):
    values = tiny_values(tmp_path / "data", tmp_path)
    values["models"] = [values["models"][0] | {"name": f"model{i:03d}"} for i in range(3)]
    run = Run(load_experiment(write_config(tmp_path / "tiny.yaml", values)))
    source = random_source(3, tiles=30, px=24, noises=(1.0, 1.2, 60.0), specialists=0)
    sample = draw_sample(source, 10**6)
    noise = sample.models[-1]
    blend = fit_blend(sample, Blend()).stages["weights"]
    assert noise not in blend.models
    table = model_worth(run, sample, blend, Blend()).set_index("model")
    assert table.worth[noise] == table.worth_low[noise] == table.worth_high[noise] == 0
    assert (table.worth.drop(noise) > 0).all()


def test_a_specialist_that_was_left_out_has_no_part_in_what_others_are_worth(tmp_path):
    values = tiny_values(tmp_path / "data", tmp_path)
    first = values["models"][0]
    target = values["data"]["classes"][-1]["name"]
    specialists = [first | {"name": name, "target": target} for name in ("rare0", "rare1")]
    values["models"] = [first | {"name": "model000"}, *specialists]
    run = Run(load_experiment(write_config(tmp_path / "tiny.yaml", values)))
    sample = draw_sample(random_source(2, tiles=30, px=24, noises=(1.6,), specialists=2), 10**6)
    settings = Blend(specialists="evidence", decision="miou", calibration="none")
    kept = fit_blend(sample.without_models(["rare1"]), settings).blend
    assert [specialist.name for specialist in kept.specialists] == ["rare0"]
    beside, alone = (model_worth(run, each, kept, settings).set_index("model")
                     for each in (sample, sample.without_models(["rare1"])))  # fmt: skip
    assert beside.worth["rare1"] == beside.worth_low["rare1"] == beside.worth_high["rare1"] == 0
    assert beside.worth["rare0"] == alone.worth["rare0"] > 0
