"""curate.influence.attribution: the weighted sum, what is left out, and what is refused."""

import numpy as np
import pytest

from curate.influence import attribution_matrix
from curate.influence.attribution import AttributionError

ROWS, COLUMNS, TASKS = ["r0", "r1", "r2"], ["t0", "t1"], ["math", "code"]
WEIGHTS = np.array([0.75, 0.25])


def parts() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.uniform(-1, 1, (3, 2)).astype(np.float32) for _ in range(2)]


def test_weighted_sum_in_float64_and_statistics_of_the_stored_values():
    cosines = parts()
    matrix = attribution_matrix(cosines, WEIGHTS, ROWS, COLUMNS, TASKS)
    expected = [[0.75 * float(cosines[0][i, j]) + 0.25 * float(cosines[1][i, j]) for j in range(2)] for i in range(3)]
    assert matrix.values.dtype == np.float32
    np.testing.assert_array_equal(matrix.values, np.array(expected).astype(np.float32))
    np.testing.assert_allclose(matrix.mean, matrix.values.astype(float).sum(axis=0) / 3, rtol=1e-12)
    spread = ((matrix.values - matrix.mean) ** 2).sum(axis=0) / 2
    np.testing.assert_allclose(matrix.std, np.sqrt(spread), rtol=1e-12)
    assert (matrix.row_ids, matrix.column_ids, matrix.tasks) == (ROWS, COLUMNS, TASKS)
    assert not matrix.excluded_rows and not matrix.excluded_columns


def test_row_order_does_not_matter():
    cosines, order = parts(), [2, 0, 1]
    first = attribution_matrix(cosines, WEIGHTS, ROWS, COLUMNS, TASKS)
    second = attribution_matrix([c[order] for c in cosines], WEIGHTS, [ROWS[i] for i in order], COLUMNS, TASKS)
    np.testing.assert_array_equal(first.values[order], second.values)


def test_rows_and_columns_without_a_score_are_named():
    cosines = [np.hstack([part, part[:, :1]]) for part in parts()]
    cosines[1][1, :] = np.nan
    cosines[0][:, 2] = np.nan
    matrix = attribution_matrix(cosines, WEIGHTS, ROWS, ["t0", "t1", "t2"], ["math", "code", "code"])
    assert matrix.values.shape == (2, 2) and np.isfinite(matrix.values).all()
    assert matrix.row_ids == ["r0", "r2"] and matrix.column_ids == ["t0", "t1"] and matrix.tasks == TASKS
    assert list(matrix.excluded_rows) == ["r1"] and list(matrix.excluded_columns) == ["t2"]


def test_task_without_a_usable_target_is_an_error():
    cosines = parts()
    cosines[0][:, 1] = np.nan
    with pytest.raises(AttributionError, match="every target of code"):
        attribution_matrix(cosines, WEIGHTS, ROWS, COLUMNS, TASKS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, w: ([c[0][:2], c[1]], w), r"checkpoint 0 has scores of shape \(2, 2\)"),
        (lambda c, w: (c, np.array([1.0])), "2 checkpoints need as many weights"),
        (lambda c, w: (c, np.array([0.75, 0.75])), "sum 1"),
        (lambda c, w: ([c[0] * 0 + 1.5, c[1] * 0 + 1.5], w), r"1\.5000 is outside"),
    ],
)
def test_scores_that_do_not_fit_are_refused(change, message):
    cosines, weights = change(parts(), WEIGHTS)
    with pytest.raises(AttributionError, match=message):
        attribution_matrix(cosines, weights, ROWS, COLUMNS, TASKS)


def test_one_row_one_column_one_checkpoint():
    matrix = attribution_matrix([np.array([[0.5]], np.float32)], np.array([1.0]), ["r"], ["t"], ["math"])
    assert matrix.values.tolist() == [[0.5]] and matrix.std.tolist() == [0.0]
