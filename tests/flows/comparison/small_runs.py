"""Finished runs of a small pool, for the tests of the comparison: data, selection and records by the real stages.

Only what would need a model is invented: tokens, influence, step logs and item values, each written by the real writers
or in the real schema.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.scores import VALUES, write_labels
from flows.config import validate
from flows.runs import find_run, write_run
from flows.stages.data import POOL, clean, ingest
from flows.stages.evaluation import ITEM_SCHEMA, ITEMS
from flows.stages.figures import FIGURES_FILE
from flows.stages.selection import select
from flows.store import StageStore
from tests.flows.step_records import step_records
from train.encoding import Encoded, write_encoded
from train.settings import MIXTURE_LOG

TASKS = ("math", "code")
ROWS, ITEMS_EACH = 60, 12


def conversation(k, **more):
    turns = [{"role": "user", "content": f"Say number {k}, please"}, {"role": "assistant", "content": f"It is {k}."}]
    return {"id": f"row-{k}", "messages": turns, **more}


def write_data(folder: Path, rows=ROWS, sources=("forum", "maths & more")):
    """Pool, targets and held-out items as files; returns the data and evaluation part of a configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    pool = [conversation(k, source=sources[k % len(sources)]) for k in range(rows)]
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pool))
    targets = [conversation(1000 + k, capability=task) for k, task in enumerate(TASKS * 2)]
    (folder / "targets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in targets))
    items = [{"id": f"q{k}", "capability": TASKS[k % 2], "prompt": f"ask {k}", "target": "so"} for k in range(4)]
    pq.write_table(pa.Table.from_pylist(items), folder / "items.parquet")
    return {
        "data": {
            "pool": [{"path": str(folder / "pool.jsonl")}],
            "targets": [{"path": str(folder / "targets.jsonl")}],
        },
        "evaluation": {"items": [str(folder / "items.parquet")], "resamples": 200},
    }


def item_values(config, gain=0.0, metric="bits_per_byte", task="held_out", count=ITEMS_EACH, capabilities=TASKS):
    """Values of every model and seed: base has noise of its own, the first arm is better by `gain` on every item."""
    noise = np.random.default_rng(5).normal(size=(len(capabilities), count))
    seeds = len(config.training_seeds())
    models = [("base", 0), *((name, run) for name in config.selection.methods for run in range(seeds))]
    shift = {"base": 0.0} | {name: 0.01 * k - gain * (k == 0) for k, name in enumerate(config.selection.methods)}
    return [
        {
            "model": model,
            "run": run,
            "task": task,
            "capability": capability,
            "id": f"{capability}-{i}",
            "metric": metric,
            "value": 1.0 + 0.1 * noise[c, i] + shift[model] + 0.001 * run,
            "excluded": False,
        }
        for model, run in models
        for c, capability in enumerate(capabilities)
        for i in range(count)
    ]


def finish(store: Path, data, *, influence=0, items=None, tasks=TASKS, source="forum", **changes):
    """Run what can be run of a pipeline and record it; returns the run. influence: seed of the invented scores."""
    methods = changes.pop("methods", ["bids", "random"])
    config = validate(
        {
            "name": "small",
            "model": str(data.get("model", store.parent)),
            "store": str(store),
            "selection": {"methods": methods, "budget": 12, **changes.pop("selection", {})},
            **{k: v for k, v in data.items() if k != "model"},
            **changes,
        }
    )
    stages, keep = {}, StageStore(store)

    def made(name, build, **params):
        params = {"params": params, "inputs": {}, "code": ["flows/store"], **params.pop("more", {})}
        stages[name] = keep.run(name.partition("-")[0], build, **params)

    stages["ingest"] = ingest(config, keep)
    stages["clean"] = clean(config, keep, stages["ingest"])
    ids = pq.read_table(stages["clean"].path / POOL, columns=["id", "source"]).to_pydict()
    encoded = [
        Encoded(row, source, [1] * (4 + k % 3), [-100, 1, 1, 1])
        for k, (row, source) in enumerate(zip(ids["id"], ids["source"], strict=True))
    ]
    made("encode", lambda folder: write_encoded(folder / POOL, encoded), pool=stages["clean"].key)
    scores = np.random.default_rng(influence).normal(size=(len(encoded), 2 * len(tasks))).astype(np.float32)

    def attribution(folder):
        np.save(folder / VALUES, scores)
        columns = [f"t{k}" for k in range(scores.shape[1])]
        write_labels(folder, ids["id"], columns, list(tasks) * 2, summary={})

    made("attribution", attribution, seed=influence, pool=stages["clean"].key, tasks=tasks)
    for method in methods:
        scored = stages["attribution"]
        stages[f"select-{method}"] = select(config, keep, method, stages["clean"], stages["encode"], scored)
    groups = {"pool": len(ids["id"]), **dict.fromkeys(methods, config.selection.budget)}
    table = {
        "sizes": {"rows": config.selection.budget // 2},
        "draws": 20,
        "rows": {group: {"all": n, "counted": n, "read": 0} for group, n in groups.items()},
        "figures": {"refusals": {group: [0.125, 0.0, 0.25] for group in groups}, "sources": {"pool": [2.0, 2.0, 2.0]}},
    }
    made("figures", lambda folder: (folder / FIGURES_FILE).write_text(json.dumps(table)) and None, groups=groups)
    for number, seed in enumerate(config.training_seeds()):
        for method in methods:
            lines = "".join(json.dumps(line) + "\n" for line in step_records(10, source))
            name = f"finetune-{method}-seed{seed}" if number else f"finetune-{method}"
            arm = {"arm": method, "seed": seed, "settings": config.finetune.model_dump(mode="json")}
            made(name, lambda folder, lines=lines: (folder / MIXTURE_LOG).write_text(lines) and None, **arm)
    rows = item_values(config) if items is None else items(config)

    def evaluated(folder):
        pq.write_table(pa.Table.from_pylist(rows, schema=ITEM_SCHEMA), folder / ITEMS)

    inputs = {"items-0": "items-key", "model-base-0": "base-key"}
    made("evaluate", evaluated, rows=rows, more={"inputs": inputs})
    return find_run(str(write_run(config, stages)), store)
