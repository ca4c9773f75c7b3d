"""curate.similarity.bm25: the formula word by word, and what has no score."""

from pathlib import Path

import numpy as np
import pytest

from curate.records import Example, Message
from curate.similarity import conversation_text
from curate.similarity.bm25 import bm25_scores
from tests.reference import similarity as reference

DEMO = Path(__file__).parents[3] / "demo" / "data"


@pytest.fixture(scope="module")
def demo():
    """The texts of 60 pool rows and 6 targets of the demo."""
    import pyarrow.parquet as pq

    def texts(name, count, stride):
        rows = pq.read_table(DEMO / name).to_pylist()[::stride][:count]
        made = [tuple(Message(**turn) for turn in row["messages"]) for row in rows]
        return [conversation_text(Example("", "", messages, "", "", "")) for messages in made]

    return texts("pool.parquet", 60, 50), texts("targets.parquet", 6, 13)


@pytest.mark.parametrize("options", [{}, {"k1": 0.9, "b": 0.4}], ids=["default", "other k1 and b"])
def test_equals_the_formula(demo, options):
    scores = bm25_scores(*demo, **options)
    assert scores.shape == (60, 6) and scores.dtype == np.float32
    # float32 sums of up to some hundred words
    np.testing.assert_allclose(scores, reference.bm25(*demo, **options), rtol=2e-5, atol=1e-5)


def test_the_best_row_of_a_text_is_the_text_itself_and_order_does_not_matter(demo):
    pool, _ = demo
    scores = bm25_scores(pool, pool[:5])
    assert scores.argmax(axis=0).tolist() == [0, 1, 2, 3, 4]
    order = np.random.default_rng(0).permutation(len(pool))
    assert np.array_equal(bm25_scores([pool[i] for i in order], pool[:5]), scores[order])


def test_a_row_without_words_and_a_target_of_unknown_words_have_no_score():
    scores = bm25_scores(["a cat", "?!", "a dog"], ["the cat", "unheard words", "..."])
    assert np.isnan(scores).tolist() == [[False, True, True], [True, True, True], [False, True, True]]
    assert scores[0, 0] > 0 and scores[2, 0] == 0
    assert np.isnan(bm25_scores(["?!"], ["cat"])).all()
