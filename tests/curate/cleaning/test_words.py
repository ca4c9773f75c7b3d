"""Words, runs and likeness looked up in arrays, against loops over the texts themselves."""

from __future__ import annotations

import random
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.cleaning.likeness import LikeIndex
from curate.cleaning.near_duplicates import near_matches, similarity
from curate.cleaning.signatures import bands_of, shingled, signatures
from curate.cleaning.word_runs import RUN_WORDS, WordRuns, word_runs
from curate.cleaning.words import normalise, words_of

WORDS = [f"word{k}" for k in range(60)]


@given(st.text(st.characters(codec="ascii")))
def test_the_short_way_for_ascii_is_the_long_way(text):
    folded = unicodedata.normalize("NFC", text).casefold()
    assert normalise(text) == " ".join(unicodedata.normalize("NFC", folded).split())
    assert words_of(text) == words_of(f"{text} é")[:-1]


def slow_first_runs(known, texts):
    owner = {}
    for place, text in enumerate(known):
        for run in word_runs(text):
            owner.setdefault(run, place)
    return [next(((owner[run], " ".join(run)) for run in word_runs(text) if run in owner), None) for text in texts]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.booleans())
def test_shared_runs_against_a_dictionary_of_all_runs(seed, only):
    rng = random.Random(seed)
    known = [" ".join(rng.choices(WORDS[:3], k=rng.choice([0, 5, 13, 14, 30]))) for _ in range(12)]
    texts = [" ".join(rng.choices(WORDS[:3], k=rng.choice([0, 12, 13, 20, 60]))) for _ in range(12)]
    pieces = known[rng.randrange(12)].split()[:RUN_WORDS]
    texts.append(f"Über {' '.join(pieces).upper()}!")
    found = WordRuns(known, only=texts if only else None).matches(texts)
    assert found == slow_first_runs(known, texts)


def test_the_most_alike_reference_against_all_pairs():
    rng = random.Random(3)
    references = [" ".join(rng.choices(WORDS, k=40)) for _ in range(40)]
    references.append(references[5])  # of two that are equally like it the first is named
    texts = []
    for k in range(40):
        words = references[k].split()
        for place in rng.sample(range(40), k % 5):
            words[place] = "other"
        texts.append(" ".join(words))
    found = near_matches(texts, references, 0.7)
    for text, match in zip(texts, found, strict=True):
        alike = [similarity(text, reference) for reference in references]
        best = int(np.argmax(alike))
        # a pair just above the threshold may be overlooked; none of these is nearer to it than 0.01
        assert abs(max(alike) - 0.7) > 0.01
        assert match == ((best, pytest.approx(alike[best])) if alike[best] >= 0.7 else None)
    assert None in found and sum(match is not None for match in found) > 20


def test_no_texts_and_no_references():
    assert near_matches([], ["a"]) == [] and near_matches(["a"], []) == [None]
    assert LikeIndex([]).matches([]) == [] and WordRuns([]).matches(["a"]) == [None]


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
def test_few_pairs_at_the_threshold_are_overlooked(threshold):
    bands, each = bands_of(threshold)
    assert bands * each <= 128 and (1 - threshold**each) ** bands < 0.04


def test_a_text_has_the_same_signature_in_any_company():
    texts = [" ".join(random.Random(k).choices(WORDS, k=5 + 40 * k)) for k in range(30)]
    together = signatures(shingled(texts), 0.8)
    alone = np.concatenate([signatures(shingled([text]), 0.8) for text in texts])
    assert (together == alone).all()
