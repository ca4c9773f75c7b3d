"""Shards on disk against the matrix they are parts of, bit for bit, and files that are no shards."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curate.records import DataError
from curate.selection import METHODS, SelectionWarning
from curate.selection import columns as reading
from curate.selection.normalise import usable
from curate.selection.sharded import ShardedScores
from tests.reference.bids import naive_bids, z_scores

TASKS = ["a", "b", "a", "b", "b"]


@pytest.fixture
def small_panels(monkeypatch):
    """Panels of 16 rows, so that small matrices cross many of them."""
    monkeypatch.setattr(reading, "PANEL_ROWS", 16)
    monkeypatch.setattr("curate.selection.ranking.PANEL_ROWS", 16)


def shards(folder, matrix, cuts):
    paths = []
    for number, part in enumerate(np.split(matrix, sorted(cuts))):
        paths.append(folder / f"{number}.npy")
        np.save(paths[-1], np.ascontiguousarray(part))
    return ShardedScores(paths)


def test_reads_like_an_array(tmp_path):
    A = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)
    sharded = shards(tmp_path, A, [7, 7, 30])
    assert (sharded.shape, sharded.dtype, len(sharded)) == (A.shape, A.dtype, 50)
    mask = np.arange(50) % 3 == 0
    for key in (0, 7, 49, -1, np.int64(6), slice(5, 40), slice(None), slice(9, 3), slice(0, 50, 4), [3, 44, 7], mask):
        np.testing.assert_array_equal(sharded[key], A[key])
    np.testing.assert_array_equal(sharded[[]], A[:0])
    np.testing.assert_array_equal(sharded[:, 3], A[:, 3])
    np.testing.assert_array_equal(sharded[:, [1, 4]], A[:, [1, 4]])
    np.testing.assert_array_equal(sharded[4:9, 2], A[4:9, 2])
    with pytest.raises(IndexError):
        sharded[50]


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_every_method_gives_the_same_bits(small_panels, tmp_path, method, dtype):
    A = (np.random.default_rng(1).standard_t(3, (100, 5)) + 2).astype(dtype)
    A[[20, 70], [1, 4]] = np.nan
    sharded = shards(tmp_path, A, [11, 40, 41])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SelectionWarning)
        expected = METHODS[method](A, 90, tasks=TASKS)
        found = METHODS[method](sharded, 90, tasks=TASKS)
    assert found.order.tolist() == expected.order.tolist()
    assert found.target.tolist() == expected.target.tolist()
    np.testing.assert_array_equal(found.utility, expected.utility)
    assert found.excluded_rows == (20, 70)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.integers(17, 90), st.integers(1, 12), st.booleans())
def test_many_panels_like_the_naive_method(small_panels, seed, rows, depth, ties):
    rng = np.random.default_rng(seed)
    A = rng.integers(-2, 3, (rows, 4)).astype(float) if ties else rng.normal(size=(rows, 4))
    A[0], A[1] = 3.0, 4.0  # no constant column
    order, target, utility = naive_bids(A, rows)
    selection = METHODS["bids"](A, rows, normalize=False, depth=depth)
    assert (selection.order.tolist(), selection.target.tolist()) == (order, target)
    assert selection.utility.tolist() == utility


def test_statistics_of_many_panels(small_panels, tmp_path):
    A = np.random.default_rng(2).normal(size=(333, 7)) * 1e-3 + 1e3
    A[:, 2] = np.repeat([5.0, 6.0], [300, 33])
    one, other = usable(A), usable(shards(tmp_path, A, [100, 101]))
    assert one.mean.tolist() == other.mean.tolist() and one.std.tolist() == other.std.tolist()
    np.testing.assert_allclose(one.mean, A.mean(axis=0), rtol=1e-15)
    np.testing.assert_allclose(one.std, A.std(axis=0, ddof=1), rtol=1e-9)
    for position, values in one.iter_columns():
        assert values.tolist() == one.column(position).tolist() == other.column(position).tolist()
    assert one.row(200).tolist() == other.row(200).tolist()
    np.testing.assert_allclose(np.stack([one.row(i) for i in range(333)]), z_scores(A), rtol=1e-6, atol=1e-9)


def test_exclusions_do_not_depend_on_the_panels(small_panels):
    A = np.random.default_rng(3).normal(size=(100, 6))
    A[:, 1], A[:40, 2], A[:, 4] = np.nan, 7.0, 0.1
    A[[3, 90], 0] = np.inf
    with pytest.warns(SelectionWarning):
        view = usable(A)
    assert view.columns.tolist() == [0, 2, 3, 5]
    assert np.setdiff1d(np.arange(100), view.rows).tolist() == [3, 90]
    np.testing.assert_allclose(view.std, A[np.ix_(view.rows, view.columns)].std(axis=0, ddof=1), rtol=1e-12)


@pytest.mark.parametrize("block", [1, 2, 5])
def test_narrow_blocks_change_nothing(small_panels, block):
    A = np.random.default_rng(4).normal(size=(70, 5)).astype(np.float32)
    wide, narrow = usable(A), usable(A, block)
    assert wide.mean.tolist() == narrow.mean.tolist() and wide.std.tolist() == narrow.std.tolist()
    pieces = {(s, p): v.tolist() for s, p, v in wide.map_pieces(lambda start, position, values: values)}
    assert pieces == {(s, p): v.tolist() for s, p, v in wide.map_pieces(lambda s, p, values: values, block)}
    assert len(pieces) == 5 * 5


def test_files_that_are_no_shards(tmp_path):
    good = tmp_path / "good.npy"
    np.save(good, np.zeros((3, 4), dtype=np.float32))
    with pytest.raises(DataError, match="no score shards"):
        ShardedScores([])
    with pytest.raises(DataError, match=r"no such score shard: .*gone\.npy"):
        ShardedScores([good, tmp_path / "gone.npy"])
    for name, array, message in (
        ("wide", np.zeros((3, 5), np.float32), "wide.npy holds 5 columns of float32, .*good.npy 4 of float32"),
        ("type", np.zeros((3, 4)), "type.npy holds 4 columns of float64"),
        ("flat", np.zeros(4, np.float32), "flat.npy must hold a C-ordered"),
        ("fortran", np.asfortranarray(np.zeros((3, 4), np.float32)), "fortran.npy must hold a C-ordered"),
    ):
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(DataError, match=message):
            ShardedScores([good, tmp_path / f"{name}.npy"])
    (tmp_path / "cut.npy").write_bytes(good.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"cut\.npy is not a complete \.npy file"):
        ShardedScores([tmp_path / "cut.npy"])


def test_a_shard_that_is_cut_while_open(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.ones((100, 4)))
    sharded = ShardedScores([path])
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(DataError, match="became shorter"):
        sharded[90:]
