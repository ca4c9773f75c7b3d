"""curate.figures.table and .groups: equal samples, intervals, and what a group without a figure gets."""

import math
from dataclasses import replace

import numpy as np
import pytest

from curate.figures import FIGURES, RowFacts, figure_table
from curate.figures.groups import over_draws, over_rows, sample

DRAWS, SEED = 8, 3


def fact(i, vocabulary=500, source="web", **changes):
    rng = np.random.default_rng(i)
    words = tuple(f"w{k}" for k in rng.integers(0, vocabulary, 20))
    vector = rng.normal(size=6)
    values = {
        "id": f"r{i}",
        "source": source,
        "text": " ".join(words),
        "words": words,
        "language": "en",
        "prompt_tokens": 10,
        "answer_tokens": 20 + i % 5,
        "turns": 1,
        "truncated": i % 4 == 0,
        "refuses": False,
        "cut_off": False,
        "loss": 2.0 + i % 3,
        "ifd": 0.5 + 0.1 * (i % 8),
        "vector": (vector / np.linalg.norm(vector)).astype(np.float32),
    }
    return RowFacts(**values | changes)


@pytest.fixture(scope="module")
def groups():
    """A pool of two sources and a tenth of it from one of them, of which nobody named tasks in the pool."""
    pool = [fact(i, source="web" if i % 2 else "books") for i in range(200)]
    return {"pool": pool, "bids": [replace(row, task="math") for row in pool[1:40:2]]}


@pytest.fixture(scope="module")
def table(groups):
    return figure_table(groups, DRAWS, SEED)


def test_means_are_the_means_of_the_rows(table, groups):
    for group, rows in groups.items():
        found = {name: table["figures"][name][group] for name in ("loss", "truncated", "answer_tokens", "ifd_over_1")}
        assert found["loss"][0] == pytest.approx(np.mean([row.loss for row in rows]))
        assert found["truncated"][0] == pytest.approx(np.mean([row.truncated for row in rows]))
        assert found["answer_tokens"][0] == pytest.approx(np.mean([row.answer_tokens for row in rows]))
        assert found["ifd_over_1"][0] == pytest.approx(np.mean([row.ifd >= 1 for row in rows]))
        assert all(low <= value <= high for value, low, high in found.values())


def test_sizes_are_half_of_the_smallest_group(table, groups):
    assert table["sizes"]["rows"] == table["sizes"]["embedded_rows"] == len(groups["bids"]) // 2
    assert table["sizes"]["words"] == 20 * len(groups["bids"]) // 2


def test_a_group_is_not_more_varied_for_being_larger(table, groups):
    """A tenth of the pool drawn at random has the pool's figures, though its own text holds fewer distinct words."""
    for name in ("distinct_1", "distinct_2", "compression", "vendi", "distance"):
        (value, low, high), (other, *_) = (table["figures"][name][group] for group in ("pool", "bids"))
        assert low <= value <= high
        assert value == pytest.approx(other, rel=0.15), name
    assert len({word for row in groups["pool"] for word in row.words}) > 1.5 * len(
        {word for row in groups["bids"] for word in row.words}
    )


def test_what_is_less_varied_shows(groups):
    narrow = {"pool": groups["pool"], "few": [fact(i, vocabulary=30) for i in range(20)]}
    found = figure_table(narrow, DRAWS, SEED)["figures"]
    assert found["distinct_1"]["few"][2] < found["distinct_1"]["pool"][1]
    assert found["compression"]["few"][1] > found["compression"]["pool"][2]


def test_shares_of_sources_and_tasks(table):
    sources, tasks = table["figures"]["sources"], table["figures"]["tasks"]
    assert sources["pool"][0] == pytest.approx(1.9, abs=0.2) and sources["bids"] == [1, 1, 1]
    assert tasks == {"bids": [1, 1, 1]}  # no task won a row of the pool


def test_rows_that_no_model_read_have_no_such_figure(groups):
    unread = {name: [replace(row, loss=None, ifd=None, vector=None) for row in rows] for name, rows in groups.items()}
    found = figure_table(unread, DRAWS, SEED)["figures"]
    assert not any(found[name] for name in ("loss", "ifd", "ifd_over_1", "distance", "vendi"))
    assert found["distinct_1"]


def test_the_same_seed_gives_the_same_table(groups, table):
    assert figure_table(groups, DRAWS, SEED) == table
    assert figure_table(groups, DRAWS, SEED + 1) != table


def test_a_sample_depends_on_ids_alone():
    names = [f"r{i}" for i in range(50)]
    chosen = {names[place] for place in sample(names, 10, 1)}
    turned = names[::-1]
    assert {turned[place] for place in sample(turned, 10, 1)} == chosen != {names[p] for p in sample(names, 10, 2)}
    assert sample(names, 99, 1) == list(range(50))


def test_missing_numbers_are_left_out_of_a_mean():
    assert over_rows(np.array([1.0, math.nan, 3.0, math.inf]), 1)[0] == 2
    assert all(math.isnan(value) for value in over_rows(np.array([math.nan]), 1))


def test_draws_are_without_replacement():
    seen = []
    over_draws(lambda places: seen.append(places.tolist()) or 0.0, 9, 5, 3, 1)
    assert all(len(places) == len(set(places)) == 5 for places in seen) and len({tuple(p) for p in seen}) == 3


def test_every_figure_has_a_name_of_its_own_and_says_what_higher_means():
    assert len({figure.name for figure in FIGURES}) == len(FIGURES)
    assert {figure.aspect for figure in FIGURES} == {"quality", "diversity", "complexity"}
    assert all(figure.higher and figure.title for figure in FIGURES)
