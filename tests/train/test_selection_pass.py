"""train.selection_pass: features are the gradient of the last value projection's LoRA B, or slopes of it."""

import numpy as np
import pytest
import torch

from tests.reference import per_example as reference
from tests.tiny import PAD, make_model, make_rows
from train.models import trainable
from train.selection_pass import (
    NoValueProjectionError,
    SelectionPass,
    directions,
    find_value_map,
    last_layer_features,
    spsa_features,
)

ROWS = make_rows(5)
SEPARATE = [
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "gemma2",
    "gemma3",
    "granite",
]  # families with a value map of their own


def last_value_name(model) -> str:
    (name,) = (n for n, _ in model.named_parameters() if n.endswith("layers.1.self_attn.v_proj.lora_B.default.weight"))
    return name


@pytest.mark.parametrize("architecture", SEPARATE)
@pytest.mark.parametrize("dora", [False, True])
def test_last_layer_equals_autograd(architecture, dora):
    model = make_model(architecture, dora=dora)
    name = last_value_name(model)
    assert find_value_map(model).name == name
    features, losses = last_layer_features(SelectionPass(model, PAD, tokens_per_batch=20), ROWS)
    wanted = torch.stack([reference.gradient(model, row)[name].flatten() for row in ROWS])
    assert features.dtype == torch.float32
    assert ((features - wanted).norm(dim=1) / wanted.norm(dim=1)).max() < 1e-5  # float32, another order of sums
    assert losses.tolist() == pytest.approx([reference.loss(model, row).item() for row in ROWS], rel=1e-5)


@pytest.mark.parametrize("architecture", SEPARATE)
def test_slopes_are_the_gradient_along_each_direction(architecture):
    model = make_model(architecture)
    weight = find_value_map(model).module.weight
    along = directions(tuple(weight.shape), 3, seed=5)
    slopes, losses = spsa_features(SelectionPass(model, PAD, tokens_per_batch=20), ROWS, along)
    gradients = torch.stack([reference.gradient(model, row)[last_value_name(model)].flatten() for row in ROWS])
    wanted = gradients @ torch.stack([z.flatten() for z in along]).T
    # float32 losses of about 4 leave 2e-4 of a slope at a step of 1e-3; the third-order term is below that
    assert (slopes - wanted).abs().max() < 2e-3
    assert wanted.abs().min() > 0
    assert losses.tolist() == pytest.approx([reference.loss(model, row).item() for row in ROWS], rel=1e-4)


def test_slopes_equal_a_real_step_of_the_weight():
    model = make_model()
    selection = SelectionPass(model, PAD)
    (z,) = directions(tuple(selection.value_map.module.weight.shape), 1, seed=1)
    slopes, _ = spsa_features(selection, ROWS, [z], epsilon=0.05)
    sides = []
    with torch.no_grad():
        for sign in (1, -1):
            selection.value_map.module.weight.add_(sign * 0.05 * z)
            sides.append(torch.tensor([reference.loss(model, row).item() for row in ROWS]))
            selection.value_map.module.weight.sub_(sign * 0.05 * z)
    torch.testing.assert_close(slopes[:, 0], (sides[0] - sides[1]) / 0.1, rtol=0, atol=5e-5)


def test_padding_and_neighbours_do_not_matter():
    model = make_model()
    along = directions(tuple(find_value_map(model).module.weight.shape), 2, seed=0)
    alone, _ = spsa_features(SelectionPass(model, PAD, tokens_per_batch=1), ROWS, along)
    together, _ = spsa_features(SelectionPass(model, PAD), ROWS, along)
    assert (alone - together).abs().max() < 2e-3  # rounding of losses over 2 eps


@pytest.mark.parametrize("kind", ["last_layer", "spsa"])
def test_leaves_model_and_random_states_alone(kind):
    model = make_model(dropout=0.5)
    model.train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # the global one
    selection = SelectionPass(model, PAD)
    along = directions(tuple(selection.value_map.module.weight.shape), 1, seed=0)

    def features():
        return last_layer_features(selection, ROWS) if kind == "last_layer" else spsa_features(selection, ROWS, along)

    first = features()
    assert torch.equal(state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])
    assert model.training
    assert set(trainable(model)) == {n for n in before if "lora_" in n}
    assert all(torch.equal(before[name], p) and p.grad is None for name, p in model.named_parameters())
    assert not selection.value_map.module._forward_hooks
    assert all("forward" not in vars(layer) for layer in selection.value_map.layers)
    assert all(torch.equal(a, b) for a, b in zip(first, features(), strict=True))


def test_prefix_in_half_precision_keeps_the_sign_of_slopes():
    model = make_model()
    along = directions(tuple(find_value_map(model).module.weight.shape), 8, seed=0)
    exact, _ = spsa_features(SelectionPass(model, PAD), ROWS, along)
    half, _ = spsa_features(SelectionPass(model, PAD, precision="bfloat16"), ROWS, along)
    large = exact.abs() > exact.abs().median()
    assert torch.equal(exact[large].sign(), half[large].sign())


@pytest.mark.parametrize(
    ("architecture", "targets"), [("llama", ("q_proj",)), ("phi3", ("qkv_proj",)), ("gpt2", ("c_attn",))]
)
def test_no_value_projection_is_explained(architecture, targets):
    with pytest.raises(NoValueProjectionError, match=r"lora\.targets"):
        find_value_map(make_model(architecture, targets=targets))
