"""The embedded data keeps its promises: lopsided, small, and with pool, targets and evaluation apart."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pyarrow.parquet as pq
import pytest

DEMO = Path(__file__).parents[2] / "demo"
DATA = DEMO / "data"
RUN_OF_WORDS = 13


def read(*paths):
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


@pytest.fixture(scope="module")
def pool():
    return read(DATA / "pool.parquet")


@pytest.fixture(scope="module")
def targets():
    return read(DATA / "targets.parquet")


@pytest.fixture(scope="module")
def items():
    return read(*sorted((DATA / "eval").glob("*.parquet")))


def prompt(row):
    text = row["prompt"] if "prompt" in row else row["messages"][0]["content"]
    return re.findall(r"\w+", text.lower())


def runs(rows):
    return {
        tuple(words[start : start + RUN_OF_WORDS])
        for words in map(prompt, rows)
        for start in range(len(words) - RUN_OF_WORDS + 1)
    }


@pytest.mark.parametrize(
    "keys",
    [lambda rows: {row["id"] for row in rows}, lambda rows: {" ".join(prompt(row)) for row in rows}, runs],
    ids=["id", "prompt", "run of words"],
)
def test_what_trains_steers_and_scores_is_disjoint(pool, targets, items, keys):
    for one, other in combinations([pool, targets, items], 2):
        assert keys(one)
        assert keys(one) & keys(other) == set()


def test_ids_are_unique(pool, targets, items):
    for part in (pool, targets, items):
        assert len({row["id"] for row in part}) == len(part)


def test_the_pool_is_lopsided_and_diverse(pool):
    sources = Counter(row["source"] for row in pool)
    assert max(sources.values()) > len(pool) / 2
    assert len(sources) >= 8


def test_every_row_has_its_licence(pool, targets, items):
    assert all(row["license"] and row["source"] for part in (pool, targets, items) for row in part)


def test_a_few_targets_for_each_capability_that_is_scored(targets, items):
    counts = Counter(row["capability"] for row in targets)
    assert len(counts) >= 5
    assert all(10 <= count <= 20 for count in counts.values()), counts
    assert set(counts) == {row["capability"] for row in items}


def test_the_answer_of_an_item_is_among_its_choices_once(items):
    for row in items:
        assert row["choices"][row["answer_index"]] == row["target"]
        assert len(set(row["choices"])) == len(row["choices"]) >= 4, row["id"]


def test_answers_are_not_told_by_their_position(items):
    for capability in {row["capability"] for row in items}:
        places = Counter(row["answer_index"] for row in items if row["capability"] == capability)
        assert max(places.values()) < 0.5 * sum(places.values()), capability


def test_the_data_is_small_enough_to_embed():
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < 6 * 2**20


def test_no_pool_row_was_in_the_model_s_pretraining(pool):
    spec = importlib.util.spec_from_file_location("build_data", DEMO / "build_data.py")
    build_data = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build_data)
    seen = [build_data.in_pretraining_slice(row["id"]) for row in pool]
    assert not any(seen)
    # the slice is about half of all ids, so the check above could have failed
    assert 400 < sum(build_data.in_pretraining_slice(f"row-{number}") for number in range(1000)) < 600
