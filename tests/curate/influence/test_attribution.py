"""curate.influence.attribution: the weighted sum by blocks, what is left out, and what is refused."""

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest

from curate.influence import attribution_matrix, write_attribution
from curate.influence.attribution import ROWS_PER_BLOCK, AttributionError, ScaledRows, SketchCosines
from curate.influence.features import FeatureStore
from curate.scores import VALUES, read_scores, read_summary
from tests.curate.influence.features.builders import identity, keys

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


class ReadOnce:
    """A source that hands out each row once and never more than `most` at a time."""

    def __init__(self, values: np.ndarray, most: int) -> None:
        self.values, self.shape, self.most, self.next = values, values.shape, most, 0

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        assert rows.start == self.next and 0 < rows.stop - rows.start <= self.most
        self.next = rows.stop
        return self.values[rows]


# several blocks of ROWS_PER_BLOCK, the last one short
N, M = 2 * ROWS_PER_BLOCK + 100, 5
LONG_ROWS, LONG_COLUMNS, LONG_TASKS = (
    [f"r{i}" for i in range(N)],
    [f"t{j}" for j in range(M)],
    ["a", "a", "b", "b", "b"],
)


def long_parts() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.uniform(-1, 1, (N, M)).astype(np.float32) for _ in range(2)]


@pytest.mark.parametrize("block_rows", [37, ROWS_PER_BLOCK, 10 * N])
def test_blocks_and_the_file_change_no_bit(tmp_path, block_rows):
    cosines = long_parts()
    cosines[0][[0, 5000, N - 1]] = np.nan
    cosines[1][:, 1] = np.inf
    whole = attribution_matrix(cosines, WEIGHTS, LONG_ROWS, LONG_COLUMNS, LONG_TASKS)
    sources = [ReadOnce(part, block_rows) for part in cosines]
    out = tmp_path / "scores.npy"
    blocks = attribution_matrix(
        sources, WEIGHTS, LONG_ROWS, LONG_COLUMNS, LONG_TASKS, out=out, block_rows=block_rows, settings="abc"
    )
    assert isinstance(blocks.values, np.memmap) and [source.next for source in sources] == [N, N]
    for found in (whole.values, blocks.values, np.load(out)):
        np.testing.assert_array_equal(found, whole.values)
    for name in ("mean", "std"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(blocks, name))
    assert (whole.row_ids, whole.column_ids) == (blocks.row_ids, blocks.column_ids)
    assert blocks.settings == "abc" and whole.settings is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.npy"]


def test_unusable_rows_and_columns_are_taken_out_of_a_long_matrix(tmp_path):
    cosines = long_parts()
    bad_rows = [0, 1, ROWS_PER_BLOCK - 1, ROWS_PER_BLOCK, N - 1]
    cosines[1][bad_rows, 2] = np.nan
    cosines[0][:, 3] = np.nan
    matrix = attribution_matrix(
        cosines, WEIGHTS, LONG_ROWS, LONG_COLUMNS, LONG_TASKS, out=tmp_path / "scores.npy", block_rows=999
    )
    rows = np.setdiff1d(np.arange(N), bad_rows)
    columns = [0, 1, 2, 4]
    total = sum(w * part.astype(np.float64) for w, part in zip(WEIGHTS, cosines, strict=True))
    expected = total[np.ix_(rows, columns)].astype(np.float32)
    np.testing.assert_array_equal(matrix.values, expected)
    np.testing.assert_array_equal(np.load(tmp_path / "scores.npy"), expected)
    assert matrix.row_ids == [LONG_ROWS[i] for i in rows] and matrix.column_ids == ["t0", "t1", "t2", "t4"]
    assert matrix.excluded_rows == {LONG_ROWS[i]: "no finite score" for i in bad_rows}
    assert matrix.excluded_columns == {"t3": "no finite score"}
    wide = expected.astype(np.float64)
    np.testing.assert_allclose(matrix.mean, wide.mean(axis=0), rtol=0, atol=1e-15)
    np.testing.assert_allclose(matrix.std, wide.std(axis=0, ddof=1), rtol=1e-13)


def test_statistics_survive_a_large_common_value():
    """A spread of 1e-6 around 0.9: the textbook sum of squares would lose it."""
    spread = np.linspace(-1e-6, 1e-6, N)[:, None]
    values = (0.9 + spread * [1, 2]).astype(np.float32)
    matrix = attribution_matrix([values], np.array([1.0]), LONG_ROWS, COLUMNS, TASKS)
    exact = [[Fraction(float(x)) for x in values[:, j]] for j in range(2)]
    for j, column in enumerate(exact):
        mean = sum(column) / N
        assert matrix.mean[j] == pytest.approx(float(mean), abs=1e-16)
        assert matrix.std[j] == pytest.approx(float(sum((x - mean) ** 2 for x in column) / (N - 1)) ** 0.5, rel=1e-10)


def test_column_without_spread_is_named_and_has_none():
    cosines = [np.hstack([part[:, :1], np.full((N, 1), 0.1, np.float32)]) for part in long_parts()]
    matrix = attribution_matrix(cosines, WEIGHTS, LONG_ROWS, COLUMNS, TASKS)
    assert matrix.constant_columns == ["t1"] and matrix.std[1] == 0 < matrix.std[0]
    assert matrix.column_ids == COLUMNS  # selection drops it


