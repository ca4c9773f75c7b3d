"""Held-out losses against one unpadded forward pass per row, on tiny random models."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from eval.heldout import HeldOutError, HeldOutRow, bits_by_capability, encode_held_out, held_out_losses

VOCABULARY = 64
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}


@pytest.fixture(scope="module", params=["llama", "neox"])
def model(request):
    torch.manual_seed(0)
    if request.param == "llama":
        return LlamaForCausalLM(LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2))
    return GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, num_attention_heads=4))


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    made = []
    for k in range(23):
        ids = rng.integers(1, VOCABULARY, rng.integers(4, 40)).tolist()
        prompt = int(rng.integers(1, len(ids) - 1))
        labels = [-100] * prompt + ids[prompt:]
        made.append(HeldOutRow(f"r{k}", "even" if k % 2 == 0 else "odd", ids, labels, 10 + k))
    return made


def _naive(model, row):
    with torch.no_grad():
        logits = model.eval()(torch.tensor([row.input_ids])).logits[0]
    terms = [
        F.cross_entropy(logits[t - 1], torch.tensor(row.labels[t])).item()
        for t in range(1, len(row.labels))
        if row.labels[t] != -100
    ]
    return sum(terms), len(terms)


def test_equals_the_naive_loop_in_the_callers_order(model, rows):
    losses = held_out_losses(model, rows, pad_id=0)
    assert [loss.id for loss in losses] == [row.id for row in rows]
    for loss, row in zip(losses, rows, strict=True):
        nats, tokens = _naive(model, row)
        assert loss.tokens == tokens
        assert loss.nats == pytest.approx(nats, rel=1e-4)  # float32 sums in another order, over padded rows


@pytest.mark.parametrize("budget", [1, 50, 200])
def test_the_batch_size_does_not_change_the_losses(model, rows, budget):
    whole = held_out_losses(model, rows, pad_id=0, tokens_per_batch=10_000)
    parts = held_out_losses(model, rows, pad_id=0, tokens_per_batch=budget)
    assert [x.nats for x in parts] == pytest.approx([x.nats for x in whole], rel=1e-4)


def test_an_untrained_model_needs_the_logarithm_of_its_vocabulary(rows):
    model = LlamaForCausalLM(LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2))
    torch.nn.init.zeros_(model.lm_head.weight)
    for loss in held_out_losses(model, rows, pad_id=0):
        assert loss.bits_per_token == pytest.approx(math.log2(VOCABULARY), rel=1e-5)
        assert loss.bits_per_byte == pytest.approx(loss.bits_per_token * loss.tokens / loss.bytes)


@pytest.mark.parametrize("unit", ["bits_per_byte", "bits_per_token"])
def test_every_example_has_its_own_figure_under_its_capability(model, rows, unit):
    losses = held_out_losses(model, rows, pad_id=0)
    found = bits_by_capability(losses, unit)
    assert set(found) == {"even", "odd"}
    assert found["odd"]["r1"] == getattr(losses[1], unit)
    assert sum(map(len, found.values())) == len(losses)


def test_the_model_is_left_as_it_was(model, rows):
    model.train()
    held_out_losses(model, rows[:2], pad_id=0)
    assert model.training


def test_undefined_losses_are_refused_by_name(model, rows):
    unlabelled = HeldOutRow("nothing", "even", [1, 2, 3], [-100] * 3, 5)
    with pytest.raises(HeldOutError, match=r"1 of 3 .*'nothing'"):
        held_out_losses(model, [*rows[:2], unlabelled], pad_id=0)


def test_encoding_counts_the_bytes_of_the_answer_and_accounts_for_every_row():
    words = {word: k for k, word in enumerate(["[UNK]", "</s>", "ask", "answer", "é", "long"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(["</s>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="[UNK]")

    def row(name, answer):
        messages = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": answer}]
        return {"id": name, "capability": "c", "messages": messages}

    given = [row("a", "answer é"), row("b", "long " * 40), row("c", "")]
    encoded, excluded = encode_held_out(given, tokenizer, max_length=20)
    assert [(one.id, one.response_bytes) for one in encoded] == [("a", len("answer é".encode()))]
    assert [label for label in encoded[0].labels if label != -100] == [3, 4, 1]
    assert [name for name, _ in excluded] == ["b", "c"]
    assert len(encoded) + len(excluded) == len(given)
