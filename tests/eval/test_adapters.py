"""Adapters under the engines: what fits, how each engine runs them, and that all of them compute the same model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from eval.adapters import check_fit, obstacle, vllm_rank
from eval.errors import EvaluationError
from eval.harness import run_evaluation
from eval.request import EvaluationRequest, ModelToEvaluate
from tests.tiny import make_base
from train.models import attach_lora, load_base, save_adapter
from train.settings import LoraSettings

ROOT = Path(__file__).parents[2]
BASE = str(ROOT / "demo" / "model")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """An adapter of the embedded model that changes its answers a great deal."""
    folder = tmp_path_factory.mktemp("adapter")
    model = attach_lora(load_base(BASE), LoraSettings(r=4, alpha=8), seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    save_adapter(model, folder)
    return str(folder)


def _tuned(adapter, path=BASE):
    return ModelToEvaluate(name="tuned", path=path, adapter=adapter)


def test_an_adapter_fits_the_model_it_was_trained_on(adapter):
    assert check_fit(_tuned(adapter)) is None


def test_an_adapter_of_another_model_is_refused_before_anything_is_loaded(adapter, tmp_path):
    make_base("llama").save_pretrained(tmp_path / "llama")
    with pytest.raises(
        EvaluationError, match=r"'tuned': the adapter .* was trained on another base model: its model\."
    ):
        check_fit(_tuned(adapter, str(tmp_path / "llama")))
    make_base("gpt2").save_pretrained(tmp_path / "gpt2")
    with pytest.raises(EvaluationError, match="has no such map"):
        check_fit(_tuned(adapter, str(tmp_path / "gpt2")))


def test_an_adapter_of_several_parameters_of_one_module_fits_its_model(tmp_path):
    """Fused experts hold two parameters in one module; peft nests their adapters, and `all-linear` picks both."""
    from peft import LoraConfig, get_peft_model

    base = make_base("mixtral")
    base.save_pretrained(tmp_path / "base")
    tuned = get_peft_model(base, LoraConfig(r=2, task_type="CAUSAL_LM", target_modules="all-linear"))
    tuned.save_pretrained(tmp_path / "adapter")
    assert check_fit(_tuned(str(tmp_path / "adapter"), str(tmp_path / "base"))) is None
    make_base("llama").save_pretrained(tmp_path / "other")
    with pytest.raises(EvaluationError, match="trained on another base"):
        check_fit(_tuned(str(tmp_path / "adapter"), str(tmp_path / "other")))


def test_an_adapter_or_a_base_that_cannot_be_read_is_named_with_the_remedy(adapter, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(EvaluationError, match=r"has no adapter_model\.safetensors; save the adapter as"):
        check_fit(_tuned(str(tmp_path)))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"cut off")
    with pytest.raises(EvaluationError, match=r"'tuned': .*adapter_model\.safetensors cannot be read"):
        check_fit(_tuned(str(tmp_path)))
    (tmp_path / "config.json").write_text("{no json")
    with pytest.raises(EvaluationError, match=f"the configuration of {tmp_path} cannot be read"):
        check_fit(_tuned(adapter, str(tmp_path)))


def test_an_adapter_that_names_another_base_of_the_same_shape_is_told(adapter, tmp_path):
    for file in Path(adapter).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "org/other"}))
    assert "names org/other as its base" in check_fit(_tuned(str(tmp_path)))


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"r": 8}, None),
        ({"r": 8, "use_dora": True}, "DoRA"),
        ({"r": 8, "modules_to_save": ["lm_head"]}, "whole modules"),
        ({"r": 8, "rank_pattern": {"q_proj": 600}}, "rank 600"),
    ],
)
def test_what_vllm_cannot_run_as_a_request_has_a_reason(tmp_path, config, why):
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    found = obstacle(str(tmp_path))
    assert found is None if why is None else why in found
    if why is None:
        assert vllm_rank([str(tmp_path)]) == 8


def _request(adapter, tasks, engine):
    return EvaluationRequest.model_validate(
        {
            "models": [{"name": "base", "path": BASE}, {"name": "tuned", "path": BASE, "adapter": adapter}],
            "tasks": tasks,
            "task_folder": str(ROOT / "configs" / "tasks"),
            "limit": 8,
            "engine": {"dtype": "float32", "max_model_len": 512, **engine},
        }
    )


@pytest.mark.slow
def test_every_engine_runs_the_same_adapter(adapter, tmp_path):
    """transformers with the adapter on, vLLM with merged weights, and vLLM with LoRA requests (generation only: its CPU
    build cannot score prompts under an adapter)."""
    both = ["demo_knowledge", "demo_reasoning_generate"]
    plain = run_evaluation(_request(adapter, both, {"backend": "hf"}), tmp_path / "hf")
    merged = run_evaluation(_request(adapter, both, {}), tmp_path / "merged")
    requests = run_evaluation(_request(adapter, both[1:], {"adapters": "lora"}), tmp_path / "lora")

    assert merged.notes == (
        "adapters were merged into their base weights: vLLM's CPU build cannot give prompt log-probabilities under an "
        "adapter",
    )
    assert requests.notes == ("run as LoRA requests on the loaded base model: tuned",)
    ours = {(i.model, i.task, i.item_id): i for i in plain.items}
    for item in merged.items:
        other = ours[item.model, item.task, item.item_id]
        assert item.answer == other.answer
        if item.log_likelihoods:
            # float32 sums in another order
            np.testing.assert_allclose(item.log_likelihoods, other.log_likelihoods, atol=2e-3)
    for item in requests.items:
        assert item.answer == ours[item.model, item.task, item.item_id].answer
    answers = {model: [i.answer for i in requests.items if i.model == model] for model in ("base", "tuned")}
    assert answers["base"] != answers["tuned"]


@pytest.mark.slow
def test_prompts_cannot_be_scored_under_an_adapter_on_a_cpu(adapter, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("a GPU scores prompts under an adapter")
    with pytest.raises(EvaluationError, match=r"engine\.adapters is lora, but vLLM's CPU build cannot"):
        run_evaluation(_request(adapter, ["demo_knowledge"], {"adapters": "lora"}), tmp_path)
