"""What of a cluster run needs no cluster: its settings, and joining the answers of several nodes."""

import pytest

from eval.request import EngineInfo, EvaluationResponse, ItemResult
from flows.cluster.evaluation import join
from flows.config import ConfigError, validate
from flows.execution import ExecutionSettings
from tests.flows.small_evaluation import make_place, small_config


def response(model, device="cpu", notes=()):
    engine = EngineInfo(backend="hf", device=device, dtype="float32", python="3.11", versions={})
    item = ItemResult(model=model, task="t", item_id="1", metrics={"acc": 1.0})
    return EvaluationResponse(items=(item,), engine=engine, seconds={model: 2.0}, notes=notes, seconds_start_up=3.0)


def test_answers_are_joined_in_the_order_of_the_models_and_each_note_is_told_once():
    joined = join([response("base", notes=("cut", "merged")), response("ours", notes=("merged",))])
    assert [item.model for item in joined.items] == ["base", "ours"]
    assert joined.seconds == {"base": 2.0, "ours": 2.0}
    assert joined.notes == ("cut", "merged")


def test_nodes_that_differ_are_told():
    (note,) = join([response("base"), response("ours", device="H100")]).notes
    assert note.startswith("models were evaluated on nodes that differ") and "H100" in note


def test_engine_ray_is_refused_where_it_is_not_installed_and_names_the_extra(monkeypatch):
    monkeypatch.setattr("flows.execution.find_spec", lambda name: None if name == "prefect_ray" else object())
    with pytest.raises(ValueError, match=r"needs the package prefect-ray.*pip install 'equipoise\[ray\]'"):
        ExecutionSettings(engine="ray")
    ExecutionSettings()


def test_address_without_ray_and_two_ways_to_share_gradients_are_refused(tmp_path):
    with pytest.raises(ValueError, match="set engine: ray too"):
        ExecutionSettings(address="127.0.0.1:6379")
    raw = small_config(make_place(tmp_path), tmp_path).model_dump(mode="json")
    raw["execution"]["engine"] = "ray"
    raw["influence"]["accelerate"] = "configs/accelerate/two_cpu_processes.yaml"
    with pytest.raises(ConfigError, match=r"influence\.accelerate among processes of this machine; leave one"):
        validate(raw)
