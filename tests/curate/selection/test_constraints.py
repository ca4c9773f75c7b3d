"""Every method under every constraint against enumeration, and what is said when demands conflict."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from curate.selection import METHODS, SelectionError, SelectionWarning, bids
from curate.selection.constraints import Constraints, SourceLimit, TokenBudget, rows_of
from tests.reference.constraints import Demands, breaks, greedy_in_order, naive_constrained_bids

TASKS = ["a", "b", "a", "b"]
RANKED = sorted(set(METHODS) - {"bids", "weakest_first", "equal_quota"})


@st.composite
def problems(draw, *, tokens=st.booleans(), shares=True):
    """(scores, demands) of 2 to 8 rows with any mix of constraints."""
    n = draw(st.integers(2, 8))
    scores = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).integers(-3, 4, (n, 4)).astype(float)
    scores += np.linspace(0, 1e-3, n)[:, None] * draw(st.sampled_from([0, 1]))
    assume((scores.min(axis=0) < scores.max(axis=0)).all())
    in_tokens = draw(tokens)
    weight = draw(st.lists(st.integers(1, 6), min_size=n, max_size=n)) if in_tokens else [1] * n
    capacity = draw(st.integers(0, sum(weight)))
    demands = Demands(capacity, weight, in_tokens)
    rows = st.lists(st.integers(0, n - 1), max_size=2, unique=True)
    if draw(st.booleans()):
        demands.include = draw(rows)
        demands.exclude = [row for row in draw(rows) if row not in demands.include]
    if draw(st.booleans()):
        demands.sources = draw(st.lists(st.sampled_from("xyz"), min_size=n, max_size=n))
        least = st.integers(0, 3) | (st.sampled_from([0.0, 0.2, 0.5]) if shares else st.nothing())
        most = st.none() | st.integers(0, 4) | (st.sampled_from([0.3, 0.5, 1.0]) if shares else st.nothing())
        demands.limits = {
            name: (draw(least), draw(most)) for name in sorted(set(demands.sources)) if draw(st.booleans())
        }
    if draw(st.booleans()):
        demands.clusters = draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))
        demands.cap = draw(st.integers(1, 2))
    return scores, demands


def run(method, scores, demands, **kwargs):
    """The method's picks under the demands, or None if it refuses them."""
    budget = TokenBudget(demands.capacity, demands.weight) if demands.in_tokens else demands.capacity
    constraints = Constraints(
        include=demands.include,
        exclude=demands.exclude,
        sources=demands.sources,
        limits={name: SourceLimit(*limit) for name, limit in demands.limits.items()},
        clusters=demands.clusters,
        max_per_cluster=demands.cap,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SelectionWarning)
        try:
            return METHODS[method](scores, budget, tasks=TASKS, constraints=constraints, **kwargs).order.tolist()
        except SelectionError:
            return None


def most_rows(demands):
    return len(demands.weight) if demands.in_tokens else demands.capacity


relaxed = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@relaxed
@given(problems(tokens=st.just(False)), st.integers(1, 9))
def test_bids_with_a_budget_of_rows_is_the_naive_method(problem, depth):
    scores, demands = problem
    expected = naive_constrained_bids(scores, most_rows(demands), demands)
    assert run("bids", scores, demands, normalize=False, depth=depth) == expected


@st.composite
def crossings(draw):
    """Minima of sources whose rows are near-duplicates of each other's: what one takes, another may need."""
    n = draw(st.integers(5, 8))
    ranks = draw(st.permutations(range(n)))
    scores = np.stack([np.array(ranks, dtype=float)] * 4, axis=1) ** 2
    sources = draw(st.lists(st.sampled_from("xyz"), min_size=n, max_size=n))
    demands = Demands(draw(st.integers(2, n)), [1] * n, sources=sources)
    demands.limits = {name: (draw(st.integers(0, 2)), None) for name in sorted(set(sources))}
    demands.clusters, demands.cap = draw(st.lists(st.integers(0, n - 2), min_size=n, max_size=n)), 1
    return scores, demands


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(crossings())
def test_minima_and_clusters_that_cross_are_the_naive_method(problem):
    scores, demands = problem
    expected = naive_constrained_bids(scores, most_rows(demands), demands)
    assert run("bids", scores, demands, normalize=False) == expected
    assert run("sum", scores, demands) == greedy_in_order(
        np.argsort(-scores[:, 0]).tolist(), most_rows(demands), demands
    )


