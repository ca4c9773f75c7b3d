"""Who pays for a filter: rates, tests and equal removal against slow ones, and flags that need a large, sure ratio."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.cleaning.balance import Split, equalised, fisher_greater, group_rates, holm
from tests.reference import balance as slow


def split(counts, name="toxicity", by="source"):
    """counts: group -> (seen, removed)."""
    return Split(name, by, *({group: both[k] for group, both in counts.items()} for k in (0, 1)))


@settings(deadline=None)  # the first call imports
@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_fisher_against_binomials(seen, others, data):
    gone = data.draw(st.integers(0, seen + others))
    removed = data.draw(st.integers(max(0, gone - others), min(seen, gone)))
    expected = slow.fisher_greater(seen, removed, seen + others, gone)
    assert fisher_greater(seen, removed, seen + others, gone) == pytest.approx(expected, rel=1e-9, abs=1e-15)


@settings(deadline=None)  # the first call imports
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_against_its_definition(p_values):
    assert holm(p_values) == pytest.approx(slow.holm(p_values))


def test_rates_are_of_the_group_and_of_all_others():
    large, small, none = group_rates([split({"a": (80, 8), "b": (20, 10), "c": (100, 0)})])
    assert (large.seen, large.removed, large.rate, large.rate_of_others) == (80, 8, 0.1, 10 / 120)
    assert small.rate == 0.5 and small.ratio == pytest.approx(0.5 / (8 / 180)) and small.flagged
    assert (none.rate, none.ratio, none.flagged) == (0.0, 0.0, False) and not large.flagged


@pytest.mark.parametrize(
    ("counts", "flagged"),
    [
        ({"a": (10_000, 130), "b": (10_000, 100)}, False),  # sure and small
        ({"a": (3, 1), "b": (1000, 20)}, False),  # large and luck
        ({"a": (500, 40), "b": (1000, 20)}, True),
        ({"a": (500, 12), "b": (1000, 0)}, True),  # no ratio
        ({"a": (500, 500)}, False),  # no others
        ({"a": (500, 0), "b": (1000, 0)}, False),
    ],
)
def test_a_flag_needs_a_large_ratio_and_no_luck(counts, flagged):
    assert group_rates([split(counts)])[0].flagged is flagged


def test_flags_are_corrected_over_all_filters():
    alone = group_rates([split({"a": (100, 12), "b": (1000, 45)})])[0]
    among = group_rates([split({"a": (100, 12), "b": (1000, 45)}), *[split({"a": (9, 1), "b": (9, 1)})] * 50])[0]
    assert alone.flagged and not among.flagged and among.p_value > alone.p_value


def test_equal_groups_are_rarely_flagged():
    """At most `alpha` of runs without any difference may hold a flag; 40 runs of 30 groups held none."""
    rng, flags = np.random.default_rng(0), 0
    for _ in range(40):
        groups = rng.integers(0, 30, 3000)
        gone = groups[rng.random(3000) < 0.05]
        seen, removed = ({f"g{k}": int(n) for k, n in enumerate(np.bincount(g, minlength=30))} for g in (groups, gone))
        rates = group_rates([Split("f", "source", seen, removed)])
        flags += any(rate.flagged for rate in rates)
    assert flags <= 2


@settings(deadline=None)  # the first call imports
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.5, 1.0, float("nan"), float("inf")]), st.sampled_from("abc")),
        min_size=1,
        max_size=40,
    ),
    st.sampled_from([0.3, 0.6, 2.0]),
)
def test_equal_removal_against_a_list(rows, threshold):
    scores = np.array([score for score, _ in rows])
    groups = [group for _, group in rows]
    ids = [f"r{(7 * k) % 41:02d}" for k in range(len(rows))]
    over = scores >= threshold
    assert equalised(scores, over, groups, ids).tolist() == slow.equalised(scores, over.tolist(), groups, ids)


def test_every_group_loses_the_same_share():
    rng = np.random.default_rng(1)
    groups = ["x"] * 600 + ["y"] * 300 + ["z"] * 100
    scores = rng.random(1000) + np.array([0.5] * 600 + [0.0] * 400)
    removed = equalised(scores, scores > 1.2, groups, [str(k) for k in range(1000)])
    share = (scores > 1.2).mean()
    for group in "xyz":
        own = np.array([name == group for name in groups])
        # rounded to whole rows
        assert abs(removed[own].sum() - share * own.sum()) <= 0.5
        assert scores[own & removed].min() >= scores[own & ~removed].max()
