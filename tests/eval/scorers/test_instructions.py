"""IFEval's checks: answers that follow and break each kind of instruction, offline and in silence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from eval.errors import EvaluationError
from eval.scorers import SCORERS
from eval.scorers.instructions import follows

ROOT = Path(__file__).parents[3]
INSTRUCTIONS = SCORERS["instructions"]
PARAGRAPHS = "One day it rained.\n\nThen it shone.\n\nIn the end we slept."

# instruction, its arguments, an answer that follows it, one that does not
CASES = [
    ("punctuation:no_comma", {}, "No such mark here", "Yes, here"),
    ("length_constraints:number_words", {"relation": "at least", "num_words": 4}, "one two three four", "one two"),
    (
        "length_constraints:number_sentences",
        {"relation": "less than", "num_sentences": 3},
        "Mr. A left. He ran.",
        "He ran. It rained! So?",
    ),
    (
        "length_constraints:number_sentences",
        {"relation": "at least", "num_sentences": 3},
        "It is 3.5. So? Yes!",
        "E.g. one.",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\ntwo", "one"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "then"},
        PARAGRAPHS,
        PARAGRAPHS.replace("Then", "Now"),
    ),
    ("keywords:existence", {"keywords": ["tree", "river"]}, "a tree by a river", "a tree"),
    ("keywords:frequency", {"keyword": "owl", "frequency": 2, "relation": "at least"}, "owl owl", "owl"),
    ("keywords:forbidden_words", {"forbidden_words": ["owl"]}, "an eagle", "an owl"),
    ("keywords:letter_frequency", {"letter": "z", "let_frequency": 2, "let_relation": "at least"}, "zig zag", "zig"),
    (
        "language:response_language",
        {"language": "de"},
        "Das ist ein ganz einfacher deutscher Satz.",
        "This is plain English.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] of [place]", "[name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\nP.S. Write!", "Bye."),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n* two", "* one"),
    ("detectable_format:constrained_response", {}, "My answer is yes.", "Yes."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*one* and *two*", "*one*"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        "SECTION 1\na\nSECTION 2\nb",
        "SECTION 1\na",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a: 1"),
    ("detectable_format:title", {}, "<<My title>>\ntext", "My title\ntext"),
    ("combination:two_responses", {}, "first\n******\nsecond", "first"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, "Say it. I do.", "I do."),
    ("startend:end_checker", {"end_phrase": "That is all."}, "Well. That is all.", "Well."),
    ("startend:quotation", {}, '"all of it"', "all of it"),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "GO NOW please",
        "GO now",
    ),
    ("change_case:english_capital", {}, "THIS IS PLAIN ENGLISH TEXT IN CAPITALS", "This is plain English text"),
    ("change_case:english_lowercase", {}, "this is plain english text without capitals", "This is plain English text"),
]


def document(*instructions):
    names, arguments = zip(*instructions, strict=True)
    return {"id": "i", "prompt": "Say it.", "checks": json.dumps({"instruction_id_list": names, "kwargs": arguments})}


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), CASES, ids=[case[0] for case in CASES])
def test_each_kind_of_instruction(name, arguments, good, bad):
    doc = document((name, {**arguments, "unused": None}))
    assert follows(doc, good) == ([True], [True])
    assert follows(doc, bad)[0] == [False]


def test_all_kinds_of_the_published_set_are_covered():
    assert len({case[0] for case in CASES}) == 25


def test_the_metrics_are_shares_of_the_items_instructions():
    doc = document(("punctuation:no_comma", {}), ("keywords:existence", {"keywords": ["owl"]}))
    half = {"prompt_strict": 0.0, "prompt_loose": 0.0, "instructions_strict": 0.5, "instructions_loose": 0.5}
    assert INSTRUCTIONS.score(doc, "an owl, here") == half
    assert set(INSTRUCTIONS.score(doc, "an owl").values()) == {1.0}
    assert set(INSTRUCTIONS.score(doc, "").values()) == {0.0}
    assert set(half) == set(INSTRUCTIONS.metrics)


def test_loose_forgives_an_opening_line():
    doc = document(("punctuation:no_comma", {}))
    score = INSTRUCTIONS.score(doc, "Sure, here it is:\nall without that mark")
    assert (score["prompt_strict"], score["prompt_loose"]) == (0.0, 1.0)


def test_the_same_answer_gets_the_same_score_each_time():
    doc = document(("language:response_language", {"language": "en"}))
    assert len({str(INSTRUCTIONS.score(doc, "ok la data")) for _ in range(20)}) == 1


def test_the_committed_items_are_all_understood():
    rows = pq.read_table(ROOT / "demo" / "data" / "tasks" / "ifeval.parquet").to_pylist()
    scores = INSTRUCTIONS.score_all(rows, ["This is a short answer. It follows little."] * len(rows))
    assert 0 < sum(score["instructions_strict"] for score in scores) < len(rows) / 2


def test_items_that_cannot_be_scored_are_named():
    with pytest.raises(EvaluationError, match="item 'i' cannot be scored by instructions: unknown instructions a:b"):
        INSTRUCTIONS.score(document(("a:b", {})), "x")


@pytest.mark.slow
def test_without_the_learned_splitter_nothing_is_downloaded_or_printed(tmp_path):
    """In a process of its own, with an empty folder for nltk's data and every connection refused."""
    program = f"""
import socket
def refuse(*arguments, **named): raise AssertionError("a connection was tried")
socket.socket.connect = refuse
from eval.scorers import SCORERS
doc = {document(("length_constraints:number_sentences", {"relation": "at least", "num_sentences": 2}))!r}
assert SCORERS["instructions"].score(doc, "Dr. No left. He ran.")["prompt_strict"] == 1.0
assert SCORERS["instructions"].score(doc, "Dr. No left at 3 p.m. today.")["prompt_strict"] == 0.0
import nltk, os
assert nltk.word_tokenize.__module__.startswith("nltk.tokenize")
assert "LOCAL_RANK" not in os.environ
"""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "NLTK_DATA": str(tmp_path),
        "HOME": str(tmp_path),
    }
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
