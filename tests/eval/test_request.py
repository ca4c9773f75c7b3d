"""A wrong request is refused before any engine is imported, with every wrong field named."""

from __future__ import annotations

import json

import pytest

from eval.request import EvaluationError, EvaluationRequest, check_paths, parse_request

GOOD = {"models": [{"name": "m", "path": "org/model"}], "tasks": ["equipoise_demo"]}


def test_a_request_survives_json():
    request = EvaluationRequest.model_validate({**GOOD, "limit": 3, "engine": {"dtype": "float32"}, "seed": 7})
    assert parse_request(request.model_dump_json()) == request


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"limt": 3}, "limt: unknown field; did you mean 'limit'"),
        ({"engine": {"max_model_length": 3}}, "engine.max_model_length: unknown field; did you mean 'max_model_len'"),
        ({"models": [{"name": "m", "pth": "x", "path": "x"}]}, "models.0.pth: unknown field; did you mean 'path'"),
        ({"zzz": 1}, "zzz: unknown field; known: models, tasks"),
        ({"engine": {"backend": "onnx"}}, "engine.backend: .*'onnx'"),
        ({"models": [{"name": "m"}]}, "models.0.path: Field required"),
        ({"limit": 0}, "limit: .*greater than 0"),
        ({"tasks": []}, "tasks: "),
        ({"models": [*GOOD["models"], {"name": "m", "path": "y"}]}, "model name m is given more than once"),
        ({"tasks": ["a", "a"]}, "task a is given more than once"),
    ],
)
def test_wrong_fields_are_named(change, named):
    with pytest.raises(EvaluationError, match=named):
        parse_request(json.dumps({**GOOD, **change}))


def test_all_errors_come_at_once():
    with pytest.raises(EvaluationError) as raised:
        parse_request(json.dumps({**GOOD, "limt": 3, "sed": 1, "limit": -1}), origin="request.json")
    message = str(raised.value)
    assert all(part in message for part in ("request.json", "limt", "sed", "limit: "))


def _request(path, **rest):
    return EvaluationRequest.model_validate({**GOOD, "models": [{"name": "m", "path": str(path)}], **rest})


def test_folders_are_checked(tmp_path):
    check_paths(_request("org/model"))
    with pytest.raises(EvaluationError, match="no such folder"):
        check_paths(_request(tmp_path / "missing"))
    with pytest.raises(EvaluationError, match=r"no config\.json"):
        check_paths(_request(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(EvaluationError, match="give the base model as `path`"):
        check_paths(_request(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    check_paths(_request(tmp_path))
    with pytest.raises(EvaluationError, match=r"no adapter_config\.json"):
        check_paths(_request(tmp_path, models=[{"name": "m", "path": str(tmp_path), "adapter": str(tmp_path / "no")}]))
    with pytest.raises(EvaluationError, match="task_folder"):
        check_paths(_request(tmp_path, task_folder=str(tmp_path / "tasks")))
