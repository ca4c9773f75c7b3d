"""curate.figures.spread: distances, Vendi score and effective numbers beside the slow twins."""

import math

import numpy as np
import pytest

from curate.figures.spread import effective_number, mean_distance, vendi_score
from tests.reference import figures as reference


def unit(rows, width, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("shape", [(2, 5), (7, 3), (12, 12), (30, 8)])
def test_both_are_the_twins(shape):
    vectors = unit(*shape)
    # the twins multiply in float32
    assert mean_distance(vectors) == pytest.approx(reference.mean_distance(vectors), abs=1e-6)
    assert vendi_score(vectors) == pytest.approx(reference.vendi_score(vectors), rel=1e-5)


def test_the_ends_of_the_scale():
    same, apart = np.tile(unit(1, 6), (9, 1)), np.eye(6, dtype=np.float32)
    assert (vendi_score(same), mean_distance(same)) == pytest.approx((1, 0), abs=1e-6)
    assert (vendi_score(apart), mean_distance(apart)) == pytest.approx((6, 1))
    assert vendi_score(np.concatenate([apart, apart])) == pytest.approx(6)  # copies add nothing


def test_order_does_not_matter():
    vectors = unit(20, 7)
    turned = vectors[np.random.default_rng(1).permutation(20)]
    assert vendi_score(turned) == pytest.approx(vendi_score(vectors), rel=1e-9)


def test_effective_number():
    assert effective_number("abcd") == pytest.approx(4)
    assert effective_number("aaaa") == pytest.approx(1)
    assert effective_number("aaab") == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))


def test_nothing_has_no_figure():
    empty = np.empty((0, 4), dtype=np.float32)
    assert math.isnan(mean_distance(unit(1, 4))) and math.isnan(vendi_score(empty)) and math.isnan(effective_number([]))
