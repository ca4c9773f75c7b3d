"""curate.influence.exact: cosines equal the slow reference, and rows without a direction are named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from curate.influence.checkpoints import Checkpoint, CheckpointError
from curate.influence.exact import pool_cosines, target_gradients
from tests.reference import influence as reference
from tests.tiny import PAD, make_model, make_rows
from train.encoding import IGNORED
from train.models import trainable

POOL, TARGETS = make_rows(5, seed=1), make_rows(3, seed=2, prefix="target")
SMALL = ("v_proj",)  # keeps the reference's loop over coordinates short


def random_checkpoint(model, seed: int = 0) -> Checkpoint:
    generator = torch.Generator().manual_seed(seed)
    named = trainable(model)
    m = {name: 0.1 * torch.randn(p.numel(), generator=generator) for name, p in named.items()}
    v = {name: 0.01 * torch.rand(p.numel(), generator=generator) for name, p in named.items()}
    return Checkpoint(Path("checkpoint-1"), 7, (0.9, 0.999), 1e-8, [1e-3], m, v)


@pytest.mark.parametrize("rule", ["less", "torch", "sgd"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_equals_the_reference(architecture, rule):
    model = make_model(architecture, targets=SMALL)
    checkpoint = random_checkpoint(model)
    unit = target_gradients(model, TARGETS, PAD, tokens_per_batch=20)
    scores = pool_cosines(model, checkpoint, POOL, unit, PAD, rule=rule, tokens_per_batch=30)
    assert scores.values.dtype == np.float32 and scores.excluded == {}
    # float32 gradients against float64 sums of them
    np.testing.assert_allclose(scores.values, reference.cosines(model, checkpoint, POOL, TARGETS, rule), atol=2e-5)


def test_batches_and_order_do_not_matter_and_rows_are_counted():
    model = make_model()
    checkpoint, unit, done = random_checkpoint(model), target_gradients(model, TARGETS, PAD, 4096), []
    whole = pool_cosines(model, checkpoint, POOL, unit, PAD).values
    order = [4, 1, 0, 3, 2]
    shuffled = pool_cosines(
        model, checkpoint, [POOL[i] for i in order], unit, PAD, tokens_per_batch=15, on_batch=done.append
    )
    np.testing.assert_allclose(shuffled.values, whole[order], atol=2e-5)
    assert sum(done) == len(POOL) and len(done) > 1


def test_row_equal_to_a_target_scores_one_under_sgd():
    model = make_model("mistral")
    unit = target_gradients(model, TARGETS, PAD, 4096)
    scores = pool_cosines(model, random_checkpoint(model), [*POOL, TARGETS[1]], unit, PAD, rule="sgd")
    assert scores.values[-1, 1] == pytest.approx(1.0, abs=1e-5)
    assert (np.abs(scores.values) <= 1 + 1e-5).all()


def test_one_row_and_one_target():
    model = make_model()
    unit = target_gradients(model, TARGETS[:1], PAD, 4096)
    assert pool_cosines(model, random_checkpoint(model), POOL[:1], unit, PAD).values.shape == (1, 1)


@pytest.mark.parametrize("rule", ["less", "sgd"])
def test_rows_and_columns_without_a_direction_are_named(rule):
    model = make_model("qwen2")  # its head is not tied to the embeddings
    poison = 47
    with torch.no_grad():
        model.get_input_embeddings().weight[poison] = torch.nan
    clean = [replace(row, input_ids=[min(t, poison - 1) for t in row.input_ids]) for row in [*POOL, *TARGETS]]
    clean = [replace(r, labels=[i if k != IGNORED else k for i, k in zip(r.input_ids, r.labels, strict=True)])
             for r in clean]  # fmt: skip
    broken = replace(clean[0], id="broken", input_ids=[poison, *clean[0].input_ids[1:]])
    masked = replace(clean[1], id="masked", labels=[IGNORED] * len(clean[1].labels))
    pool = [clean[2], broken, masked, clean[3]]
    unit = target_gradients(model, [clean[5], replace(broken, id="bad target"), clean[6]], PAD, 4096)
    scores = pool_cosines(model, random_checkpoint(model), pool, unit, PAD, rule=rule)
    assert set(scores.excluded) == {"broken", "masked", "bad target"}
    assert np.isnan(scores.values[[1, 2]]).all() and np.isnan(scores.values[:, 1]).all()
    assert np.isfinite(scores.values[np.ix_([0, 3], [0, 2])]).all()


def test_share_of_small_second_moments():
    model = make_model(targets=SMALL)
    checkpoint, unit = random_checkpoint(model), target_gradients(model, TARGETS, PAD, 4096)
    tiny = replace(checkpoint, v={name: torch.zeros_like(v) for name, v in checkpoint.v.items()})
    share = [pool_cosines(model, replace(tiny, eps=eps), POOL, unit, PAD).small_v_share for eps in (1e-30, 1e-8, 1e30)]
    assert share[0] <= share[1] < share[2] == 1.0
    assert pool_cosines(model, replace(checkpoint, eps=0.0), POOL, unit, PAD).small_v_share == 0.0


def test_moments_of_another_adapter_are_refused():
    other = random_checkpoint(make_model(targets=("q_proj", "v_proj")))
    model = make_model(targets=SMALL)
    unit = target_gradients(model, TARGETS, PAD, 4096)
    with pytest.raises(CheckpointError, match=r"moments for .*q_proj.*which the adapter does not have"):
        pool_cosines(model, other, POOL, unit, PAD)
