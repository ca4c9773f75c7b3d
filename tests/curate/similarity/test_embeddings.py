"""curate.similarity.embeddings: the model's own last hidden states, whatever the batches; rows without a direction."""

from dataclasses import replace

import numpy as np
import pytest

from curate.similarity.embeddings import NO_TARGET, embedding_scores, nearest_target, unit_vectors
from tests.reference import similarity as reference
from tests.tiny import ARCHITECTURES, PAD, make_base, make_model, make_rows

POOL, TARGETS = make_rows(9, seed=1), make_rows(4, seed=2, prefix="target")


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_equals_one_row_at_a_time(architecture, pooling):
    model = make_model(architecture).eval()
    scores = embedding_scores(model, POOL, TARGETS, PAD, pooling=pooling, tokens_per_batch=40)
    pool, targets = ([reference.hidden_state(model, row, pooling) for row in rows] for rows in (POOL, TARGETS))
    assert scores.dtype == np.float32
    # float32 forward passes of padded batches against single rows
    np.testing.assert_allclose(scores, [[reference.cosine(a, b) for b in targets] for a in pool], atol=2e-6)


def test_batches_and_order_do_not_matter_and_rows_are_counted():
    model, done = make_model(), []
    whole = embedding_scores(model, POOL, TARGETS, PAD)
    order = [4, 8, 1, 0, 7, 3, 2, 6, 5]
    shuffled = embedding_scores(
        model, [POOL[i] for i in order], TARGETS, PAD, tokens_per_batch=15, on_batch=done.append
    )
    np.testing.assert_allclose(shuffled, whole[order], atol=2e-6)
    assert sum(done) == len(POOL) and len(done) > 1
    assert np.array_equal(embedding_scores(model, POOL, TARGETS, PAD), whole)


def test_the_adapter_is_part_of_the_vector_and_the_model_is_left_as_it_was():
    model = make_model().train()
    adapted = unit_vectors(model, POOL, PAD)
    assert model.training and all(p.grad is None for p in model.parameters())
    np.testing.assert_allclose(np.linalg.norm(adapted, axis=1), 1, atol=1e-6)
    with model.disable_adapter():
        plain = unit_vectors(model, POOL, PAD)
    np.testing.assert_allclose(plain, unit_vectors(make_base(), POOL, PAD), atol=2e-6)
    assert np.abs(adapted - plain).max() > 0.05


@pytest.mark.parametrize("value", [0.0, float("nan")], ids=["zero", "nan"])
def test_a_vector_without_direction_has_no_score(value):
    """The last token of one pool row and of one target gets an embedding that makes the model's state useless."""
    model = make_base("qwen2")
    odd_row, odd_target = 2, 1
    used = {token for rows in (POOL, TARGETS) for row in rows for token in row.input_ids}
    token = next(t for t in range(2, 48) if t not in used)
    pool, targets = list(POOL), list(TARGETS)
    pool[odd_row] = _ending_in(pool[odd_row], token)
    targets[odd_target] = _ending_in(targets[odd_target], token)

    ids = []

    def spoil(_module, _inputs, output):
        return output.masked_fill((ids[-1] == token).unsqueeze(2), value)

    model.model.embed_tokens.register_forward_pre_hook(lambda _module, inputs: ids.append(inputs[0]))
    model.model.norm.register_forward_hook(spoil)
    scores = embedding_scores(model, pool, targets, PAD)
    missing = np.zeros_like(scores, dtype=bool)
    missing[odd_row, :], missing[:, odd_target] = True, True
    assert np.array_equal(np.isnan(scores), missing)
    vectors, across = unit_vectors(model, pool, PAD), unit_vectors(model, targets, PAD)
    best, where = nearest_target(vectors, across)
    assert np.isnan(best[odd_row]) and where[odd_row] == NO_TARGET
    assert odd_target not in where.tolist()


def _ending_in(row, token):
    return replace(row, input_ids=[*row.input_ids[:-1], token])


def test_the_nearest_target_is_the_row_maximum_of_the_matrix():
    generator = np.random.default_rng(0)
    vectors, targets = (generator.normal(size=(n, 24)).astype(np.float32) for n in (500, 30))
    vectors, targets = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (vectors, targets))
    best, where = nearest_target(vectors, targets)
    matrix = vectors.astype(np.float64) @ targets.T.astype(np.float64)
    assert where.tolist() == matrix.argmax(axis=1).tolist()
    np.testing.assert_allclose(best, matrix.max(axis=1), atol=1e-6)
