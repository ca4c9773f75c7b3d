"""Deployments as they are written down: their parameters are a configuration, whatever way they come."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from flows.config import ConfigError, load_config, validate
from flows.deploy import deployment_parameters, serve_flows
from flows.nightly.flow import nightly_flow
from flows.pipeline import curate_flow, pipeline_flow

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "configs/demo.yaml"


@pytest.fixture
def demo(monkeypatch):
    monkeypatch.chdir(ROOT)
    return load_config(DEMO)


def test_parameters_survive_json(demo):
    sent = json.loads(json.dumps(deployment_parameters(demo)))
    for flow in (pipeline_flow, nightly_flow, curate_flow):
        assert flow.validate_parameters(sent)["config"] == demo
    sent["config"]["selection"]["budget"] = 12
    sent["config"]["finetune"]["seeds"] = [3, 4]
    changed = pipeline_flow.validate_parameters(sent)["config"]
    assert changed.selection.budget == 12
    assert changed.training_seeds() == [3, 4]


def test_every_setting_of_the_form_is_described():
    definitions = pipeline_flow.parameters.model_dump()["definitions"]
    assert "ExecutionSettings" in definitions
    undescribed = {
        f"{name}.{field}"
        for name in ("RunConfig", "ExecutionSettings", "FinetuneSettings", "EvaluationSettings", "PromotionSettings")
        for field, value in definitions[name]["properties"].items()
        if not {"description", "$ref"} & set(value)
    }
    assert undescribed == set()


def test_the_file_for_workers_holds_the_demo(demo):
    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    assert [(one["entrypoint"], one["name"]) for one in declared["deployments"]] == [
        ("flows/pipeline.py:pipeline_flow", "demo"),
        ("flows/nightly/flow.py:nightly_flow", "demo-nightly"),
        ("flows/pipeline.py:curate_flow", "demo"),
    ]
    for one in declared["deployments"]:
        assert validate(one["parameters"]["config"]) == demo, "prefect.yaml must say what configs/demo.yaml says"
        assert not any(schedule["active"] for schedule in one.get("schedules", []))


@pytest.mark.parametrize(("cron", "timezone"), [("every night", None), ("0 2 * * *", "Mars/Olympus")])
def test_a_schedule_that_is_none_is_told(demo, cron, timezone):
    with pytest.raises(ConfigError, match="is not a schedule"):
        serve_flows(demo, cron, timezone)
