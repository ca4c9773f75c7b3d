"""train.mixture.build and .clusters: the sampler that settings ask for, and domains where the data has none."""

import numpy as np
import pytest
from pydantic import ValidationError

from tests.tiny import PAD, make_base, make_rows
from train.hidden_states import unit_vectors
from train.mixture import MixtureError, temperature_probabilities, unimax_probabilities
from train.mixture.build import build_sampler, epochs_note
from train.mixture.clusters import cluster_domains
from train.settings import MixtureSettings

SIZES = [100, 10, 1]
DOMAINS = ["a"] * 100 + ["b"] * 10 + ["c"]
TOKENS = [2] * 100 + [5] * 10 + [50]


def build(total: int = 10, **settings):
    chosen = MixtureSettings(**({"max_epochs": None} | settings)) if settings else None
    return build_sampler(chosen, DOMAINS, TOKENS, pool_size=10, total_steps=total, seed=1)


def taus(sampler) -> list[float]:
    return [sampler.tau(t) for t in range(sampler.total_steps)]


def test_schedules():
    assert taus(build()) == [1.0] * 10
    assert taus(build(start=5.0)) == [5.0] * 5 + [1.0] * 5
    assert taus(build(start=5.0, switch=0.2)) == [5.0] * 2 + [1.0] * 8
    assert taus(build(start=2.0, end=2.0)) == [2.0] * 10
    assert taus(build(schedule="linear", start=3.0)) == pytest.approx(np.linspace(3, 1, 11)[:10].tolist())
    assert taus(build(schedule="steps", steps=[(0, 4), (0.3, 2)])) == [4.0] * 3 + [2.0] * 7
    np.testing.assert_allclose(build(start=float("inf")).probabilities(0), [1 / 3] * 3)


def test_unimax_is_the_published_share_also_where_everything_is_exhausted():
    for steps, max_epochs in ((10, 2.0), (100, 2.0)):
        sampler = build(steps, schedule="unimax", max_epochs=max_epochs)
        np.testing.assert_allclose(sampler.probabilities(0), unimax_probabilities(SIZES, max_epochs, 10 * steps))


def test_static_probabilities():
    sampler = build(schedule="static", probabilities={"a": 0.5, "b": 0.5})
    assert sampler.probabilities(0).tolist() == [0.5, 0.5, 0.0]
    with pytest.raises(MixtureError, match="names d, of which there are no rows; the domains are a, b, c"):
        build(schedule="static", probabilities={"a": 0.5, "d": 0.5})


def test_scalarization_draws_proportionally_and_weighs():
    sampler = build(mode="scalarization", start=2.0, end=2.0)
    np.testing.assert_allclose(sampler.probabilities(0), temperature_probabilities(SIZES, 1))
    np.testing.assert_allclose(sampler.domain_weights(0), [0.783772, 2.478505, 7.837722], atol=1e-6)


def test_sizes_in_tokens():
    sampler = build(start=1.0, size_unit="tokens")
    np.testing.assert_allclose(sampler.probabilities(0), np.array([200, 50, 50]) / 300)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": ["sampling", "scalarization"]}, "sampling and scalarization exclude each other"),
        ({"mode": "scalarization", "schedule": "unimax"}, "mode scalarization draws proportionally"),
        ({"schedule": "steps"}, "`steps` and schedule: steps go together"),
        ({"probabilities": {"a": 1.0}}, "`probabilities` and schedule: static go together"),
        ({"schedule": "unimax", "max_epochs": None}, "set max_epochs"),
    ],
)
def test_settings_that_contradict_each_other(settings, message):
    with pytest.raises(ValidationError, match=message):
        MixtureSettings(**settings)


def test_repeated_domains_are_told():
    (line,) = epochs_note(build(start=5.0))
    assert line.startswith("domain c (1 rows) will be seen 10.") and "max_epochs" in line
    assert epochs_note(build(max_epochs=4.0)) == []


def test_clusters_find_blobs_by_size_and_repeat():
    rng = np.random.default_rng(0)
    centres = np.eye(3)[[0] * 60 + [1] * 100 + [2] * 40]
    vectors = (centres + rng.normal(scale=0.05, size=centres.shape)).astype(np.float32)
    labels = cluster_domains(vectors, 3, seed=5)
    assert labels == ["cluster-01"] * 60 + ["cluster-00"] * 100 + ["cluster-02"] * 40
    assert cluster_domains(vectors, 3, seed=5) == labels
    assert set(cluster_domains(vectors[:50], 8, seed=0)) == {"cluster-00"}  # too few rows for more
    vectors[7] = np.nan
    with pytest.raises(MixtureError, match=r"rows \[7\]"):
        cluster_domains(vectors, 3, seed=5)


def test_vectors_are_means_over_a_rows_own_tokens():
    model, rows = make_base(), make_rows(6)
    together = unit_vectors(model, rows, PAD, pooling="mean")
    alone = np.concatenate([unit_vectors(model, [row], PAD, pooling="mean") for row in rows])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