def test_the_reserve_moves_out_of_the_way():
    A = np.arange(6, 0, -1.0)[:, None]

    def picks(sources, clusters, minima, budget):
        limits = {name: SourceLimit(least) for name, least in minima.items()}
        constraints = Constraints(sources=list(sources), limits=limits, clusters=clusters, max_per_cluster=1)
        return bids(A, budget, constraints=constraints).order.tolist()

    # row 0 (z) takes the cluster in which row 1 (x) was reserved; row 5 stands in
    assert picks("zxxzzx", [0, 0, 1, 1, 2, 3], {"x": 1}, 2) == [0, 2]
    # row 0 (x) takes the cluster of row 1 (y), which moves to that of row 2 (x), which is not needed any more
    assert picks("xyxyzz", [0, 0, 1, 1, 2, 3], {"x": 1, "y": 1}, 2) == [0, 3]
    # row 0 (z) takes the cluster of row 1 (x), which moves to that of row 2 (y), which moves to that of row 3
    assert picks("zxyyxz", [0, 0, 1, 2, 1, 3], {"x": 1, "y": 1}, 3) == [0, 3, 4]


@relaxed
@given(problems(tokens=st.just(True), shares=False), st.integers(1, 9))
def test_bids_with_a_budget_of_tokens_is_the_naive_method(problem, depth):
    scores, demands = problem
    # minima in rows or a cap, not both: then the shortest rows are the best reserve, and nothing is refused for caution
    assume(demands.cap is None or not any(least for least, _ in demands.limits.values()))
    expected = naive_constrained_bids(scores, most_rows(demands), demands)
    assert run("bids", scores, demands, normalize=False, depth=depth) == expected


@relaxed
@given(problems(), st.sampled_from(sorted(METHODS)))
def test_every_method_keeps_every_constraint(problem, method):
    scores, demands = problem
    order = run(method, scores, demands)
    if order is None:
        return
    assert not breaks(order, demands)
    assert len(set(order)) == len(order)
    assert order[: len(demands.include)] == sorted(demands.include)
    assert demands.in_tokens or len(order) == demands.capacity


@relaxed
@given(problems(tokens=st.just(False)), st.sampled_from(RANKED))
def test_ranking_methods_go_down_their_ranking(problem, method):
    scores, demands = problem
    ranking = METHODS[method](scores, len(scores), tasks=TASKS).order.tolist()
    assert run(method, scores, demands) == greedy_in_order(ranking, most_rows(demands), demands)


@relaxed
@given(problems(tokens=st.just(False)), st.sampled_from(["weakest_first", "equal_quota"]))
def test_greedy_methods_fail_only_where_bids_may(problem, method):
    scores, demands = problem
    order = run(method, scores, demands)
    # without clusters across sources a greedy choice never ends too early, so all agree on what can be met
    crossing = demands.cap is not None and demands.limits
    if not crossing:
        assert (order is None) == (naive_constrained_bids(scores, most_rows(demands), demands) is None)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_empty_constraints_change_nothing(method):
    A = np.random.default_rng(0).normal(size=(60, 4))
    plain = METHODS[method](A, 25, tasks=TASKS, seed=4)
    empty = METHODS[method](A, 25, tasks=TASKS, seed=4, constraints=Constraints())
    ones = METHODS[method](A, TokenBudget(25, np.ones(60, int)), tasks=TASKS, seed=4)
    for other in (empty, ones):
        assert other.order.tolist() == plain.order.tolist()
        assert other.target.tolist() == plain.target.tolist()
        np.testing.assert_array_equal(other.utility, plain.utility)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_larger_problem_with_everything_at_once(method):
    rng = np.random.default_rng(1)
    n = 3000
    A = rng.standard_t(3, (n, 4))
    A[::97] = np.nan
    sources = rng.choice(["code", "math", "talk"], n, p=[0.05, 0.15, 0.8]).tolist()
    lengths, clusters = rng.integers(5, 200, n), rng.integers(0, 1500, n)
    include, exclude = [5, 40, 77], list(range(100, 400))
    constraints = Constraints(
        include=include,
        exclude=exclude,
        sources=sources,
        limits={"code": SourceLimit(0.2), "math": SourceLimit(30, 0.25), "talk": SourceLimit(0, 200)},
        clusters=clusters,
        max_per_cluster=1,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SelectionWarning)
        order = METHODS[method](
            A, TokenBudget(30_000, lengths), tasks=TASKS, constraints=constraints, seed=2
        ).order.tolist()
    assert order[:3] == include
    assert not set(order) & set(exclude) and len(set(order)) == len(order)
    assert not set(order) & set(range(0, n, 97))
    tokens = {
        name: sum(int(lengths[row]) for row in order if sources[row] == name) for name in ("code", "math", "talk")
    }
    rows = {name: sum(sources[row] == name for row in order) for name in tokens}
    # the budget is used up to less than the shortest row that could still come
    assert 30_000 - 200 < sum(tokens.values()) <= 30_000
    assert tokens["code"] >= 6000 and tokens["math"] <= 7500 and rows["math"] >= 30 and rows["talk"] <= 200
    assert np.unique(clusters[order]).size == len(order)


