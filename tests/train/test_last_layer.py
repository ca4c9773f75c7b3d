"""train.last_layer: features equal the autograd gradient of the last value projection's LoRA B."""

import pytest
import torch

from tests.reference import per_example as reference
from tests.tiny import PAD, make_model, make_rows
from train.last_layer import NoValueProjectionError, last_layer_features, last_value_map

ROWS = make_rows(5)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "mistral", "gemma2"])  # with a value map of their own
@pytest.mark.parametrize("dora", [False, True])
def test_equals_autograd(architecture, dora):
    model = make_model(architecture, dora=dora)
    (name,) = (n for n, _ in model.named_parameters() if n.endswith("layers.1.self_attn.v_proj.lora_B.default.weight"))
    features = last_layer_features(model, ROWS, PAD, tokens_per_batch=20)
    wanted = torch.stack([reference.gradient(model, row)[name] for row in ROWS])
    assert features.dtype == torch.float32
    assert ((features - wanted).norm(dim=1) / wanted.norm(dim=1)).max() < 1e-5  # float32, another order of sums


def test_leaves_model_and_random_state_alone():
    model = make_model(dropout=0.5)
    model.train()
    state = torch.get_rng_state()
    first = last_layer_features(model, ROWS, PAD)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, _ in model.named_parameters() if "lora_" in n
    }
    assert all(p.grad is None for p in model.parameters())
    assert not last_value_map(model)._forward_hooks
    assert torch.equal(first, last_layer_features(model, ROWS, PAD))


def test_no_value_projection_is_explained():
    with pytest.raises(NoValueProjectionError, match=r"lora\.targets"):
        last_value_map(make_model(targets=("q_proj",)))
