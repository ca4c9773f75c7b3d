"""Near-duplicate clusters against all pairs compared, and what must and must not count as alike."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from curate.cleaning.near_duplicates import near_duplicate_clusters

WORDS = [f"word{i}" for i in range(400)]


def text(seed, length=60):
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def edited(original, changes, seed):
    words, rng = original.split(), random.Random(seed)
    for place in rng.sample(range(len(words)), changes):
        words[place] = f"edit{rng.randrange(1000)}"
    return " ".join(words)


def triples(given):
    words = given.split()
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def all_pairs_labels(texts, threshold):
    sets = [triples(given) for given in texts]
    alike = np.array([[len(a & b) / len(a | b) >= threshold for b in sets] for a in sets])
    return connected_components(alike)[1]


def same_grouping(one, two):
    return (np.equal.outer(one, one) == np.equal.outer(two, two)).all()


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_like_all_pairs_compared(threshold):
    texts = []
    for family in range(30):
        original = text(family)
        # similarities of about 1, 0.9, 0.6 and 0.2, away from both thresholds, where no pair is overlooked
        texts += [
            original,
            edited(original, 1, family),
            edited(original, 4, 100 + family),
            edited(original, 16, family),
        ]
    random.Random(0).shuffle(texts)
    labels = near_duplicate_clusters(texts, threshold)
    assert same_grouping(labels, all_pairs_labels(texts, threshold))
    assert 30 < labels.max() + 1 < len(texts)


def test_labels_are_numbered_by_first_appearance_and_repeat():
    texts = [text(1), text(2), text(1), edited(text(2), 1, 0), text(3)]
    labels = near_duplicate_clusters(texts)
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 1, 0, 1, 2] == near_duplicate_clusters(iter(texts)).tolist()


def test_case_white_space_and_punctuation_do_not_matter():
    one = text(5)
    assert len(set(near_duplicate_clusters([one, one.upper(), one.replace(" ", ",\n")]).tolist())) == 1


def test_scripts_without_spaces_are_compared_by_character():
    one = "机器学习模型需要大量的训练数据才能得到良好的结果因此数据的质量非常重要"
    other = "今天的天气很好我们一起去公园散步然后在湖边喝茶聊天直到太阳下山为止"
    assert near_duplicate_clusters([one, one + "的", other]).tolist() == [0, 0, 1]


def test_short_and_empty_texts_match_only_themselves():
    assert near_duplicate_clusters(["yes", "no", "yes", "", "", "yes sir"]).tolist() == [0, 1, 0, 2, 2, 3]
    assert near_duplicate_clusters([]).tolist() == []


def test_a_chain_is_one_cluster():
    chain = [text(9)]
    for step in range(6):
        chain.append(edited(chain[-1], 1, step))
    assert set(near_duplicate_clusters(chain, 0.8).tolist()) == {0}
    assert len(set(near_duplicate_clusters([chain[0], chain[-1]], 0.8).tolist())) == 2


@pytest.mark.parametrize("threshold", [0, -1, 1.1, float("nan")])
def test_a_threshold_that_is_none(threshold):
    with pytest.raises(ValueError, match="not above 0 and at most 1"):
        near_duplicate_clusters(["a"], threshold)
