"""The flows as Prefect sees them: each can be deployed alone, with its parameters described."""

from __future__ import annotations

import pytest

from flows.pipeline import curate_flow, evaluate_flow, finetune_flow, pipeline_flow

FLOWS = {
    "curate": (curate_flow, {"config", "keep_warmup"}),
    "finetune": (finetune_flow, {"config", "datasets"}),
    "evaluate": (evaluate_flow, {"config", "models", "datasets"}),
    "pipeline": (pipeline_flow, {"config", "keep_warmup", "rivals", "rival_datasets"}),
}


@pytest.mark.parametrize("name", FLOWS)
def test_each_flow_can_be_deployed_alone(name):
    flow, parameters = FLOWS[name]
    assert flow.name == name
    deployment = flow.to_deployment(name="alone", cron="0 2 * * *")
    assert deployment.flow_name == name
    assert set(flow.parameters.properties) == parameters
    settings = flow.parameters.definitions["RunConfig"]["properties"]
    assert {"data", "selection", "finetune", "evaluation"} <= set(settings)
    assert all("description" in field or "$ref" in field for field in settings.values())
