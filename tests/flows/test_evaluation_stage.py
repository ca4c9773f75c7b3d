"""The evaluation stage on tiny models and held-out items: seeds, leaked items, what is kept when it is killed."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.records import MESSAGES_TYPE
from eval.leakage import read_leaks
from flows.config import ConfigError, validate
from flows.stages import evaluation
from flows.stages.evaluation import HELD_OUT, ITEMS, LEAKS, evaluate, evaluated_models, read_results
from flows.store import StageStore
from tests.tiny import make_base, make_tokenizer
from train.models import attach_lora, save_adapter, save_merged
from train.settings import LoraSettings

LEAKED = "Which of the seven hills of Rome was it that the king chose for his own house"


def _chat(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _save_base(folder, seed):
    tokenizer = make_tokenizer()
    make_base(vocabulary=len(tokenizer), seed=seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tuned(base, folder, seed):
    """What the finetune stage leaves: an adapter and the merged weights."""
    import torch

    from train.models import load_base, load_tokenizer

    model = attach_lora(load_base(str(base)), LoraSettings(r=2, alpha=4, targets=["q_proj", "v_proj"]), seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    save_adapter(model, folder / "adapter")
    save_merged(model, load_tokenizer(str(base)), folder / "merged")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    base = _save_base(folder / "base", seed=0)
    for seed in (1, 2):
        _tuned(base, folder / f"run{seed}", seed)
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
    row = {"messages": _chat("Name a hill.", f"{LEAKED}? The Palatine."), "capability": "math"}
    (folder / "targets.jsonl").write_text(
        json.dumps({"id": "t", "messages": _chat("Add.", "No."), "capability": "math"})
    )
    (folder / "dataset" / "data").mkdir(parents=True)
    schema = pa.schema([("id", pa.string()), ("messages", MESSAGES_TYPE)])
    rows = pa.Table.from_pylist([{"id": "trained-on", "messages": row["messages"]}], schema=schema)
    pq.write_table(rows, folder / "dataset" / "data" / "train-0.parquet")
    return folder


def _config(place, store):
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
            "evaluation": {"items": [str(place / "items.parquet")], "resamples": 200},
        }
    )


def _evaluate(place, store):
    config = _config(place, store)
    models = evaluated_models(config, {"ours": [str(place / "run1"), str(place / "run2")]})
    return evaluate(config, StageStore(config.store), models, {"ours": str(place / "dataset")})


@pytest.fixture(scope="module")
def evaluated(place):
    return _evaluate(place, place / "store")


def test_training_runs_come_together_under_one_name(evaluated):
    comparison = read_results(evaluated.path)
    assert [table.metric.unit for table in comparison.tables] == ["bits/byte", "bits/token"]
    table = comparison.tables[0]
    assert (table.models, table.controls) == (("base", "ours"), ("base",))
    assert table.cell("ours", "math").runs == 2
    items = pq.read_table(evaluated.path / ITEMS).to_pylist()
    own = [r for r in items if (r["model"], r["capability"], r["metric"]) == ("ours", "code", "bits_per_byte")]
    assert {row["run"] for row in own} == {0, 1}
    assert table.cell("ours", "code").mean == pytest.approx(sum(row["value"] for row in own) / len(own))


def test_an_item_that_a_training_row_contains_scores_for_no_model_and_is_listed(evaluated):
    (leak,) = read_leaks(evaluated.path / LEAKS)
    assert (leak.task, leak.item_id, leak.kind, leak.matched_id) == (HELD_OUT, "math-3", "training row", "trained-on")
    table = read_results(evaluated.path).tables[0]
    assert (table.cell("base", "math").items, table.cell("base", "code").items) == (11, 12)
    items = pq.read_table(evaluated.path / ITEMS).to_pylist()
    assert {(row["model"], row["id"]) for row in items if row["excluded"]} == {("base", "math-3"), ("ours", "math-3")}


def test_a_second_run_finds_it(place, evaluated):
    assert _evaluate(place, place / "store").cached


def test_a_killed_stage_keeps_the_losses_of_the_models_that_were_done(place, evaluated, tmp_path, monkeypatch):
    loaded = []
    load = evaluation._loaded

    def dying(model):
        loaded.append(model.run_name)
        if len(loaded) == 3:
            raise KeyboardInterrupt
        return load(model)

    monkeypatch.setattr(evaluation, "_loaded", dying)
    with pytest.raises(KeyboardInterrupt):
        _evaluate(place, tmp_path / "store")
    again = _evaluate(place, tmp_path / "store")
    assert loaded == ["base", "ours", "ours, run 2", "ours, run 2"]
    for file in ("results.json", ITEMS, LEAKS):
        assert (again.path / file).read_bytes() == (evaluated.path / file).read_bytes()
    assert not (again.path / HELD_OUT).exists()


def test_a_model_may_be_an_adapter_alone_or_whole_weights(place, tmp_path):
    config = _config(place, tmp_path)
    base, adapter, whole = evaluated_models(
        config, {"adapter": [str(place / "run1" / "adapter")], "whole": [str(place / "run1" / "merged")]}
    )
    assert (base.name, adapter.path, whole.adapter) == ("base", config.model, None)
    found = evaluate(config, StageStore(config.store), [base, adapter, whole], {})
    table = read_results(found.path).tables[0]
    # one model, once as base and adapter, once merged: float32 rounds apart
    assert table.difference("whole", "base", "code").interval.mean == pytest.approx(
        table.difference("adapter", "base", "code").interval.mean, abs=1e-4
    )


def test_what_is_no_model_is_refused_by_name(place, tmp_path):
    config = _config(place, tmp_path)
    with pytest.raises(ConfigError, match=r"model x: .* has neither config\.json nor adapter_config\.json"):
        evaluated_models(config, {"x": [str(place / "dataset")]})
    with pytest.raises(ConfigError, match="is the base model's own"):
        evaluated_models(config, {"base": [str(place / "run1")]})
