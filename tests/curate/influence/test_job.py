"""curate.influence.job: values of the whole job, what a second run does, and what is never mixed."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from curate.influence.checkpoints import learning_rate_weights, load_checkpoint
from curate.influence.features import FeatureStore, row_key
from curate.influence.job import read_outcomes, run_job
from curate.influence.rows import read_rows
from curate.influence.scoring import InfluenceError
from curate.influence.settings import InfluenceSettings
from curate.influence.target_side import read_target_features
from tests.curate.influence.builders import make_job
from tests.reference import influence as reference
from tests.tiny import make_rows
from train.encoding import IGNORED, Encoded, write_encoded
from train.models import load_adapter, load_base

POOL, TARGETS = make_rows(10, seed=1), make_rows(3, seed=2, prefix="target")


@pytest.fixture
def job_for(tmp_path, warmup):
    """Makes jobs in `tmp_path`, on POOL and TARGETS unless other rows are given."""

    def make(pool=POOL, targets=TARGETS, **changes):
        for name, rows in (("pool", pool), ("targets", targets)):
            write_encoded(tmp_path / f"{name}.parquet", rows)
        return make_job(tmp_path, **({"checkpoints": warmup.checkpoints, "base": warmup.base,
                                      "sample": warmup.sample} | changes))  # fmt: skip

    return make


def values(job, outcome) -> np.ndarray:
    keys = read_rows(job.pool, job.targets).keys
    return FeatureStore(outcome.store, outcome.identity).rows(keys)[0 : len(keys)]


def counted(job) -> tuple[list, list[int]]:
    steps: list[int] = []
    return run_job(job, on_rows=steps.append), steps


def shards(outcome) -> set[str]:
    return {path.parent.name for path in outcome.store.glob("*/values.npy")}


def side_files(outcome) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in outcome.store.iterdir() if path.is_file()}


@pytest.mark.parametrize("rule", ["less", "torch", "sgd"])
def test_exact_values_equal_the_reference_at_every_checkpoint(job_for, rule):
    job = job_for(preconditioner=rule)
    outcomes = run_job(job)
    assert read_outcomes(job.output) == outcomes
    loaded = [load_checkpoint(path) for path in job.checkpoints]
    assert [outcome.weight for outcome in outcomes] == learning_rate_weights(
        [checkpoint.learning_rates for checkpoint in loaded]
    ).tolist()
    for outcome, checkpoint in zip(outcomes, loaded, strict=True):
        model = load_adapter(load_base(job.model, device="cpu"), outcome.checkpoint)
        wanted = reference.cosines(model, checkpoint, POOL, TARGETS, rule)
        np.testing.assert_allclose(values(job, outcome), wanted, atol=5e-5)
        assert (outcome.rows_found, outcome.excluded, outcome.noise, outcome.fidelity) == (0, {}, None, None)
        assert outcome.identity.step == checkpoint.step
    assert not np.allclose(values(job, outcomes[0]), values(job, outcomes[1]), atol=1e-3)


@pytest.mark.parametrize("mode", ["sketch", "rademacher"])
def test_sketched_values_are_near_the_exact_ones_and_the_noise_is_reported(job_for, mode):
    d = 256
    exact = job_for(preconditioner="torch")
    wanted = [values(exact, outcome) for outcome in run_job(exact)]
    job = job_for(preconditioner="torch", mode=mode, dimension=d, stored_as="float16")
    rows = read_rows(job.pool, job.targets)
    seeds = set()
    for outcome, cosines in zip(run_job(job), wanted, strict=True):
        features, targets = values(job, outcome), read_target_features(outcome.store, rows)
        np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-3)  # float16
        errors, noise = features @ targets.T - cosines, outcome.noise
        assert 0.6 / np.sqrt(d) < errors.std() < 1.5 / np.sqrt(d)  # 30 errors, dependent by rows and columns
        assert noise["columns"] == len(TARGETS) and noise["expected_std"] == pytest.approx(1 / np.sqrt(d))
        # the sample is the whole pool here; float16 features
        assert noise["difference_std"] == pytest.approx(errors.std(axis=0, ddof=1).mean(), rel=0.01)
        assert outcome.fidelity["rows"] == len(POOL) and outcome.fidelity["worst"] > 0.99999
        seeds.add(outcome.identity.seed)
    assert len(seeds) == 2  # the noise of checkpoints is independent


@pytest.mark.parametrize("settings", [{}, {"mode": "sketch", "dimension": 64}, {"preconditioner": "ekfac"}])
def test_second_run_finds_every_row_and_needs_no_model(job_for, tmp_path, warmup, settings):
    base = shutil.copytree(warmup.base, tmp_path / "base")
    job = job_for(base=base, **settings)
    first, steps = counted(job)
    assert sum(steps) == len(POOL) * len(first)
    before = [(shards(outcome), side_files(outcome)) for outcome in first]
    (base / "model.safetensors").unlink()
    second, steps = counted(job)
    assert [outcome.rows_found for outcome in second] == [len(POOL)] * 2
    assert steps == [len(POOL)] * 2
    assert [(shards(outcome), side_files(outcome)) for outcome in second] == before
    assert [replace_found(outcome) for outcome in second] == [replace_found(outcome) for outcome in first]


def replace_found(outcome):
    return outcome.model_copy(update={"rows_found": 0})


@pytest.mark.parametrize("mode", ["exact", "sketch"])
def test_added_rows_alone_are_computed(job_for, mode):
    first = run_job(job_for(mode=mode, dimension=64))
    known = [shards(outcome) for outcome in first]
    longer = [*make_rows(3, seed=8, prefix="new"), *POOL]
    job = job_for(pool=longer, mode=mode, dimension=64)
    second, steps = counted(job)
    assert steps == [10, 3, 10, 3]  # found, then computed, at each checkpoint
    for outcome, old in zip(second, known, strict=True):
        assert outcome.rows_found == 10 and outcome.store in [each.store for each in first]
        (new,) = shards(outcome) - old
        assert old < shards(outcome)
        written = np.load(outcome.store / new / "rows.npy")["key"].astype(str).tolist()
        assert written == [row_key(row) for row in longer[:3]]


def test_rows_of_equal_content_are_computed_once_and_have_equal_values(job_for):
    twin = replace(POOL[2], id="twin", source="elsewhere")
    job = job_for(pool=[*POOL, twin])
    outcomes, steps = counted(job)
    assert steps == [1, 4, 4, 2] * 2 and [outcome.rows_found for outcome in outcomes] == [0, 0]
    found = values(job, outcomes[0])
    np.testing.assert_array_equal(found[10], found[2])


@pytest.mark.parametrize("mode", ["exact", "sketch"])
def test_layout_of_shards_does_not_matter(job_for, tmp_path, mode):
    layouts = []
    for shard_rows, tokens_per_batch in ((1, 16), (4, 64), (100, 4096)):
        job = job_for(mode=mode, dimension=64, stored_as="float32", shard_rows=shard_rows,
                      tokens_per_batch=tokens_per_batch, features=tmp_path / f"features-{shard_rows}")  # fmt: skip
        outcomes = run_job(job)
        assert len(shards(outcomes[0])) == -(-len(POOL) // shard_rows)
        layouts.append([values(job, outcome) for outcome in outcomes])
    for layout in layouts[1:]:
        np.testing.assert_allclose(layout, layouts[0], atol=5e-5)  # other padding, other float32 sums


@pytest.mark.parametrize("mode", ["exact", "sketch"])
def test_flipped_byte_costs_its_shard_only(job_for, caplog, mode):
    job = job_for(mode=mode, dimension=64)
    first = run_job(job)
    before = [values(job, outcome) for outcome in first]
    whole = shards(first[1])
    damaged = first[1].store / min(whole) / "values.npy"
    data = bytearray(damaged.read_bytes())
    data[-3] ^= 1
    damaged.write_bytes(data)
    lost = len(np.load(damaged.parent / "rows.npy"))
    second, steps = counted(job)
    assert steps == [10, 10 - lost, lost] and [outcome.rows_found for outcome in second] == [10, 10 - lost]
    assert shards(second[1]) == whole | {damaged.parent.name + ".damaged"} and "is damaged" in caplog.text
    np.testing.assert_array_equal([values(job, outcome) for outcome in second], before)


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        ({"mode": "sketch", "dimension": 64}, "targets-*.safetensors"),
        ({"preconditioner": "ekfac"}, "ekfac.safetensors"),
    ],
)
def test_flipped_byte_beside_the_shards_is_found_too(job_for, caplog, settings, pattern):
    first = run_job(job_for(**settings))[0]
    before = side_files(first)
    (path,) = first.store.glob(pattern)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    run_job(job_for(pool=[*POOL, *make_rows(1, seed=8, prefix="new")], **settings))
    assert side_files(first) == before and f"{path} is damaged: it is computed again" in caplog.text


def test_excluded_rows_and_targets_are_named_with_the_reason(job_for):
    masked = Encoded("masked", "a", [3, 4, 5], [IGNORED] * 3)
    job = job_for(pool=[*POOL, masked], targets=[TARGETS[0], replace(masked, id="bad target"), TARGETS[1]])
    for outcome in run_job(job):
        assert outcome.excluded == {
            "masked": "gradient has norm 0.0, preconditioned " + outcome.excluded["masked"].split()[-1],
            "bad target": "target gradient has norm 0.0",
        }
        found = values(job, outcome)
        assert np.isnan(found[-1]).all() and np.isnan(found[:, 1]).all()
        assert np.isfinite(found[:-1, [0, 2]]).all()


def test_noise_is_measured_again_when_another_sample_is_asked_for(job_for):
    silent = run_job(job_for(mode="sketch", dimension=64, noise_rows=0))
    assert [outcome.noise for outcome in silent] == [None, None]
    told = run_job(job_for(mode="sketch", dimension=64, noise_rows=8))
    assert [outcome.store for outcome in told] == [outcome.store for outcome in silent]
    assert all(outcome.noise["expected_std"] == 1 / 8 for outcome in told)


def other_tokenizer(base, folder):
    copy = shutil.copytree(base, folder / "other-template")
    template = copy / "chat_template.jinja"
    template.write_text(template.read_text() + "\n")
    return copy


def rescaled(checkpoint, folder):
    """The same adapter weights under another scale: other gradients."""
    copy = shutil.copytree(checkpoint, folder / "rescaled")
    config = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 32}))
    return copy


def test_whatever_changes_the_values_changes_the_store(job_for, tmp_path, warmup):
    own = {"checkpoints": warmup.checkpoints[:1], "preconditioner": "sgd"}
    changes = [
        {},
        {"checkpoints": warmup.checkpoints[1:]},
        {"checkpoints": [rescaled(warmup.checkpoints[0], tmp_path)]},
        {"model_digest": "another"},
        {"code": "another"},
        {"base": other_tokenizer(warmup.base, tmp_path)},
        {"max_length": 65},
        {"preconditioner": "less"},
        {"preconditioner": "torch"},
        {"preconditioner": "ekfac"},
        {"preconditioner": "ekfac", "curvature": {"labels": "own"}},
        {"preconditioner": "ekfac", "sample": tmp_path / "pool.parquet"},
        {"layers": "top_half"},
        {"full_rank": ["down_proj"]},
        {"precision": "bfloat16"},
        {"targets": TARGETS[:2]},
        {"mode": "sketch", "dimension": 64},
        {"mode": "sketch", "dimension": 64, "stored_as": "int8"},
        {"mode": "sketch", "dimension": 64, "projection_seed": 1},
        {"mode": "sketch", "dimension": 32},
        {"mode": "rademacher", "dimension": 64},
    ]
    found = []
    for change in changes:
        (outcome,) = run_job(job_for(**(own | change)))
        assert outcome.rows_found == 0
        found.append(outcome.store)
    assert len(set(found)) == len(changes)
    (again,) = run_job(job_for(**own, tokens_per_batch=32, shard_rows=3, features=tmp_path / "features"))
    assert again.store == found[0] and again.rows_found == len(POOL)  # what changes no value changes no store


def test_peft_writes_sets_in_any_order_and_the_store_stays(job_for, tmp_path, warmup):
    copy = shutil.copytree(warmup.checkpoints[0], tmp_path / "copy")
    config = json.loads((copy / "adapter_config.json").read_text())
    places = ["q_proj", "v_proj", "o_proj"]
    digests = set()
    for order in (places, places[::-1]):
        changed = config | {"target_modules": order, "base_model_name_or_path": order[0]}
        (copy / "adapter_config.json").write_text(json.dumps(changed))
        digests.add(load_checkpoint(copy).digest)
    assert len(digests) == 1


def test_sketched_targets_do_not_change_the_store(job_for):
    first = run_job(job_for(mode="sketch", dimension=64))
    job = job_for(mode="sketch", dimension=64, targets=make_rows(2, seed=12, prefix="later"))
    second = run_job(job)
    assert [outcome.store for outcome in second] == [outcome.store for outcome in first]
    assert [outcome.rows_found for outcome in second] == [10, 10]
    assert read_target_features(second[0].store, read_rows(job.pool, job.targets)).shape == (2, 64)


def test_target_features_that_are_not_there_are_an_error(job_for):
    job = job_for(mode="sketch", dimension=64)
    store = run_job(job)[0].store
    job = job_for(targets=TARGETS[:1])
    with pytest.raises(InfluenceError, match=r"targets-.* is missing or damaged; run the gradients again"):
        read_target_features(store, read_rows(job.pool, job.targets))


def test_full_rank_layers_have_no_adam_moments():
    with pytest.raises(ValueError, match=r"down_proj has no Adam moments for preconditioner less; use ekfac or sgd"):
        InfluenceSettings(preconditioner="less", full_rank=["down_proj"])
    assert InfluenceSettings(full_rank=["down_proj"], preconditioner="ekfac").full_rank == ["down_proj"]
