"""train.mixture.clusters and train.hidden_states: domains for rows that name none, from the base model's states."""

import numpy as np
import pytest

from tests.tiny import PAD, make_base, make_rows
from train.hidden_states import unit_vectors
from train.mixture import MixtureError, cluster_domains


def blobs(*sizes: int) -> np.ndarray:
    """(N, K) float32: well separated blobs of these sizes, one after another."""
    centres = np.eye(len(sizes))[np.repeat(np.arange(len(sizes)), sizes)]
    return (centres + np.random.default_rng(0).normal(scale=0.05, size=centres.shape)).astype(np.float32)


def test_blobs_are_found_and_named_by_size_with_any_seed():
    vectors = blobs(60, 100, 40)
    for seed in range(5):
        labels = cluster_domains(vectors, 3, seed)
        assert labels == ["cluster-01"] * 60 + ["cluster-00"] * 100 + ["cluster-02"] * 40
        assert cluster_domains(vectors, 3, seed) == labels


def test_equal_sizes_are_named_by_their_first_row():
    labels = cluster_domains(blobs(50, 50, 50), 3, seed=5)
    assert labels == ["cluster-00"] * 50 + ["cluster-01"] * 50 + ["cluster-02"] * 50


@pytest.mark.parametrize("threads", [1, 3])
def test_vectors_without_blobs_repeat_too_whatever_the_threads(threads):
    import faiss

    vectors = np.random.default_rng(1).normal(size=(600, 16)).astype(np.float32)
    labels, before = cluster_domains(vectors, 8, seed=3), faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        assert cluster_domains(vectors, 8, seed=3) == labels
    finally:
        faiss.omp_set_num_threads(before)


@pytest.mark.parametrize(("rows", "clusters"), [(1, 1), (77, 1), (78, 2), (200, 5), (400, 8)])
def test_a_cluster_needs_39_rows(rows, clusters):
    vectors = np.random.default_rng(2).normal(size=(rows, 4)).astype(np.float32)
    assert len(set(cluster_domains(vectors, 8, seed=0))) == clusters


def test_fewer_clusters_where_there_are_fewer_different_vectors():
    vectors = np.eye(3, dtype=np.float32)[np.arange(400) % 3]
    labels = cluster_domains(vectors, 8, seed=0)
    assert labels[:3] == ["cluster-00", "cluster-01", "cluster-02"]  # 134, 133 and 133 rows
    assert labels == [labels[row % 3] for row in range(400)]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_refused(value):
    vectors = blobs(60, 60)
    vectors[7, 1] = value
    with pytest.raises(MixtureError, match=r"rows \[7\] have no finite vector.*remove them"):
        cluster_domains(vectors, 2, seed=0)


@pytest.mark.parametrize(
    ("shape", "count", "message"),
    [((0, 4), 2, r"shape \(0, 4\)"), ((40,), 2, r"shape \(40,\)"), ((40, 4), 0, "clusters is 0")],
)
def test_nothing_to_cluster_is_refused(shape, count, message):
    with pytest.raises(MixtureError, match=message):
        cluster_domains(np.ones(shape, dtype=np.float32), count, seed=0)


def test_vectors_are_means_over_a_rows_own_tokens():
    model, rows = make_base(), make_rows(6)
    together = unit_vectors(model, rows, PAD, pooling="mean")
    alone = np.concatenate([unit_vectors(model, [row], PAD, pooling="mean") for row in rows])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def test_a_row_without_a_finite_vector_is_found_by_the_clusters():
    model, rows = make_base(), make_rows(6)
    embedding = model.get_input_embeddings().weight
    embedding.data[rows[2].input_ids[0]] = float("nan")
    with pytest.raises(MixtureError, match="no finite vector"):
        cluster_domains(unit_vectors(model, rows, PAD, pooling="mean"), 2, seed=0)
