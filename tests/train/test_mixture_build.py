"""train.mixture.build: the sampler that settings ask for, and what is said before the first step."""

import numpy as np
import pytest
from pydantic import ValidationError

from train.mixture import (
    ConstantSchedule,
    MixtureError,
    MixtureSampler,
    build_sampler,
    epochs_note,
    temperature_probabilities,
    unimax_probabilities,
)
from train.settings import MixtureSettings

SIZES = [100, 10, 1]
DOMAINS = ["a"] * 100 + ["b"] * 10 + ["c"]
TOKENS = [2] * 100 + [5] * 10 + [50]


def build(total: int = 10, **settings):
    chosen = MixtureSettings(**({"max_epochs": None} | settings)) if settings else None
    return build_sampler(chosen, DOMAINS, TOKENS, pool_size=10, total_steps=total, seed=1)


def taus(sampler) -> list[float]:
    return [sampler.tau(t) for t in range(sampler.total_steps)]


@pytest.mark.filterwarnings("ignore:step .* draws")
def test_no_settings_are_a_proportional_shuffle():
    plain = MixtureSampler(DOMAINS, 10, 10, ConstantSchedule(1.0), 1)
    told = build(start=1.0, end=1.0)
    none = build()
    for t in range(10):
        expected = plain.plan(t).tobytes()
        assert none.plan(t).tobytes() == told.plan(t).tobytes() == expected
    assert none.state_dict() == plain.state_dict()


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "static", "probabilities": {"a": -0.5, "b": 1.0}}, "of a is -0.5; it must be finite"),
        ({"schedule": "static", "probabilities": {"a": float("nan")}}, "of a is nan; it must be finite"),
        ({"schedule": "static", "probabilities": {"a": 0.0}}, "all 0; give at least one domain"),
        ({"schedule": "linear", "start": float("inf")}, "from inf to 1 needs finite temperatures; use steps"),
        ({"schedule": "steps", "steps": [(0.1, 5.0)]}, "must start at progress 0"),
        ({"start": 5.0, "max_epochs": 0.5}, r"max_epochs 0.5 is infeasible: 100 draws from 111 .* at least 0.900901"),
    ],
)
def test_what_the_data_or_the_run_cannot_give_is_refused(settings, message):
    with pytest.raises(MixtureError, match=message):
        build(**settings)


def test_scalarization_draws_proportionally_and_weighs():
    sampler = build(mode="scalarization", start=2.0, end=2.0)
    np.testing.assert_allclose(sampler.probabilities(0), temperature_probabilities(SIZES, 1))
    np.testing.assert_allclose(sampler.domain_weights(0), [0.783772, 2.478505, 7.837722], atol=1e-6)


def test_sizes_in_tokens():
    sampler = build(start=1.0, size_unit="tokens")
    np.testing.assert_allclose(sampler.probabilities(0), np.array([200, 50, 50]) / 300)
    shuffled = build(mode="none", size_unit="tokens")
    np.testing.assert_array_equal(shuffled.probabilities(0), temperature_probabilities(SIZES, 1))


def test_every_setting_reaches_the_sampler():
    capped = build(max_epochs=4.0, rounding="carry")
    assert capped.expected_epochs().max() == pytest.approx(4.0)
    counts = sum(capped.counts(t) for t in range(10))
    np.testing.assert_allclose(counts, capped.expected_epochs() * SIZES, atol=1)


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
    first, second = epochs_note(build(50, start=5.0))
    assert first.startswith("domain c") and second.startswith("domain b")
    assert epochs_note(build(max_epochs=4.0)) == []
