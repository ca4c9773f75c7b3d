"""Tiny models, held-out items and what they overlap, for the tests of the evaluation stage."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from curate.records import MESSAGES_TYPE
from flows.config import validate
from tests.tiny import save_base
from train.models import attach_lora, load_base, load_tokenizer, save_adapter, save_merged
from train.settings import LoraSettings

LEAKED = "Which of the seven hills of Rome was it that the king chose for his own house"


def chat(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def tuned(base, folder, seed):
    """What the finetune stage leaves: an adapter and the merged weights."""
    model = attach_lora(load_base(str(base)), LoraSettings(r=2, alpha=4, targets=["q_proj", "v_proj"]), seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    save_adapter(model, folder / "adapter")
    save_merged(model, load_tokenizer(str(base)), folder / "merged")
    return folder


def make_place(folder: Path) -> Path:
    """A base model, two training runs, items, targets and a dataset in `folder`."""
    base = save_base(folder / "base", seed=0)
    for seed in (1, 2):
        tuned(base, folder / f"run{seed}", seed)
    items = [
        {
            "id": f"{capability}-{k}",
            "capability": capability,
            "prompt": LEAKED if (capability, k) == ("math", 3) else f"What is item {k} of {capability}?",
            "target": f"It is number {k * 7}.",
        }
        for capability in ("math", "code")
        for k in range(12)
    ]
    pq.write_table(pa.Table.from_pylist(items), folder / "items.parquet")
    row = {"messages": chat("Name a hill.", f"{LEAKED}? The Palatine."), "capability": "math"}
    (folder / "targets.jsonl").write_text(
        json.dumps({"id": "t", "messages": chat("Add.", "No."), "capability": "math"})
    )
    (folder / "dataset" / "data").mkdir(parents=True)
    schema = pa.schema([("id", pa.string()), ("messages", MESSAGES_TYPE)])
    rows = pa.Table.from_pylist([{"id": "trained-on", "messages": row["messages"]}], schema=schema)
    pq.write_table(rows, folder / "dataset" / "data" / "train-0.parquet")
    return folder


def small_config(place, store, **evaluation):
    return validate(
        {
            "name": "small",
            "store": str(store),
            "model": str(place / "base"),
            "max_length": 128,
            "data": {
                "pool": [{"path": str(place / "targets.jsonl")}],
                "targets": [{"path": str(place / "targets.jsonl")}],
            },
            "evaluation": {"items": [str(place / "items.parquet")], "resamples": 200, **evaluation},
        }
    )