def test_a_row_that_does_not_fit_is_skipped_and_shorter_ones_follow():
    A = np.array([[9.0], [8], [7], [6], [5]])
    assert bids(A, TokenBudget(10, [6, 5, 4, 3, 1])).order.tolist() == [0, 2]
    assert bids(A, TokenBudget(11, [6, 7, 4, 3, 1])).order.tolist() == [0, 2, 4]
    assert bids(A, TokenBudget(0.5, [6, 7, 4, 4, 1])).order.tolist() == [0, 2, 4]
    assert bids(A, TokenBudget(3, [6, 7, 4, 4, 5])).order.tolist() == []


def test_when_the_rest_of_the_budget_is_what_minima_lack_only_their_rows_come():
    A = np.arange(6, 0, -1.0)[:, None]
    constraints = Constraints(sources=list("xxxxyy"), limits={"y": SourceLimit(2)})
    assert bids(A, 4, constraints=constraints).order.tolist() == [0, 1, 4, 5]
    assert METHODS["sum"](A, 4, constraints=constraints).order.tolist() == [0, 1, 4, 5]


def test_resume_with_constraints():
    A = np.random.default_rng(3).normal(size=(200, 4))
    sources = np.random.default_rng(4).choice(list("xyz"), 200).tolist()
    constraints = Constraints(include=[7, 9], sources=sources, limits={"x": SourceLimit(20), "y": SourceLimit(0, 10)})
    whole = bids(A, 50, constraints=constraints)
    for cut in (1, 2, 30):
        part = type(whole)(whole.order[:cut], whole.target[:cut], whole.utility[:cut])
        assert bids(A, 50, constraints=constraints, after=part).order.tolist() == whole.order.tolist()
    outside = bids(A, 20)
    assert not set(outside.order.tolist()) >= {7, 9}
    with pytest.raises(SelectionError, match="constraints do not allow"):
        bids(A, 50, constraints=Constraints(exclude=[int(outside.order[3])]), after=outside)


SIX = np.arange(12.0).reshape(6, 2) ** 2
SOURCES = list("xxxyyy")
CLUSTERS = [0, 0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    ("budget", "constraints", "message"),
    [
        (3, {"include": [1], "exclude": [1]}, r"row 1 is in include and in exclude \(1 such rows\)"),
        (1, {"include": [1, 2]}, "the 2 rows of include take 2 rows, more than the budget of 1"),
        (
            3,
            {"limits": {"x": (4, None)}},
            "the minimum of source 'x', 4 rows, is more than its 3 rows that can be used",
        ),
        (
            3,
            {"limits": {"x": (2, None)}, "exclude": [0, 1]},
            r"more than its 1 rows that can be used \(2 are in exclude",
        ),
        (3, {"limits": {"x": (2, 1)}}, "minimum of source 'x', 2 rows, is more than its maximum of 1 rows"),
        (3, {"limits": {"x": (2, None), "y": (2, None)}}, "minima of the sources add up to 4 rows.*budget of 3"),
        (3, {"limits": {"x": (2, None)}, "include": [3, 4]}, "add up to 2 rows, 4 with the rows of include.*of 3"),
        (3, {"limits": {"x": (0, 1)}, "include": [0, 1]}, "include holds 2 rows of source 'x'.*maximum of 1 rows"),
        (5, {"limits": {"x": (0, 1)}}, "budget of 5 rows is more than the 4 that the maxima of the sources allow"),
        (5, {"exclude": [0, 1]}, "budget of 5 rows is more than the 4 that exclude leaves of 6"),
        (4, {"max_per_cluster": 1}, "budget of 4 rows is more than the 3 that max_per_cluster 1 leaves"),
        (
            3,
            {"max_per_cluster": 1, "include": [3, 4]},
            r"include holds 2 rows of one near-duplicate cluster \(rows 3, 4\)",
        ),
        (3, {"max_per_cluster": 1, "limits": {"x": (2, None)}}, "more than the 1 of its 3 rows that max_per_cluster 1"),
        (7, {}, "budget 7 is more than the 6 usable rows"),
        (3, {"limits": {"z": (1, None)}}, "limits name the source 'z', which no row has"),
        (3, {"limits": {"x": (1.5, None)}}, "1.5 is neither a number of rows nor a share"),
        (3, {"include": [6]}, "include: row 6 is not among the 6 rows"),
        (3, {"exclude": [2, 2]}, "exclude: row 2 is listed twice"),
        (3, {"max_per_cluster": 0}, "max_per_cluster 0 must be at least 1"),
    ],
)
@pytest.mark.parametrize("method", ["bids", "random", "equal_quota"])
def test_a_conflict_names_both_sides(method, budget, constraints, message):
    given = {
        **constraints,
        "sources": SOURCES,
        "clusters": CLUSTERS,
        "limits": {name: SourceLimit(*limit) for name, limit in constraints.get("limits", {}).items()},
    }
    with pytest.raises(SelectionError, match=message):
        METHODS[method](SIX, budget, tasks=["a", "b"], constraints=Constraints(**given))


