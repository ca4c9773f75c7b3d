"""A small pool with everything an export must survive, taken through the real stages from files to a dataset folder.

BM25 scores it, so that no model runs; the tokenizer is the demo's. One pool row is unreadable, one a copy, one answers
beyond the token limit, one is cut there, one holds an address; others call tools, switch systems or open with the
assistant.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from flows.config import RunConfig, load_config
from flows.stages.data import clean, ingest
from flows.stages.encoding import encode
from flows.stages.export import DATASET, export
from flows.stages.selection import select
from flows.stages.similarity import similarity
from flows.store import StageOutput, StageStore

ROOT = Path(__file__).parents[2]
HOSTILE = "web | <b>*x*</b>"
CAPABILITIES = ("math", "code")
CALL = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
ROWS = {
    "tools": [
        ("user", "What time is it?"),
        ("assistant", CALL),
        ("tool", "12:00"),
        ("tool", ""),
        ("assistant", "Noon."),
    ],
    "systems": [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hi"),
        ("system", "Now rhyme."),
        ("assistant", "Fly"),
    ],
    "greeting": [("assistant", "Hello, what can I do?"), ("user", "Sum 2 and 2."), ("assistant", "4")],
    "address": [("user", "My address is anna@example.com, add 2 and 3."), ("assistant", "5")],
    "signs": [("user", "数 \u2028 naïve \u202e <b>|</b>?"), ("assistant", "oui — да — 数")],
    "cut": [("user", "Count."), ("assistant", "one two three " * 300)],
    "answer-too-far": [("user", "word " * 900), ("assistant", "Never seen.")],
}


@dataclass(frozen=True)
class Exported:
    """What the stages left; `folder` is the dataset."""

    config: RunConfig
    store: StageStore
    stages: dict[str, StageOutput]

    @property
    def folder(self) -> Path:
        return self.stages["export"].path / DATASET


def write_sources(folder: Path) -> None:
    """`pool.jsonl`, `more.parquet` (rows of the demo) and `targets.jsonl`."""
    lines = [
        {"id": name, "license": "CC-BY-4.0", "messages": [{"role": role, "content": text} for role, text in turns]}
        for name, turns in ROWS.items()
    ]
    lines.insert(2, {"id": "broken", "messages": [{"role": "user", "content": "Nobody answers."}]})
    lines.append({**lines[0], "id": "copy"})
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "pool.jsonl").write_text(text, encoding="utf-8")
    pq.write_table(pq.read_table(ROOT / "demo/data/pool.parquet").slice(0, 40), folder / "more.parquet")
    targets = pq.read_table(ROOT / "demo/data/targets.parquet").to_pylist()
    chosen = [row for row in targets if row["capability"] in CAPABILITIES]
    (folder / "targets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")


def load(folder: Path, **changes) -> RunConfig:
    """The configuration; changes: dotted keys with `__` for the dot."""
    overrides = {
        "store": str(folder / "store"),
        "model": str(ROOT / "demo/model"),
        "max_length": 256,
        "audit.max_lost_labels": 0.9,
        "data.pool": [
            {
                "path": str(folder / "pool.jsonl"),
                "source": HOSTILE,
                "attribution": "Anna & Co <a@b>",
                "languages": ["en"],
            },
            {"path": str(folder / "more.parquet")},
        ],
        "data.targets": [{"path": str(folder / "targets.jsonl")}],
        "data.max_rejected": 0.5,
        "data.cleaning": {"personal_data": {"kinds": ["email"], "action": "mask"}},
        "selection.methods": ["bm25"],
        "selection.budget": 30,
        "selection.include": [name for name in ROWS if name != "answer-too-far"],
        "selection.max_per_cluster": 5,
        "export.rows_per_shard": 13,
        "evaluation.items": [str(ROOT / "demo/data/eval/math.parquet")],
        "evaluation.tasks": [],
    } | {name.replace("__", "."): value for name, value in changes.items()}
    return load_config(ROOT / "configs/demo.yaml", [f"{key}={json.dumps(value)}" for key, value in overrides.items()])


def run(config: RunConfig, method: str = "bm25") -> Exported:
    """Every stage from ingest to export; one that the store has is not done again."""
    store = StageStore(config.store)
    ingested = ingest(config, store)
    cleaned = clean(config, store, ingested)
    encoded = encode(config, store, ingested, cleaned)
    scored = similarity(config, store, "bm25", ingested, cleaned, encoded)
    selected = select(config, store, method, cleaned, encoded, scored)
    exported = export(config, store, method, ingested, cleaned, encoded, scored, selected)
    stages = (ingested, cleaned, encoded, scored, selected, exported)
    return Exported(config, store, {stage.stage: stage for stage in stages})
