"""Filters with a model: a classifier trained here in a second and tiny encoders, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModel, BertConfig, BertForSequenceClassification, BertModel, LlamaConfig, LlamaModel

from curate.cleaning.scored import Equal
from curate.cleaning.semantic_duplicates import NONE, SemanticDuplicates, nearest_earlier
from curate.cleaning.settings import SemanticDuplicatesSettings, ToxicitySettings
from curate.cleaning.text_models import embed, label_probabilities
from curate.cleaning.toxicity import Toxicity
from curate.records import DataError, Example, Message
from tests.tiny import make_tokenizer
from train.models import ModelError, load_classifier, load_encoder, load_tokenizer

SIZE = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
MILD = ["The answer is four.", "Paris is the capital of France.", "Please sort the list.", "It rains in the hills."]
INSULTS = ["You are an idiot.", "What an idiot he is.", "Only an idiot asks that.", "idiot, be quiet"]
THREATS = ["I will hurt you.", "They will hurt him.", "It will hurt, wait.", "hurt them all"]


def example(row_id, user, answer="ok", source="src"):
    return Example(row_id, source, (Message("user", user), Message("assistant", answer)), "MIT", "d", f"f:{row_id}")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A folder with a multi-label classifier of two labels that has learned the sentences above."""
    folder = tmp_path_factory.mktemp("classifier")
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = BertConfig(
        **SIZE,
        vocab_size=len(tokenizer),
        num_labels=2,
        id2label={0: "insult", 1: "threat"},
        label2id={"insult": 0, "threat": 1},
        problem_type="multi_label_classification",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BertForSequenceClassification(config)
    batch = tokenizer([*MILD, *INSULTS, *THREATS], padding=True, return_tensors="pt")
    labels = torch.tensor([[0.0, 0.0]] * 4 + [[1.0, 0.0]] * 4 + [[0.0, 1.0]] * 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for _ in range(40):
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.1
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["bert", "llama"])
def encoder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = make_tokenizer()
    torch.manual_seed(1)
    if request.param == "bert":
        model = BertModel(BertConfig(**SIZE, vocab_size=len(tokenizer), initializer_range=0.5))
    else:
        model = LlamaModel(LlamaConfig(**SIZE, vocab_size=len(tokenizer), initializer_range=0.5))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_toxic_rows_go_by_label_and_threshold(classifier):
    rows = [
        example("mild", MILD[0], MILD[1]),
        example("user", INSULTS[0], MILD[0]),
        example("answer", MILD[1], THREATS[0]),
    ]
    settings = ToxicitySettings(model=str(classifier), thresholds={"insult": 0.5, "threat": 0.5})
    kept, removed = Toxicity(settings)(rows)
    assert [row.id for row in kept] == ["mild"]
    assert removed[0].reason.startswith("insult 0.9") and "in the user's turn 1, threshold 0.5" in removed[0].reason
    assert removed[1].reason.startswith("threat 0.9") and "in the assistant's turn 2" in removed[1].reason
    only = ToxicitySettings(model=str(classifier), thresholds={"threat": 0.5})
    assert [row.id for row in Toxicity(only)(rows)[1]] == ["answer"]


def test_a_long_text_has_the_largest_probability_of_its_windows(classifier):
    text = " ".join([*MILD * 9, *INSULTS, *THREATS])
    model, tokenizer = load_classifier(str(classifier)), load_tokenizer(str(classifier))
    ids = tokenizer(text)["input_ids"]
    parts = [torch.tensor([ids[start : start + 64]]) for start in range(0, len(ids), 64)]
    with torch.no_grad():
        found = torch.cat([torch.sigmoid(model(input_ids=part).logits) for part in parts]).numpy()
    assert len(parts) > 4 and (found.argmax(axis=0) > 0).any()  # what stands first does not decide alone
    # float32, rounded to four decimals
    assert np.allclose(label_probabilities(model, tokenizer, [text], 64, 200)[0], found.max(axis=0), atol=1e-4)


def test_an_unknown_label_is_named_with_the_nearest(classifier):
    settings = ToxicitySettings(model=str(classifier), thresholds={"insults": 0.5})
    with pytest.raises(DataError, match=r"no label 'insults', did you mean 'insult'\? \(has: insult, threat\)"):
        Toxicity(settings)


def test_a_model_without_a_head_is_refused(encoder):
    """transformers would draw the head at random and let it judge."""
    with pytest.raises(ModelError, match="has no weights for"):
        load_classifier(str(encoder))


def test_equal_removal_by_source(classifier):
    rows = [example(f"a{k}", text, source="one") for k, text in enumerate([*INSULTS, *MILD])]
    rows += [example(f"b{k}", text, source="two") for k, text in enumerate(MILD * 2)]
    settings = ToxicitySettings(model=str(classifier), thresholds={"insult": 0.5})
    assert [row.source for row in Toxicity(settings)(rows)[1]] == ["one"] * 4
    _, removed = Toxicity(settings, Equal("source", lambda row: row.source))(rows)
    assert [row.source for row in removed] == ["one"] * 2 + ["two"] * 2


@pytest.mark.parametrize("tokens", [8, 100, 10_000])
def test_batches_do_not_change_the_result(classifier, encoder, tokens):
    texts = [*MILD, *INSULTS, " ".join(THREATS * 6), "x"]
    model, tokenizer = load_classifier(str(classifier)), load_tokenizer(str(classifier))
    expected = label_probabilities(model, tokenizer, texts, 64, 300)
    # rounded to four decimals, of which the last may go either way
    assert np.abs(label_probabilities(model, tokenizer, texts, 64, tokens) - expected).max() < 1.5e-4
    model, tokenizer = load_encoder(str(encoder)), load_tokenizer(str(encoder))
    expected = embed(model, tokenizer, texts, 64, 300)
    # float32 sums of a hidden size of 16 in another order
    assert np.abs(embed(model, tokenizer, texts, 64, tokens) - expected).max() < 1e-5


def test_embeddings_against_one_text_at_a_time(encoder):
    texts = [*MILD, " ".join(MILD * 6)]
    model, tokenizer = load_encoder(str(encoder)), load_tokenizer(str(encoder))
    found = embed(model, tokenizer, texts, 64, 200)
    plain = AutoModel.from_pretrained(encoder).eval()
    for text, vector in zip(texts, found, strict=True):
        ids = tokenizer(text)["input_ids"]
        parts = [torch.tensor([ids[start : start + 64]]) for start in range(0, len(ids), 64)]
        with torch.no_grad():
            states = torch.cat([plain(input_ids=part).last_hidden_state[0] for part in parts])
        mean = states.double().mean(dim=0)
        # float32 forward passes with and without padding
        assert np.allclose(vector, (mean / mean.norm()).numpy(), atol=1e-5)


def slow_nearest(vectors):
    rounded = np.round((vectors @ vectors.T).astype(np.float64), 4)
    best = [(max(rounded[i, j] for j in range(i)) if i else np.nan) for i in range(len(vectors))]
    return best, [next((j for j in range(i) if rounded[i, j] == best[i]), NONE) for i in range(len(vectors))]


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_the_nearest_earlier_row_against_all_pairs(block, monkeypatch):
    monkeypatch.setattr("curate.cleaning.semantic_duplicates.BLOCK", block)
    vectors = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    vectors[[20, 33, 41]] = vectors[3]  # copies name the first
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines, places = nearest_earlier(vectors)
    expected, where = slow_nearest(vectors)
    assert np.allclose(cosines, expected, atol=1.01e-4, equal_nan=True)
    assert places.tolist() == where
    assert places[[20, 33, 41]].tolist() == [3, 3, 3]


def test_rows_without_a_vector_are_near_to_none():
    vectors = np.eye(3, dtype=np.float32)[[0, 0, 1, 0]]
    vectors[1] = np.nan
    cosines, places = nearest_earlier(vectors)
    assert places.tolist() == [NONE, NONE, 0, 0] and cosines[3] == 1.0 and np.isnan(cosines[:2]).all()


def test_semantic_duplicates_name_the_row_and_the_cosine(encoder):
    rows = [example("a", MILD[0], MILD[1]), example("b", INSULTS[1], THREATS[2]), example("c", MILD[0], MILD[1])]
    settings = SemanticDuplicatesSettings(model=str(encoder), threshold=0.9999)
    kept, removed = SemanticDuplicates(settings)(rows)
    assert [row.id for row in kept] == ["a", "b"]
    (row,) = removed
    assert (row.id, row.matched_id, row.reason) == ("c", "a", "cosine 1.0000 with an earlier row")


def test_equal_removal_of_semantic_duplicates_spares_the_first(encoder):
    rows = [example(f"a{k}", MILD[0], source="copies") for k in range(8)]
    rows += [example(f"b{k}", text, source="others") for k, text in enumerate([*INSULTS, *THREATS])]
    settings = SemanticDuplicatesSettings(model=str(encoder), threshold=0.9999)
    assert [row.source for row in SemanticDuplicates(settings)(rows)[1]] == ["copies"] * 7
    _, removed = SemanticDuplicates(settings, Equal("source", lambda row: row.source))(rows)
    assert [row.source for row in removed] == ["copies"] * 4 + ["others"] * 4  # 7 of 16, of 8 each: 3.5, half up
    assert "a0" not in {row.id for row in removed}