def test_memory_does_not_grow_with_the_pool(tmp_path):
    def peak(rows: int) -> int:
        part = np.lib.format.open_memmap(tmp_path / f"{rows}.npy", mode="w+", dtype=np.float32, shape=(rows, 64))
        part[:] = 0.5
        part[::100] = np.nan
        ids, columns = [str(i) for i in range(rows)], [str(j) for j in range(64)]
        tracemalloc.start()
        try:
            attribution_matrix([part], np.array([1.0]), ids, columns, ["a"] * 64, out=tmp_path / "out.npy")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    short, long = peak(4 * ROWS_PER_BLOCK), peak(16 * ROWS_PER_BLOCK)
    added_rows = 12 * ROWS_PER_BLOCK
    assert long - short < 32 * added_rows  # the list of ids and the mask; a row of the matrix is 256 bytes


def test_refused_scores_leave_no_file(tmp_path):
    cosines = parts()
    cosines[0][:, 1] = np.nan
    with pytest.raises(AttributionError, match="every target of code"):
        attribution_matrix(cosines, WEIGHTS, ROWS, COLUMNS, TASKS, out=tmp_path / "scores.npy")
    with pytest.raises(AttributionError, match="is outside"):
        attribution_matrix([c + 2 for c in parts()], WEIGHTS, ROWS, COLUMNS, TASKS, out=tmp_path / "scores.npy")
    cosines = parts()
    cosines[0][[0, 1], 0] = cosines[0][2, 1] = np.nan
    with pytest.raises(AttributionError, match="no pool row"):
        attribution_matrix(cosines, WEIGHTS, ROWS, COLUMNS, TASKS, out=tmp_path / "scores.npy")
    assert list(tmp_path.iterdir()) == []


def test_written_folder_reads_back_and_the_values_are_written_once(tmp_path):
    matrix = attribution_matrix(parts(), WEIGHTS, ROWS, COLUMNS, TASKS, out=tmp_path / VALUES, settings="abc")
    before = (tmp_path / VALUES).stat().st_mtime_ns
    write_attribution(tmp_path, matrix)
    assert (tmp_path / VALUES).stat().st_mtime_ns == before
    (tmp_path / "copy").mkdir()
    write_attribution(tmp_path / "copy", matrix)
    for folder in (tmp_path, tmp_path / "copy"):
        scores, summary = read_scores(folder), read_summary(folder)
        np.testing.assert_array_equal(scores.values, matrix.values)
        assert (scores.row_ids, scores.column_ids, scores.tasks) == (ROWS, COLUMNS, TASKS)
        assert summary["settings"] == "abc" and summary["constant_columns"] == []


def unit(rows: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((rows, 32)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


# each value of a row is off by 2^-11 of itself, or by half a step of 1 / 127 of its largest; 32 values at random
@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-6), ("float16", 2**-11), ("int8", 0.01)])
def test_matrix_from_stored_features_whatever_the_shards(tmp_path, dtype, atol):
    features, targets = unit(N, 2), unit(M, 3)
    features[7] = np.nan
    targets[4] = np.nan
    names, values = keys(*range(N)), []
    for shard_rows in (1000, N):
        store = FeatureStore(tmp_path / f"{shard_rows}", identity(width=32, dtype=dtype))
        for start in range(0, N, shard_rows):
            part = slice(start, start + shard_rows)
            ones = np.ones(len(names[part]))
            excluded = {names[7]: "gradient has norm 0.0"} if start == 0 else {}
            store.write(names[part], features[part], ones, ones, excluded)
        source = SketchCosines(store.rows(names), targets)
        assert source.shape == (N, M) and source[3:5].dtype == np.float32
        matrix = attribution_matrix([source], np.array([1.0]), LONG_ROWS, LONG_COLUMNS, LONG_TASKS)
        assert list(matrix.excluded_rows) == ["r7"] and list(matrix.excluded_columns) == ["t4"]
        values.append(matrix.values)
    np.testing.assert_array_equal(values[0], values[1])
    exact = np.delete(features.astype(np.float64) @ targets[:4].T.astype(np.float64), 7, axis=0)
    np.testing.assert_allclose(values[0], exact, atol=atol)


def test_row_that_is_the_target_has_cosine_one():
    matrix = attribution_matrix(
        [SketchCosines(unit(3, 0).astype(np.float16), unit(3, 0))], np.array([1.0]), ROWS, ["a", "b", "c"], ["x"] * 3
    )
    np.testing.assert_allclose(np.diag(matrix.values), 1, atol=2**-11)


def test_targets_of_another_sketch_are_refused():
    with pytest.raises(AttributionError, match="width 32 and targets of width 31"):
        SketchCosines(unit(3, 0), unit(2, 1)[:, :31])


def test_rows_times_their_lengths_are_dot_products():
    rng = np.random.default_rng(3)
    gradients, targets = rng.normal(size=(7, 5)), rng.normal(size=(4, 5))
    lengths, unit = np.linalg.norm(gradients, axis=1), targets / np.linalg.norm(targets, axis=1, keepdims=True)
    cosines = ((gradients / lengths[:, None]) @ unit.T).astype(np.float32)
    scaled = ScaledRows(cosines, lengths / lengths.max())
    assert scaled.shape == (7, 4)
    np.testing.assert_allclose(scaled[2:6], (gradients @ unit.T / lengths.max())[2:6], rtol=1e-5, atol=1e-6)
    with pytest.raises(AttributionError, match="6 factors do not fit 7 rows"):
        ScaledRows(cosines, lengths[:6])
