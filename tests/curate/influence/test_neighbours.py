"""curate.influence.neighbours: the same ranking as the attribution matrix by brute force, from real stores."""

import numpy as np
import pytest

from curate.influence.attribution import SketchCosines, attribution_matrix
from curate.influence.features import FeatureIdentity, FeatureStore
from curate.influence.neighbours import FeatureIndex, FeatureIndexError
from tests.curate.influence.features.builders import identity, keys

N, M, WIDTHS, WEIGHTS = 300, 12, (24, 40), np.array([0.7, 0.3])
IDENTITIES = [identity(width=width, checkpoint=f"c{k}", seed=k) for k, width in enumerate(WIDTHS)]
IDS = [f"row-{i:03d}" for i in range(N)]
# float16 rounds each of a vector's values by at most 2^-11 of itself, so an inner product of unit vectors by 2^-11
TOLERANCE = {"float32": 1e-6, "float16": 2**-11}


def units(rows: int, width: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


FEATURES = [units(N, width, 10 + k) for k, width in enumerate(WIDTHS)]
QUERIES = [units(M, width, 20 + k) for k, width in enumerate(WIDTHS)]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    found = []
    for k, (one, values) in enumerate(zip(IDENTITIES, FEATURES, strict=True)):
        store = FeatureStore(tmp_path_factory.mktemp(f"store-{k}"), one)
        names = keys(*range(N))
        for start in range(0, N, 70):
            part = slice(start, start + 70)
            ones = np.ones(len(names[part]))
            store.write(names[part], values[part], ones, ones, {})
        found.append(store.rows(names))
    return found


@pytest.fixture(scope="module")
def matrix(sources) -> np.ndarray:
    """A with the queries as targets."""
    parts = [SketchCosines(source, query) for source, query in zip(sources, QUERIES, strict=True)]
    names = [f"target-{j}" for j in range(M)]
    return attribution_matrix(parts, WEIGHTS, IDS, names, ["math"] * M).values


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_neighbours_are_the_best_rows_of_the_attribution_matrix(sources, matrix, dtype):
    index = FeatureIndex.build(sources, WEIGHTS, IDS, IDENTITIES, dtype=dtype)
    ids, scores = index.search(QUERIES, 25)
    assert ids.shape == scores.shape == (M, 25) and (np.diff(scores, axis=1) <= 0).all()
    for j in range(M):
        positions = [IDS.index(row) for row in ids[j]]
        assert len(set(positions)) == 25
        np.testing.assert_allclose(scores[j], matrix[positions, j], atol=TOLERANCE[dtype])
        best = np.sort(matrix[:, j])[::-1][:25]
        np.testing.assert_allclose(scores[j], best, atol=TOLERANCE[dtype])


def test_a_row_is_its_own_nearest_neighbour(sources):
    index = FeatureIndex.build(sources, WEIGHTS, IDS, IDENTITIES)
    ids, scores = index.search([values[5:8] for values in FEATURES], 1)
    assert ids.tolist() == [["row-005"], ["row-006"], ["row-007"]]
    np.testing.assert_allclose(scores, 1, atol=2**-11)


def test_equal_rows_come_in_their_order_and_k_stops_at_the_rows():
    twins = [values[[3, 0, 3, 1, 3]] for values in FEATURES]
    index = FeatureIndex.build(twins, WEIGHTS, list("abcde"), IDENTITIES)
    ids, scores = index.search([values[3:4] for values in FEATURES], 99)
    assert ids.shape == (1, 5) and ids[0, :3].tolist() == ["a", "c", "e"]
    assert scores[0, 0] == scores[0, 2]


def test_rows_without_a_feature_are_left_out_by_name(sources):
    hurt = [values.copy() for values in FEATURES]
    hurt[1][17] = np.nan
    index = FeatureIndex.build(hurt, WEIGHTS, IDS, IDENTITIES, dtype="float32")
    assert index.excluded == ["row-017"] and len(index.ids) == N - 1 and "row-017" not in index.ids
    ids, scores = index.search([values[18:19] for values in FEATURES], N)
    assert ids[0, 0] == "row-018" and ids.shape == (1, N - 1) and np.isfinite(scores).all()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_saved_index_answers_the_same(tmp_path, sources, dtype):
    hurt = [FEATURES[0], FEATURES[1].copy()]
    hurt[1][0] = np.nan
    index = FeatureIndex.build(hurt, WEIGHTS, IDS, IDENTITIES, dtype=dtype)
    index.save(tmp_path / "index")
    again = FeatureIndex.load(tmp_path / "index", IDENTITIES)
    for one, other in zip(index.search(QUERIES, 10), again.search(QUERIES, 10), strict=True):
        np.testing.assert_array_equal(one, other)
    assert again.excluded == ["row-000"] and again.identities == IDENTITIES
    np.testing.assert_array_equal(again.weights, WEIGHTS)


def test_index_of_other_features_is_refused(tmp_path, sources):
    FeatureIndex.build(sources, WEIGHTS, IDS, IDENTITIES).save(tmp_path)
    others = [IDENTITIES[0], FeatureIdentity(**(IDENTITIES[1].model_dump() | {"seed": 9, "template": "new"}))]
    with pytest.raises(FeatureIndexError, match=r"at checkpoint 1 .*seed 1 != 9, template 't' != 'new'"):
        FeatureIndex.load(tmp_path, others)
    with pytest.raises(FeatureIndexError, match="indexes 2 checkpoints, asked for are 1"):
        FeatureIndex.load(tmp_path, IDENTITIES[:1])
    (tmp_path / "index.json").unlink()
    with pytest.raises(FeatureIndexError, match="was not finished"):
        FeatureIndex.load(tmp_path, IDENTITIES)


def test_index_and_ids_of_two_builds_are_refused(tmp_path, sources):
    FeatureIndex.build(sources, WEIGHTS, IDS, IDENTITIES).save(tmp_path / "one")
    fewer = [values[:10] for values in FEATURES]
    FeatureIndex.build(fewer, WEIGHTS, IDS[:10], IDENTITIES).save(tmp_path / "other")
    (tmp_path / "other" / "ids.parquet").replace(tmp_path / "one" / "ids.parquet")
    with pytest.raises(FeatureIndexError, match="300 vectors, 10 ids"):
        FeatureIndex.load(tmp_path / "one", IDENTITIES)


COSINES = identity(kind="cosines", seed=None, targets="x", width=24)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((FEATURES, WEIGHTS, IDS, [COSINES, IDENTITIES[1]]), "cosines with fixed targets.* mode sketch"),
        ((FEATURES, WEIGHTS[:1], IDS, IDENTITIES), "2 sources need as many"),
        ((FEATURES, WEIGHTS * 2, IDS, IDENTITIES), "sum 1"),
        ((FEATURES, WEIGHTS, IDS[1:], IDENTITIES), r"checkpoint 0 has features of shape \(300, 24\).*\(299, 24\)"),
        ((FEATURES[::-1], WEIGHTS, IDS, IDENTITIES), "checkpoint 0 has features of shape"),
        (([FEATURES[0] * np.nan, FEATURES[1]], WEIGHTS, IDS, IDENTITIES), "none of the 300 rows"),
    ],
)
def test_features_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(FeatureIndexError, match=message):
        FeatureIndex.build(*arguments)


def test_queries_that_do_not_fit_are_refused(sources):
    index = FeatureIndex.build(sources, WEIGHTS, IDS, IDENTITIES)
    for queries in (QUERIES[:1], QUERIES[::-1], [QUERIES[0], QUERIES[1][:3]]):
        with pytest.raises(FeatureIndexError, match=r"the index needs \(n, d\) with d = \[24, 40\]"):
            index.search(queries, 3)
    hurt = [QUERIES[0].copy(), QUERIES[1]]
    hurt[0][4, 2] = np.inf
    with pytest.raises(FeatureIndexError, match="1 queries are not finite, the first is number 4"):
        index.search(hurt, 3)
    with pytest.raises(FeatureIndexError, match="at least one"):
        index.search(QUERIES, 0)
