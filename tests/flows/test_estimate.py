"""The estimate before a run: rows come from file headers and line counts and are exact, tokens from a sample."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.sources import SourceSpec
from flows.checks import checked
from flows.config import validate
from flows.estimate import Speed, costs, measure, measure_workload
from flows.estimate.workload import UNKNOWN_ITEMS, count_rows
from tests.tiny import make_base, save_base

ROWS = 60


def conversation(number: int) -> dict:
    turns = [("user", f"Say {number} and a few words more."), ("assistant", f"{number} and a few words more.")]
    return {"id": f"row-{number}", "messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("estimate")
    save_base(folder / "model")
    rows = [conversation(number) for number in range(ROWS)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "pool.parquet")
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "pool.jsonl").write_text(lines)
    (folder / "pool.json").write_text(json.dumps(rows))
    (folder / "pool.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "pool.csv").write_text("prompt,completion\n" + "".join(f"say {n},{n}\n" for n in range(ROWS)))
    items = [{"id": f"i{n}", "capability": "c", "prompt": f"say {n}", "target": str(n)} for n in range(7)]
    pq.write_table(pa.Table.from_pylist(items), folder / "items.parquet")
    return folder


def configured(folder, pool="pool.parquet", **changes):
    raw = {
        "name": "small",
        "model": str(folder / "model"),
        "max_length": 64,
        "data": {
            "pool": [{"path": str(folder / pool), **changes.pop("source", {})}],
            "targets": [{"path": str(folder / "pool.parquet"), "capability": "c", "limit": 5}],
        },
        "warmup": {"lora": {"r": 2}},
        "selection": {"methods": ["bids", "random"], "budget": 0.1},
        "evaluation": {"items": [str(folder / "items.parquet")]},
    }
    return validate({**raw, **changes})


@pytest.mark.parametrize(
    ("name", "rows"),
    [("pool.parquet", ROWS), ("pool.jsonl", ROWS), ("pool.csv", ROWS), ("pool.json", None), ("pool.jsonl.gz", None)],
)
def test_rows_are_counted_where_that_is_cheap(folder, name, rows):
    assert count_rows(SourceSpec(path=str(folder / name))) == rows


def test_a_hub_dataset_is_not_counted_and_said_to_be(folder):
    assert count_rows(SourceSpec(path="some-owner/some-dataset")) is None
    config = configured(folder, "pool.json")
    assert measure_workload(config, checked(config)).uncounted == (str(folder / "pool.json"),)


def test_work_is_what_the_stages_will_find(folder):
    config = configured(folder)
    found = checked(config)
    work = measure_workload(config, found)
    assert (work.rows, work.targets, work.items, work.uncounted) == (ROWS, 5, 7, ())
    assert work.tokens == sum(len(row.input_ids) for row in work.sample)  # the sample is the whole pool here
    assert work.selected == pytest.approx(0.1)
    assert work.parameters == sum(p.numel() for p in make_base("llama", vocabulary=len(found.tokenizer)).parameters())


def test_padding_is_what_batches_of_the_sample_add(folder):
    config = configured(folder)
    work = measure_workload(config, checked(config))
    rows = [replace(work.sample[0], input_ids=[1] * length) for length in (10, 30, 20, 20, 5)]
    uneven = replace(work, sample=rows)
    assert uneven.padding(1) == 1.0
    assert uneven.padding(2) == pytest.approx((2 * 30 + 2 * 20 + 5) / 85)
    assert replace(work, sample=[]).padding(8) == 1.0


def test_a_limit_bounds_rows_and_tokens(folder):
    whole, part = (
        measure_workload(config, checked(config))
        for config in (configured(folder), configured(folder, source={"limit": 10}))
    )
    assert part.rows == 10
    assert part.tokens == pytest.approx(whole.tokens / 6, rel=0.1)


def test_a_task_of_unknown_size_is_taken_to_have_a_thousand_items(folder):
    items, task = configured(folder), configured(folder, evaluation={"tasks": ["gsm8k"], "limit": None})
    assert measure_workload(items, checked(items)).task_tokens == 0
    assert measure_workload(task, checked(task)).task_tokens >= UNKNOWN_ITEMS * 32


def test_costs_grow_with_what_causes_them(folder):
    config = configured(folder)
    work, speed = measure_workload(config, checked(config)), Speed(1e-2, True, "the CPU")
    seconds = {cost.stage: cost.seconds for cost in costs(config, work, speed, 2, 32)}
    more = configured(folder, finetune={"seeds": [1, 2, 3]}, warmup={"checkpoints": 8, "lora": {"r": 2}})
    costlier = {cost.stage: cost.seconds for cost in costs(more, work, speed, 2, 32)}
    assert costlier["finetune"] == pytest.approx(3 * seconds["finetune"])
    assert seconds["gradients"] < costlier["gradients"] < 2 * seconds["gradients"]  # its start is paid once
    assert costlier["ingest"] == seconds["ingest"]
    slower = {cost.stage: cost.seconds for cost in costs(config, work, Speed(1e-1, True, "the CPU"), 2, 32)}
    for stage in ("warmup", "gradients", "finetune", "evaluate"):
        assert slower[stage] > seconds[stage]


def test_a_coreset_costs_its_share_and_its_selection_pass(folder):
    config = configured(folder)
    work = measure_workload(config, checked(config))

    def finetune(coreset):
        tuned = configured(folder, finetune={"coreset": coreset, "optimizer": {"batch_size": 8}})
        (cost,) = (c for c in costs(tuned, work, Speed(1.0, True, "the CPU"), 2, 32) if c.stage == "finetune")
        return cost

    whole, random = finetune(None), finetune({"ratio": 0.5, "feature": "random"})
    assert 0.4 < random.seconds / whole.seconds < 0.6
    last_layer, several = finetune({"ratio": 0.5}), finetune({"ratio": 0.5, "feature": "spsa", "directions": 4})
    assert random.seconds < last_layer.seconds < several.seconds
    assert random.memory < whole.memory


def test_the_speed_is_that_of_the_model_itself(folder):
    config = configured(folder)
    work = measure_workload(config, checked(config))
    tried, guessed = measure(config, work.parameters, work.sample), measure(config, 10**12, work.sample)
    assert tried.tried and not guessed.tried
    assert guessed.seconds_per_token > tried.seconds_per_token > 0
