"""train.per_example: hooked gradients equal one-by-one autograd in every family, whatever the batch."""

from collections import Counter

import pytest
import torch

from tests.reference import per_example as reference
from tests.reference.per_example import relative_error
from tests.tiny import ARCHITECTURES, PAD, make_model, make_rows
from train.encoding import Encoded
from train.models import trainable
from train.per_example import backward_per_example, find_taps, flat_gradients, iterate_gradients

ROWS = make_rows(4)
ADAPTERS = {
    "lora": {},
    "lora-all-linear": {"targets": "all-linear"},
    "dora-all-linear": {"targets": "all-linear", "dora": True},
    "rslora": {"rslora": True},
    "rslora-dora": {"rslora": True, "dora": True},
}
FLOAT32 = 1e-5  # relative; the same sums in another order (measured: at most 2e-6)


def one(blocks: dict, i: int) -> dict:
    return {name: block[i] for name, block in blocks.items()}


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_autograd_one_by_one(architecture, adapter):
    model = make_model(architecture, **ADAPTERS[adapter])
    mine = flat_gradients(model, ROWS, PAD)
    assert set(mine) == set(trainable(model))
    for i, row in enumerate(ROWS):
        wanted = reference.gradient(model, row)
        assert relative_error(one(mine, i), wanted) < FLOAT32
        for name, part in wanted.items():  # no parameter hides behind a larger one
            assert relative_error(one(mine, i), {name: part}) < 10 * FLOAT32, name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_batch_size_order_and_padding_do_not_matter(architecture):
    model = make_model(architecture)
    together = flat_gradients(model, ROWS, PAD)
    order = [3, 0, 2, 1]
    shuffled = flat_gradients(model, [ROWS[i] for i in order], PAD, tokens_per_batch=25)
    for position, i in enumerate(order):
        alone = flat_gradients(model, [ROWS[i]], PAD)
        assert relative_error(one(alone, 0), one(together, i)) < FLOAT32
        assert relative_error(one(shuffled, position), one(together, i)) < FLOAT32


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])  # rotary, learned positions, window and caps
def test_right_padded_batch_equals_left_padded_autograd(architecture):
    model = make_model(architecture)
    mine = flat_gradients(model, ROWS, PAD)
    for i, row in enumerate(ROWS):
        assert relative_error(one(mine, i), reference.gradient(model, row, left_padding=3)) < FLOAT32


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "phi3"])
def test_padding_adds_exactly_nothing(architecture):
    """What stands on padded positions changes no bit of the gradients."""
    model = make_model(architecture, dora=True)
    short, long = make_rows(1)[0], Encoded("long", "a", list(range(2, 22)), list(range(2, 22)))
    zeros = flat_gradients(model, [short, long], pad_id=PAD)
    others = flat_gradients(model, [short, long], pad_id=7)
    assert len(short.input_ids) < len(long.input_ids)
    assert all(torch.equal(zeros[name], others[name]) for name in zeros)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])  # one without dropout of its own, one with
def test_model_is_left_as_it_was(architecture):
    model = make_model(architecture, dropout=0.5)
    model.train()
    before = {name: p.clone() for name, p in model.named_parameters()}
    names = set(trainable(model))
    first = flat_gradients(model, ROWS, PAD)
    second = flat_gradients(model, ROWS, PAD)
    assert model.training and set(trainable(model)) == names
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert all(torch.equal(first[name], second[name]) for name in names)  # no dropout
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_consumer_is_called_once_per_parameter_with_its_shape():
    model, calls, shapes = make_model(dora=True), Counter(), {}

    def consume(name, block):
        calls[name] += 1
        shapes[name] = tuple(block.shape)

    losses = backward_per_example(model, ROWS, PAD, find_taps(model), consume)
    named = trainable(model)
    assert calls == Counter(list(named))
    assert shapes == {name: (len(ROWS), *parameter.shape) for name, parameter in named.items()}
    torch.testing.assert_close(losses, torch.stack([reference.loss(model, row).detach() for row in ROWS]))


def test_every_row_is_in_one_batch_within_the_budget_and_losses_keep_the_callers_order():
    class Dropped:
        def add(self, name, block):
            pass

        def finish(self):
            pass

    model, batches = make_model(), []

    def start_batch(positions):
        batches.append(positions)
        return Dropped()

    rows = make_rows(9)
    losses = iterate_gradients(model, rows, PAD, 25, find_taps(model), start_batch)
    wanted = torch.stack([reference.loss(model, row).detach() for row in rows])
    torch.testing.assert_close(losses, wanted, rtol=1e-5, atol=1e-6)
    assert sorted(i for positions in batches for i in positions) == list(range(9)) and len(batches) > 2
    lengths = [[len(rows[i].input_ids) for i in positions] for positions in batches]
    assert all(len(batch) * max(batch) <= 25 for batch in lengths)
    flat = [length for batch in lengths for length in batch]
    assert flat == sorted(flat, reverse=True)


def test_a_caller_without_gradients_gets_them_all_the_same():
    model = make_model()
    with torch.no_grad():
        mine = flat_gradients(model, ROWS, PAD)
    assert relative_error(one(mine, 0), reference.gradient(model, ROWS[0])) < FLOAT32
