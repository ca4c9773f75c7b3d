"""The similarity stage on a slice of the demo: real cleaning, encoding and model; rows without a score are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from curate.scores import read_scores, read_summary
from curate.selection import METHODS
from curate.selection.inputs import INPUTS, POOLED
from flows.config import load_config
from flows.stages.data import POOL, TARGETS, clean, ingest
from flows.stages.encoding import encode
from flows.stages.similarity import similarity
from flows.store import StageOutput, StageStore
from train.encoding import read_encoded
from train.models import attach_lora, load_base
from train.settings import LoraSettings

ROOT = Path(__file__).parents[2]
WORDLESS = {"id": "wordless", "messages": [{"role": "user", "content": "?!"}, {"role": "assistant", "content": "..."}]}
TOO_LONG = {
    "id": "too-long",
    "messages": [{"role": "user", "content": "again and " * 400}, {"role": "assistant", "content": "Yes."}],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Configuration, store and the three first stages of 42 pool rows and 10 targets."""
    folder = tmp_path_factory.mktemp("similarity")
    pool = [{k: row[k] for k in ("id", "source", "messages")} for row in _demo("pool.parquet")[::80]]
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*pool, WORDLESS, TOO_LONG]))
    targets = [{k: row[k] for k in ("id", "capability", "messages")} for row in _demo("targets.parquet")[::8]]
    (folder / "targets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in targets))
    overrides = {"store": folder / "store", "model": ROOT / "demo" / "model"}
    overrides |= {"data.pool": [{"path": str(folder / "pool.jsonl")}]}
    overrides |= {"data.targets": [{"path": str(folder / "targets.jsonl")}]}
    overrides |= {"evaluation.items": [str(ROOT / "demo" / "data" / "eval" / "math.parquet")]}
    overrides |= {"evaluation.tasks": []}
    config = load_config(ROOT / "configs" / "demo.yaml", [f"{key}={_yaml(v)}" for key, v in overrides.items()])
    store = StageStore(config.store)
    ingested = ingest(config, store)
    cleaned = clean(config, store, ingested)
    return config, store, ingested, cleaned, encode(config, store, ingested, cleaned)


def _demo(name):
    return pq.read_table(ROOT / "demo" / "data" / name).to_pylist()


def _yaml(value):
    return json.dumps(str(value) if isinstance(value, Path) else value)


@pytest.fixture(scope="module")
def warmed(run, tmp_path_factory):
    """Two saved adapters, as a warmup leaves them; the last one is not the last by name."""
    config, folder = run[0], tmp_path_factory.mktemp("warmup")
    for step in (9, 10):
        model = attach_lora(load_base(config.model), LoraSettings(r=2), seed=step)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.fill_(0.05 * (step - 8))
        model.save_pretrained(folder / f"checkpoint-{step}")
    return StageOutput("warmup", "key-of-the-warmup", folder, False, 0.0)


def scored(run, warmed, kind):
    config, store, *inputs = run
    return similarity(config, store, kind, *inputs, warmed if kind == "embeddings" else None)


@pytest.mark.parametrize("kind", ["embeddings", "bm25", "ngrams"])
def test_every_kind_leaves_a_score_folder_that_its_method_selects_from(run, warmed, kind):
    output = scored(run, warmed, kind)
    matrix, encoded = read_scores(output.path), read_encoded(run[-1].path / POOL)
    assert "too-long" not in matrix.row_ids  # without an answer it cannot be trained on
    lost = ["wordless"] if kind == "bm25" else []  # its signs are n-grams and tokens
    assert matrix.row_ids == [row.id for row in encoded if row.id not in lost]
    assert sorted(read_summary(output.path)["excluded_rows"]) == lost
    assert output.rows == {"rows_in": len(encoded), "rows_out": len(matrix.row_ids), "excluded": len(lost)}
    capabilities = {row["id"]: row["capability"] for row in pq.read_table(run[2].path / TARGETS).to_pylist()}
    if kind == "ngrams":
        assert matrix.column_ids == matrix.tasks == [*dict.fromkeys(capabilities.values()), POOLED]
    else:
        assert matrix.tasks == [capabilities[one] for one in matrix.column_ids] and len(matrix.tasks) == 10
    assert np.isfinite(matrix.values).all() and matrix.values.dtype == np.float32
    (method,) = [name for name, read in INPUTS.items() if read == kind]
    assert METHODS[method](matrix.values, 5, tasks=matrix.tasks).order.size == 5
    assert scored(run, warmed, kind).cached


def test_embeddings_come_from_the_last_checkpoint(run, warmed, tmp_path):
    whole = read_scores(scored(run, warmed, "embeddings").path)
    (tmp_path / "checkpoint-10").symlink_to(warmed.path / "checkpoint-10")
    last = read_scores(scored(run, StageOutput("warmup", "other", tmp_path, False, 0.0), "embeddings").path)
    assert np.array_equal(whole.values, last.values)
    assert np.abs(whole.values).max() <= 1 + 1e-6


def test_text_scores_need_no_warmup_and_embeddings_do(run, warmed):
    config, store, *inputs = run
    assert similarity(config, store, "bm25", *inputs, warmed).key == scored(run, warmed, "bm25").key
    with pytest.raises(ValueError, match="pass the warmup stage's output"):
        similarity(config, store, "embeddings", *inputs)
