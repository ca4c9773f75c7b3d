"""`equipoise trace` on a slice of the demo, stages and all: the row itself matters most for a copy of it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.config import ConfigError, load_config
from flows.trace import trace

ROOT = Path(__file__).parents[2]


def demo(name):
    return pq.read_table(ROOT / "demo" / "data" / name).to_pylist()


def write(path, rows, *fields):
    path.write_text("".join(json.dumps({name: row[name] for name in fields}) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trace")
    pool = write(folder / "pool.jsonl", demo("pool.parquet")[::80], "id", "source", "messages")
    targets = write(folder / "targets.jsonl", demo("targets.parquet")[::16], "id", "capability", "messages")
    overrides = {
        "store": str(folder / "store"),
        "model": str(ROOT / "demo" / "model"),
        "data.pool": [{"path": pool}],
        "data.targets": [{"path": targets}],
        "evaluation.items": [str(ROOT / "demo" / "data" / "eval" / "math.parquet")],
        "evaluation.tasks": [],
        "warmup.fraction": 0.5,
        "warmup.checkpoints": 2,
        "warmup.optimizer.epochs": 2,
        # plain gradients on both sides, so that a row is its own nearest
        "influence": {"mode": "sketch", "preconditioner": "sgd", "dimension": 2048, "shard_rows": 16},
    }
    return load_config(
        ROOT / "configs" / "demo.yaml", [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    )


@pytest.mark.slow
def test_a_copy_of_a_row_finds_the_row_first_and_then_needs_no_gradients(config, tmp_path):
    asked = demo("pool.parquet")[::80][3:5]
    questions = write(
        tmp_path / "questions.jsonl", [row | {"id": f"copy-{row['id']}"} for row in asked], "id", "messages"
    )
    found = trace(config, Path(questions), 3)
    assert [(each.example, each.rank) for each in found] == [
        (f"copy-{row['id']}", rank) for row in asked for rank in (1, 2, 3)
    ]
    first = [each for each in found if each.rank == 1]
    assert [each.row for each in first] == [row["id"] for row in asked]
    # float16 features and index: 2^-11 each
    assert [each.score for each in first] == pytest.approx([1.0, 1.0], abs=3e-3)
    assert all(abs(each.score) <= 1 + 1e-3 for each in found)
    assert [each.text for each in first] == [row["messages"][-1]["content"] for row in asked]

    shards = sorted(p.name for p in (Path(config.store) / "features").rglob("values.npy"))
    assert trace(config, Path(questions), 3) == found
    assert sorted(p.name for p in (Path(config.store) / "features").rglob("values.npy")) == shards


def test_exact_mode_keeps_nothing_to_ask(config, tmp_path):
    exact = config.model_copy(update={"influence": config.influence.model_copy(update={"mode": "exact"})})
    with pytest.raises(ConfigError, match=r"influence\.mode=sketch"):
        trace(exact, tmp_path / "questions.jsonl", 3)


def test_an_example_without_an_answer_is_named(config, tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({"id": "q", "messages": [{"role": "user", "content": "Why?"}]}) + "\n")
    with pytest.raises(ValueError, match=r"questions\.jsonl"):
        trace(config, path, 3)
