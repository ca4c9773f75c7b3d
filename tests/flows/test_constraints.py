"""The select stage under constraints, on a small pool with real scores, tokens and near-duplicates on disk."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from curate.cleaning import Removed, write_removed
from curate.records import Example, Message, write_examples
from curate.scores import VALUES, write_labels
from curate.selection import SelectionError
from flows.config import validate
from flows.stages.data import POOL, REMOVED
from flows.stages.selection import SELECTION, select
from flows.store import MANIFEST, StageOutput, StageStore
from train.encoding import Encoded, write_encoded

ROWS = 40
IDS = [f"row-{i}" for i in range(ROWS)]
SOURCES = ["code" if i % 4 == 0 else "talk" for i in range(ROWS)]
LENGTHS = [10 + i for i in range(ROWS)]


@pytest.fixture
def stages(tmp_path):
    """(cleaned, encoded, scored) as the earlier stages leave them; rows 0 to 9 are copies of one text but a word."""
    folders = {name: tmp_path / name for name in ("clean", "encode", "scores")}
    for folder in folders.values():
        folder.mkdir()
    common = " ".join(f"common{i}" for i in range(60))
    texts = [f"{common} word{i}" if i < 10 else " ".join(f"w{i}x{j}" for j in range(30)) for i in range(ROWS)]
    write_examples(
        folders["clean"] / POOL,
        [
            Example(name, source, (Message("user", text), Message("assistant", "yes")), "x", "x", "file:1")
            for name, source, text in zip(IDS, SOURCES, texts, strict=True)
        ],
    )
    write_removed(folders["clean"] / REMOVED, [Removed("gone", "code", "exact_duplicates", "same text", "row-1")])
    write_encoded(
        folders["encode"] / POOL,
        [Encoded(n, s, [1] * k, [1] * k) for n, s, k in zip(IDS, SOURCES, LENGTHS, strict=True)],
    )
    scores = np.random.default_rng(0).normal(size=(ROWS, 4)).astype(np.float32)
    np.save(folders["scores"] / VALUES, scores)
    write_labels(folders["scores"], IDS, list("pqrs"), ["a", "a", "b", "b"], summary={})
    return [StageOutput(name, f"key-{name}", folder, True, 0.0) for name, folder in folders.items()]


@pytest.fixture
def run(tmp_path, stages):
    (tmp_path / "model").mkdir()

    def run(method="bids", **selection):
        config = validate(
            {
                "name": "small",
                "model": str(tmp_path / "model"),
                "data": {
                    "pool": [{"path": str(tmp_path / "clean" / POOL)}],
                    "targets": [{"path": str(tmp_path / "clean" / POOL)}],
                },
                "selection": {"methods": [method], **selection},
                "evaluation": {"items": [str(tmp_path / "clean" / POOL)]},
            }
        )
        output = select(config, StageStore(tmp_path / "store"), method, *stages)
        return output, pq.read_table(output.path / SELECTION)["id"].to_pylist()

    return run


def places(ids):
    return [IDS.index(name) for name in ids]


def test_a_budget_of_tokens_counts_the_encoded_rows(run):
    output, ids = run(budget_tokens=300)
    spent = sum(LENGTHS[place] for place in places(ids))
    assert 300 - max(LENGTHS) < spent <= 300
    assert output.rows == {"rows_in": ROWS, "rows_out": len(ids), "not_selected": ROWS - len(ids)}
    share = sum(LENGTHS[place] for place in places(run(budget_tokens=0.5)[1]))
    assert share <= sum(LENGTHS) / 2 < share + max(LENGTHS)


def test_sources_ids_and_near_duplicates(run, tmp_path):
    listed = tmp_path / "exclude.txt"
    listed.write_text("row-11\nrow-13\ngone\n")
    _, ids = run(
        budget=16,
        sources={"code": {"min": 5, "max": 6}},
        include=["row-39", "row-38"],
        exclude=str(listed),
        max_per_cluster=1,
    )
    assert ids[:2] == ["row-38", "row-39"]
    assert 5 <= sum(SOURCES[place] == "code" for place in places(ids)) <= 6
    assert not {"row-11", "row-13"} & set(ids)
    assert sum(place < 10 for place in places(ids)) <= 1


def test_the_store_knows_every_demand(run, tmp_path):
    keys = {run(**selection)[0].key for selection in ({}, {"include": ["row-1"]}, {"exclude": ["row-1"]})}
    keys |= {run(budget_tokens=300)[0].key, run(sources={"code": {"min": 1}})[0].key}
    keys |= {run(max_per_cluster=1)[0].key, run(max_per_cluster=1, near_duplicate_threshold=0.5)[0].key}
    assert len(keys) == 7
    output, _ = run(include=["row-1"])
    assert output.cached
    assert json.loads((output.path / MANIFEST).read_text())["params"]["include"] == ["row-1"]
    # the clusters are made once per threshold, for all methods
    run("random", max_per_cluster=1)
    assert len(list((tmp_path / "store" / "near_duplicates").glob("[!.]*"))) == 2


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"include": ["row-99"]}, r"selection\.include: no pool row has the id 'row-99', did you mean"),
        ({"exclude": ["other"]}, r"selection\.exclude: no pool row has the id 'other'"),
        ({"include": ["gone"]}, "'gone' cannot be selected, the filter exact_duplicates removed it"),
        ({"budget": 5, "sources": {"code": {"min": 6}}}, "minima of the sources add up to 6 rows.*budget of 5"),
        ({"sources": {"coda": {"min": 1}}}, "source 'coda', which no row has, did you mean 'code'"),
        ({"budget": 32, "max_per_cluster": 1}, "budget of 32 rows is more than the 31 that max_per_cluster 1 leaves"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(run, tmp_path, selection, message):
    with pytest.raises(SelectionError, match=message):
        run(**selection)
    finished = list((tmp_path / "store" / "select").glob(f"*/{MANIFEST}"))
    assert not finished
