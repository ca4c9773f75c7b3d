"""curate.influence.scoring: cosines equal the slow reference, sketches are as close as they should be, and rows without
a direction are named."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from curate.influence.checkpoints import Checkpoint
from curate.influence.preconditioning import Adam
from curate.influence.projection import make_projection
from curate.influence.scoring import InfluenceError, score_rows, target_gradients
from tests.curate.influence.builders import make_engine, random_checkpoint
from tests.reference import influence as reference
from tests.reference.per_example import loss
from tests.tiny import make_model, make_rows
from train.encoding import IGNORED, Encoded

POOL, TARGETS = make_rows(5, seed=1), make_rows(3, seed=2, prefix="target")
SMALL = ("v_proj",)  # keeps the reference's loop over coordinates short
RULES = ["less", "torch", "sgd"]


def cosines(engine, pool=POOL, targets=TARGETS) -> np.ndarray:
    return score_rows(engine, pool, target_gradients(engine, targets)).cosines


def with_adam(model, rule: str = "less", **changes):
    return make_engine(model, Adam(random_checkpoint(model, **changes), rule))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_cosines_equal_the_reference(architecture, rule):
    model = make_model(architecture, targets=SMALL)
    unit = target_gradients(make_engine(model, rule, tokens_per_batch=20), TARGETS)
    scores = score_rows(make_engine(model, rule, tokens_per_batch=30), POOL, unit)
    assert scores.cosines.dtype == np.float32 and scores.excluded == {} and unit.excluded == {}
    wanted = reference.cosines(model, random_checkpoint(model), POOL, TARGETS, rule)
    # float32 gradients against float64 sums of them
    np.testing.assert_allclose(scores.cosines, wanted, atol=2e-5)


@pytest.mark.parametrize("rule", RULES)
def test_norms_and_losses_are_the_rows_own(rule):
    model = make_model(targets=SMALL)
    engine = make_engine(model, rule)
    scores, unit = score_rows(engine, POOL), target_gradients(engine, TARGETS)
    assert scores.cosines is None and scores.features is None
    np.testing.assert_allclose(scores.losses, [loss(model, row).item() for row in POOL], rtol=1e-5)
    checkpoint = random_checkpoint(model)
    wanted = [np.linalg.norm(reference.pool_feature(model, checkpoint, row, rule)) for row in POOL]
    np.testing.assert_allclose(scores.norms, wanted, rtol=1e-5)
    plain = [np.linalg.norm(reference.pool_feature(model, checkpoint, row, "sgd")) for row in TARGETS]
    np.testing.assert_allclose(unit.norms, plain, rtol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_batches_and_order_do_not_matter_and_rows_are_counted(rule):
    model, done = make_model(), []
    whole = cosines(make_engine(model, rule))
    order = [4, 1, 0, 3, 2]
    engine = make_engine(model, rule, tokens_per_batch=15, on_batch=done.append)
    unit = target_gradients(make_engine(model, rule, tokens_per_batch=12), TARGETS)
    shuffled = score_rows(engine, [POOL[i] for i in order], unit)
    np.testing.assert_allclose(shuffled.cosines, whole[order], atol=2e-5)
    assert sum(done) == len(POOL) and len(done) > 1


def test_row_equal_to_a_target_scores_one_under_sgd():
    scores = cosines(make_engine(make_model("mistral")), [*POOL, TARGETS[1]])
    assert scores[-1, 1] == pytest.approx(1.0, abs=1e-5)
    assert (np.abs(scores) <= 1 + 1e-5).all() and (np.abs(scores[:-1]) < 0.99).all()


def test_one_row_and_one_target():
    assert cosines(make_engine(make_model(), "less"), POOL[:1], TARGETS[:1]).shape == (1, 1)


@pytest.mark.parametrize("kind", ["sketch", "rademacher"])
@pytest.mark.parametrize("rule", ["less", "sgd"])
def test_both_outputs_in_one_pass_equal_the_single_passes(rule, kind):
    engine = make_engine(make_model(), rule)
    unit, projection = target_gradients(engine, TARGETS), make_projection(kind, 64, seed=3)
    both = score_rows(engine, POOL, unit, projection)
    np.testing.assert_array_equal(both.cosines, score_rows(engine, POOL, unit).cosines)
    np.testing.assert_array_equal(both.features, score_rows(engine, POOL, None, projection).features)
    np.testing.assert_allclose(np.linalg.norm(both.features, axis=1), 1, atol=1e-6)


def spoilt_rows(model) -> tuple[list[Encoded], Encoded, Encoded]:
    """Rows without token 47, whose embedding becomes NaN, one row with it, and one without a label."""
    poison = 47
    with torch.no_grad():
        model.get_input_embeddings().weight[poison] = torch.nan
    clean = []
    for row in [*POOL, *TARGETS]:
        ids = [min(token, poison - 1) for token in row.input_ids]
        labels = [i if kept != IGNORED else IGNORED for i, kept in zip(ids, row.labels, strict=True)]
        clean.append(replace(row, input_ids=ids, labels=labels))
    broken = replace(clean[0], id="broken", input_ids=[poison, *clean[0].input_ids[1:]])
    return clean, broken, replace(clean[1], id="masked", labels=[IGNORED] * len(clean[1].labels))


@pytest.mark.parametrize("rule", ["less", "sgd"])
def test_rows_and_columns_without_a_direction_are_named(rule):
    model = make_model("qwen2")  # its head is not tied to the embeddings
    clean, broken, masked = spoilt_rows(model)
    engine, projection = make_engine(model, rule), make_projection("sketch", 64, seed=3)
    unit = target_gradients(engine, [clean[5], replace(broken, id="bad target"), clean[6]])
    assert set(unit.excluded) == {"bad target"} and np.isnan(unit.norms).tolist() == [False, True, False]
    scores = score_rows(engine, [clean[2], broken, masked, clean[3]], unit, projection)
    assert set(scores.excluded) == {"broken", "masked"} and "norm 0.0" in scores.excluded["masked"]
    assert np.isnan(scores.cosines[[1, 2]]).all() and np.isnan(scores.cosines[:, 1]).all()
    assert np.isfinite(scores.cosines[np.ix_([0, 3], [0, 2])]).all()
    assert np.isnan(scores.features[[1, 2]]).all() and np.isfinite(scores.features[[0, 3]]).all()
    assert np.isnan(scores.norms).tolist() == [False, True, True, False]
    alone = score_rows(engine, [clean[2], clean[3]], target_gradients(engine, [clean[5], clean[6]]), projection)
    np.testing.assert_allclose(scores.cosines[np.ix_([0, 3], [0, 2])], alone.cosines, atol=2e-5)


def test_gradient_that_overflows_when_squared_is_excluded():
    """Under `less` its coordinates would become 0 / inf = 0 and the rest of the row would speak for it."""
    model = make_model("qwen2", targets=SMALL)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1e21)
    scores = score_rows(make_engine(model, "less"), POOL)
    for reason in scores.excluded.values():
        assert reason.startswith("gradient has norm inf, preconditioned ")
        assert 0 < float(reason.split()[-1]) < np.inf  # it would have passed for a feature
    assert set(scores.excluded) == {row.id for row in POOL} and np.isnan(scores.norms).all()


def test_no_usable_target_is_an_error():
    model = make_model("qwen2")
    _, broken, masked = spoilt_rows(model)
    with pytest.raises(InfluenceError, match="no target has a usable gradient: look at their answers"):
        target_gradients(make_engine(model), [broken, masked])


class Repeated(Sequence):
    """A billion targets."""

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, position):
        return TARGETS[0]


def test_targets_that_do_not_fit_in_memory_are_refused_before_any_work():
    engine = make_engine(make_model())
    size = sum(tap.parameter.numel() for tap in engine.taps.values())
    message = rf"1000000000 target gradients of {size} numbers in memory: {4 * size * 1e9 / 2**30:.1f} GiB of .* free"
    with pytest.raises(InfluenceError, match=rf"{message}\. Use influence\.mode sketch"):
        target_gradients(engine, Repeated())


def test_share_of_small_second_moments():
    model = make_model(targets=SMALL)

    def share(checkpoint: Checkpoint, rule: str) -> float:
        return score_rows(make_engine(model, Adam(checkpoint, rule)), POOL).small_v_share

    checkpoint = random_checkpoint(model)
    tiny = replace(checkpoint, v={name: torch.zeros_like(v) for name, v in checkpoint.v.items()})
    for rule in ("less", "torch"):
        shares = [share(replace(tiny, eps=eps), rule) for eps in (1e-30, 1e-8, 1e30)]
        squares = np.concatenate([reference.pool_feature(model, tiny, row, "sgd") for row in POOL]) ** 2
        assert shares == pytest.approx([np.mean(0.001 * squares < eps) for eps in (1e-30, 1e-8, 1e30)], abs=1e-3)
        assert shares[0] < shares[1] < shares[2] == 1.0
        assert share(replace(checkpoint, eps=0.0), rule) == 0.0
    assert score_rows(make_engine(model), POOL).small_v_share is None


# sketched features


@pytest.mark.parametrize("rule", RULES)
def test_sketched_cosines_are_off_by_the_noise_that_the_dimension_says(rule):
    """Errors have the mean 0 and a standard deviation of about 1/sqrt(d) (influence spec, section 7)."""
    pool, targets, d, seeds = make_rows(20, seed=3), make_rows(10, seed=4, prefix="target"), 128, 10
    engine = make_engine(make_model(), rule)
    exact = cosines(engine, pool, targets).astype(np.float64)
    errors = []
    for seed in range(seeds):
        projection = make_projection("sketch", d, seed)
        mine = score_rows(engine, pool, None, projection).features
        theirs = score_rows(engine, targets, None, projection, as_target=True).features
        errors.append(mine.astype(np.float64) @ theirs.T - exact)
    every = np.array(errors)
    assert abs(every.mean()) < 4 * every.mean(axis=(1, 2)).std() / np.sqrt(seeds)
    assert 0.7 / np.sqrt(d) < every.std() < 1.2 / np.sqrt(d)


def test_features_do_not_depend_on_batches_or_neighbours():
    model, projection = make_model(), make_projection("sketch", 128, seed=5)
    whole = score_rows(make_engine(model, "less"), POOL, None, projection).features
    for tokens_per_batch in (1, 15, 40):
        parts = [score_rows(make_engine(model, "less", tokens_per_batch), rows, None, projection).features
                 for rows in (POOL[3:], POOL[:3])]  # fmt: skip
        np.testing.assert_allclose(np.concatenate(parts[::-1]), whole, atol=2e-5)


def test_target_side_is_the_plain_gradient():
    model, projection = make_model(), make_projection("sketch", 128, seed=5)
    adam, plain = make_engine(model, "less"), make_engine(model, "sgd")
    as_target = score_rows(adam, TARGETS, None, projection, as_target=True)
    np.testing.assert_array_equal(as_target.features, score_rows(plain, TARGETS, None, projection).features)
    np.testing.assert_allclose(as_target.norms, target_gradients(adam, TARGETS).norms, rtol=1e-6)
    assert as_target.small_v_share is None  # no moment is looked at
    assert not np.allclose(as_target.features, score_rows(adam, TARGETS, None, projection).features, atol=0.01)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_adapter_with_magnitudes(architecture):
    """DoRA's vector parameters take part in cosines and features alike."""
    model = make_model(architecture, dora=True)
    engine, projection = make_engine(model, "less"), make_projection("sketch", 4096, seed=1)
    assert any("magnitude" in name for name in engine.taps)
    scores = score_rows(engine, POOL, target_gradients(engine, TARGETS), projection)
    theirs = score_rows(engine, TARGETS, None, projection, as_target=True).features
    assert scores.excluded == {}
    # d is above the number of parameters, so no two coordinates of one parameter meet; some of two parameters do
    np.testing.assert_allclose(scores.features @ theirs.T, scores.cosines, atol=6 / np.sqrt(4096))
