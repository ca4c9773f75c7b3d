"""curate.figures.text: n-grams, compression and overlap beside the slow twins."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.figures.text import compression, distinct, overlap
from tests.reference import figures as reference

ROWS = st.lists(st.lists(st.sampled_from("abcde"), max_size=9), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(1, 4), st.integers(1, 30))
def test_distinct_is_the_twins(rows, n, size):
    if not any(len(row) >= n for row in rows):
        assert math.isnan(distinct(rows, n, size))
        return
    assert distinct(rows, n, size) == reference.distinct(rows, n, size)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(1, 4))
def test_overlap_is_the_twins(rows, n):
    if not any(len(row) >= n for row in rows):
        assert math.isnan(overlap(rows, n))
        return
    assert overlap(rows, n) == pytest.approx(reference.overlap(rows, n), rel=1e-12)


def test_no_run_goes_from_one_row_into_the_next():
    assert distinct([["a", "b"], ["a", "b"]], 2, 10) == 0.5
    assert distinct([["a"], ["b"]], 1, 10) == 1


def test_text_that_repeats_itself_is_compressed_more():
    varied = [f"row {i * 7919 % 1000}: {i * 104729 % 99991}" for i in range(400)]
    assert compression(["the same again"] * 400, 4000) > 3 * compression(varied, 4000)


def test_only_so_many_bytes_are_compressed():
    rows = ["é" * 50] * 20
    assert compression(rows, 101) == compression(["é" * 50], 101) < compression(rows, 1000)