def test_conflicts_of_a_token_budget():
    lengths = [10, 20, 30, 40, 50, 60]
    limited = Constraints(sources=SOURCES, limits={"y": SourceLimit(2)})
    with pytest.raises(SelectionError, match=r"minimum of source 'y', 2 rows,.* take 90 tokens.*budget of 80"):
        bids(SIX, TokenBudget(80, lengths), constraints=limited)
    with pytest.raises(SelectionError, match="the 2 rows of include take 30 tokens, more than the budget of 25"):
        bids(SIX, TokenBudget(25, lengths), constraints=Constraints(include=[0, 1]))
    with pytest.raises(SelectionError, match="minimum of source 'x', 90 tokens, is more than its 3 rows or 60 tokens"):
        bids(SIX, TokenBudget(100, lengths), constraints=Constraints(sources=SOURCES, limits={"x": SourceLimit(0.9)}))
    between = Constraints(sources=SOURCES, limits={"y": SourceLimit(0.45, 0.48)})
    with pytest.raises(SelectionError, match="cannot be reached in whole rows below its maximum"):
        bids(SIX, TokenBudget(100, lengths), constraints=between)


def test_sources_and_clusters_that_only_conflict_together():
    # y may give one row, and the three rows of x are copies
    constraints = Constraints(
        sources=SOURCES, limits={"y": SourceLimit(0, 1)}, clusters=[0, 0, 0, 1, 2, 3], max_per_cluster=1
    )
    with pytest.raises(SelectionError, match="maxima per source and max_per_cluster 1 together end the selection at 2"):
        bids(SIX, 3, constraints=constraints)


def test_minima_that_share_their_copies_conflict():
    constraints = Constraints(
        sources=list("xxyyzz"),
        limits={"x": SourceLimit(1), "y": SourceLimit(1)},
        clusters=[0, 0, 0, 0, 1, 2],
        max_per_cluster=1,
    )
    with pytest.raises(SelectionError, match="minimum of source 'y', 1 rows, conflicts with max_per_cluster 1"):
        bids(SIX, 3, constraints=constraints)


@pytest.mark.parametrize(
    ("constraints", "budget", "message"),
    [
        (Constraints(sources=["x"], limits={"x": SourceLimit(1)}), 2, "sources: 1 values for 6 rows"),
        (Constraints(limits={"x": SourceLimit(1)}), 2, "limits per source need sources="),
        (Constraints(max_per_cluster=1), 2, "max_per_cluster needs clusters="),
        (Constraints(clusters=[1, 2], max_per_cluster=1), 2, "clusters: 2 values for 6 rows"),
        (None, TokenBudget(10, [1, 2]), "token lengths: 2 values for 6 rows"),
        (None, TokenBudget(10, [1, 2, 3, 4, 5, 0]), "whole numbers of at least 1"),
        (None, TokenBudget(10, [1.5] * 6), "whole numbers of at least 1"),
        (None, TokenBudget(-1, [1] * 6), "at least 0"),
    ],
)
def test_labels_of_the_wrong_length(constraints, budget, message):
    with pytest.raises(SelectionError, match=message):
        bids(SIX, budget, constraints=constraints)


@pytest.mark.filterwarnings("ignore::curate.selection.SelectionWarning")
def test_a_row_to_include_that_has_no_finite_scores():
    A = SIX.copy()
    A[4, 0] = np.nan
    with pytest.raises(SelectionError, match="row 4 is in include, but its scores are not finite"):
        bids(A, 3, constraints=Constraints(include=[4]))
    assert bids(A, 3, constraints=Constraints(include=[3], exclude=[4])).order[0] == 3


def test_rows_of_ids():
    ids = ["r0", "r1", "r2"]
    assert rows_of(ids, ["r2", "r0"], "include").tolist() == [0, 2]
    with pytest.raises(
        SelectionError, match=r"include: 1 of 2 ids are not among the 3 scored rows, the first 'r9', did"
    ):
        rows_of(ids, ["r1", "r9"], "include")
    with pytest.raises(SelectionError, match=r"exclude: 1 id\(s\) listed twice, the first 'r1'"):
        rows_of(ids, ["r1", "r1"], "exclude")
    with pytest.raises(SelectionError, match="row id 'r1' occurs more than once"):
        rows_of([*ids, "r1"], ["r0"], "include")
