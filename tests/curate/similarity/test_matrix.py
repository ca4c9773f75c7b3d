"""curate.similarity.matrix: what has no score is left out by name, and the rest is a score folder."""

import numpy as np
import pytest

from curate.scores import read_scores, read_summary
from curate.similarity import SimilarityError, similarity_matrix, write_similarity

IDS, COLUMNS, TASKS = ["a", "b", "c"], ["t1", "t2", "t3"], ["x", "x", "y"]
VALUES = np.array([[1, np.nan, 2], [np.nan, np.nan, 3], [4, np.nan, 5]], dtype=np.float32)


def test_the_folder_holds_what_has_a_score_and_names_the_rest(tmp_path):
    matrix = similarity_matrix("bm25", VALUES, IDS, COLUMNS, TASKS)
    assert matrix.excluded_rows == {"b": "no word in the user's and assistant's turns"}
    assert matrix.excluded_columns == {"t2": "none of its words occurs in the pool"}
    write_similarity(tmp_path, matrix, {"k1": 1.5})
    found = read_scores(tmp_path)
    assert (found.row_ids, found.column_ids, found.tasks) == (["a", "c"], ["t1", "t3"], ["x", "y"])
    assert found.values.tolist() == [[1, 2], [4, 5]] and found.values.dtype == np.float32
    summary = read_summary(tmp_path)
    assert summary["kind"] == "bm25" and summary["parameters"] == {"k1": 1.5}
    assert set(summary["excluded_rows"]) == {"b"} and set(summary["excluded_columns"]) == {"t2"}


def test_a_whole_matrix_is_not_copied():
    values = np.ones((3, 3), dtype=np.float32)
    assert similarity_matrix("ngrams", values, IDS, COLUMNS, TASKS).values is values


def test_a_task_without_any_usable_target_is_an_error():
    values = np.ones((3, 3), dtype=np.float32)
    values[:, 2] = np.nan
    with pytest.raises(SimilarityError, match=r"no target of y can be used.*Replace them or remove"):
        similarity_matrix("embeddings", values, IDS, COLUMNS, TASKS)


def test_no_usable_row_is_an_error():
    with pytest.raises(SimilarityError, match="no pool row can be scored"):
        similarity_matrix("bm25", np.full((3, 3), np.nan, np.float32), IDS, COLUMNS, TASKS)


def test_labels_of_the_wrong_length():
    with pytest.raises(SimilarityError, match=r"shape \(3, 3\) for 3 rows, 2 columns"):
        similarity_matrix("bm25", VALUES, IDS, COLUMNS[:2], TASKS[:2])
