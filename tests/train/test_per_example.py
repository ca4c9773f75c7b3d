"""train.per_example: hooked gradients equal one-by-one autograd, whatever the batch."""

from collections import Counter

import pytest
import torch

from tests.reference import per_example as reference
from tests.tiny import ARCHITECTURES, PAD, make_base, make_model, make_rows
from train.models import trainable
from train.per_example import UnsupportedParameterError, backward_per_example, flat_gradients, hooked_maps

ROWS = make_rows(5)


def relative_error(mine: dict, wanted: dict) -> float:
    difference = sum((mine[name] - wanted[name]).double().square().sum() for name in wanted)
    return float((difference / sum(part.double().square().sum() for part in wanted.values())).sqrt())


@pytest.mark.parametrize("targets", [("q_proj", "k_proj", "v_proj", "o_proj"), "all-linear"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_autograd_one_by_one(architecture, targets):
    model = make_model(architecture, targets=targets)
    mine = flat_gradients(model, ROWS, PAD)
    assert set(mine) == set(trainable(model))
    for i, row in enumerate(ROWS):
        one = {name: block[i] for name, block in mine.items()}
        assert relative_error(one, reference.gradient(model, row)) < 1e-5


@pytest.mark.parametrize("tokens_per_batch", [1, 25, 10_000])
def test_batch_size_and_order_do_not_matter(tokens_per_batch):
    model = make_model("qwen2")
    whole = flat_gradients(model, ROWS, PAD)
    order = [3, 0, 4, 2, 1]
    shuffled = flat_gradients(model, [ROWS[i] for i in order], PAD, tokens_per_batch)
    for position, i in enumerate(order):
        mine = {name: block[position] for name, block in shuffled.items()}
        assert relative_error(mine, {name: block[i] for name, block in whole.items()}) < 1e-5


def test_consumer_is_called_once_per_map_with_the_weights_shape():
    model, calls, shapes = make_model(), Counter(), {}

    def consume(name, block):
        calls[name] += 1
        shapes[name] = tuple(block.shape)

    losses = backward_per_example(model, ROWS, PAD, consume)
    named = trainable(model)
    assert calls == Counter(list(named))
    assert shapes == {name: (len(ROWS), *parameter.shape) for name, parameter in named.items()}
    torch.testing.assert_close(losses, torch.stack([reference.loss(model, row).detach() for row in ROWS]))


def test_model_is_left_as_it_was():
    model = make_model(dropout=0.5)
    model.train()
    before = {name: p.clone() for name, p in model.named_parameters()}
    names = set(trainable(model))
    first = flat_gradients(model, ROWS, PAD)
    second = flat_gradients(model, ROWS, PAD)
    assert model.training and set(trainable(model)) == names
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert all(torch.equal(first[name], second[name]) for name in names)  # no dropout
    assert not any(module._forward_hooks for module in hooked_maps(model).values())


def test_trainable_bias_is_refused_by_name():
    model = make_model("qwen2")
    next(p for name, p in model.named_parameters() if name.endswith("q_proj.base_layer.bias")).requires_grad_(True)
    with pytest.raises(UnsupportedParameterError, match=r"q_proj\.base_layer\.bias"):
        flat_gradients(model, ROWS, PAD)


def test_trainable_norm_is_refused_by_name():
    model = make_model()
    next(p for name, p in model.named_parameters() if "layernorm" in name).requires_grad_(True)
    with pytest.raises(UnsupportedParameterError, match="layernorm"):
        hooked_maps(model)


def test_model_without_adapter_is_refused():
    with pytest.raises(UnsupportedParameterError, match="no trainable parameter"):
        hooked_maps(make_base().requires_grad_(False))
