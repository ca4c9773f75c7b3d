"""The evaluation stage on tiny models and held-out items: seeds, leaked items, what is kept when it is killed."""

from __future__ import annotations

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.records import MESSAGES_TYPE
from eval.heldout import HeldOutError, encode_held_out, held_out_losses
from eval.leakage import read_leaks
from eval.request import EngineInfo, EvaluationResponse, ItemResult
from eval.statistics import StatisticsError
from flows.config import ConfigError
from flows.stages import evaluation, held_out
from flows.stages.evaluation import EXCLUDED, ITEMS, LEAKS, evaluate, evaluated_models, read_results
from flows.stages.held_out import HELD_OUT
from flows.store import StageStore
from tests.flows.small_evaluation import LEAKED, chat, make_place, small_config
from tests.tiny import make_base, make_tokenizer


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("evaluation"))


def _evaluate(place, store):
    config = small_config(place, store)
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
    load = held_out._loaded

    def dying(model):
        loaded.append(model.run_name)
        if len(loaded) == 3:
            raise KeyboardInterrupt
        return load(model)

    monkeypatch.setattr(held_out, "_loaded", dying)
    with pytest.raises(KeyboardInterrupt):
        _evaluate(place, tmp_path / "store")
    again = _evaluate(place, tmp_path / "store")
    assert loaded == ["base", "ours", "ours, run 2", "ours, run 2"]
    for file in ("results.json", ITEMS, LEAKS):
        assert (again.path / file).read_bytes() == (evaluated.path / file).read_bytes()
    assert not (again.path / HELD_OUT).exists()


def test_a_model_may_be_an_adapter_alone_or_whole_weights(place, tmp_path):
    config = small_config(place, tmp_path)
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
    config = small_config(place, tmp_path)
    with pytest.raises(ConfigError, match=r"model x: .* has neither config\.json nor adapter_config\.json"):
        evaluated_models(config, {"x": [str(place / "dataset")]})
    with pytest.raises(ConfigError, match="is the base model's own"):
        evaluated_models(config, {"base": [str(place / "run1")]})


def _items(path, **prompts):
    """Two capabilities of four items. prompts: of an item by its id, with another text than the others."""
    rows = [
        {"id": f"{c}{k}", "capability": c, "prompt": f"What is {k} of {c}?", "target": f"It is {k}."}
        for c in ("math", "code")
        for k in range(4)
    ]
    pq.write_table(
        pa.Table.from_pylist([row | {"prompt": prompts.get(row["id"], row["prompt"])} for row in rows]), path
    )
    return [str(path)]


def _losses_of(model, items, tokenizer):
    asked = [
        {"id": row["id"], "capability": row["capability"], "messages": chat(row["prompt"], row["target"])}
        for row in pq.read_table(items).to_pylist()
    ]
    rows, _ = encode_held_out(asked, tokenizer, 128)
    return {loss.id: loss.bits_per_byte for loss in held_out_losses(model, rows, tokenizer.pad_token_id)}


def _byte_tokenizer():
    """Other special tokens, so other ids, and no merges, so other tokens."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    likeness = make_tokenizer(special=("<|pad|>", "<|end|>", *(f"<|{k}|>" for k in range(40))))
    backend = json.loads(likeness.backend_tokenizer.to_str())
    backend["model"]["merges"] = []
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend)), eos_token="<|end|>", pad_token="<|pad|>"
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }} says: {{ m.content }}<|end|>{% endfor %}"
    return tokenizer


def test_a_stranger_is_measured_with_its_own_tokenizer_in_units_that_both_have(place, tmp_path):
    """The base's token ids mean other words to it, and its tokens are other units."""
    from train.models import load_base

    tokenizer = _byte_tokenizer()
    stranger = make_base("qwen2", vocabulary=len(tokenizer), seed=5)
    stranger.save_pretrained(tmp_path / "stranger")
    tokenizer.save_pretrained(tmp_path / "stranger")
    items = _items(tmp_path / "items.parquet")
    config = small_config(place, tmp_path / "store", items=items)
    models = evaluated_models(config, {"theirs": [str(tmp_path / "stranger")]})
    found = evaluate(config, StageStore(config.store), models, {"theirs": str(place / "dataset")})
    rows = [row for row in pq.read_table(found.path / ITEMS).to_pylist() if row["model"] == "theirs"]
    expected = _losses_of(load_base(str(tmp_path / "stranger")), items[0], tokenizer)
    assert {row["id"]: row["value"] for row in rows} == pytest.approx(expected)
    comparison = read_results(found.path)
    assert [table.metric.unit for table in comparison.tables] == ["bits/byte"]
    assert comparison.notes == ("Bits per token are not compared: the models have different tokenizers",)


def test_a_capability_whose_items_all_leak_is_told_and_so_is_an_item_that_is_too_long(place, tmp_path):
    leaked = {f"math{k}": f"{LEAKED} {k}" for k in range(4)}
    items = _items(tmp_path / "items.parquet", **leaked, code2="word " * 300)
    config = small_config(place, tmp_path / "store", items=items)
    models = evaluated_models(config, {})
    found = evaluate(config, StageStore(config.store), models, {"ours": str(place / "dataset")})
    comparison = read_results(found.path)
    assert comparison.tables[0].capabilities == ["code"]
    assert comparison.tables[0].cell("base", "code").items == 3
    assert comparison.notes == (
        "1 of 8 held-out items count for no model, for one 'code2': longer than 128 tokens",
        "held-out math is in no table: 0 of its 4 items may score, and an interval needs two",
    )
    assert all(f"- {note}" in comparison.to_markdown() for note in comparison.notes)
    assert json.loads((found.path / EXCLUDED).read_text()) == {"code2": "longer than 128 tokens"}


def test_when_every_item_leaks_there_is_no_result(place, tmp_path):
    leaked = {f"{c}{k}": f"{LEAKED} {k} {c}" for c in ("math", "code") for k in range(4)}
    config = small_config(place, tmp_path / "store", items=_items(tmp_path / "items.parquet", **leaked))
    with pytest.raises(StatisticsError, match=r"no item is left to score: held-out math .*; held-out code .*leaks"):
        evaluate(config, StageStore(config.store), evaluated_models(config, {}), {"ours": str(place / "dataset")})


def test_what_cannot_guard_is_told_or_refused(place, tmp_path):
    config = small_config(place, tmp_path / "store", items=_items(tmp_path / "items.parquet"))
    models = evaluated_models(config, {"ours": [str(place / "run1")]})
    with pytest.raises(ConfigError, match=r"dataset ours: .* has no data/\*\.parquet"):
        evaluate(config, StageStore(config.store), models, {"ours": str(place / "base")})
    (note,) = read_results(evaluate(config, StageStore(config.store), models, {}).path).notes
    assert note.startswith("No dataset was named")


def test_rows_of_two_datasets_that_share_an_id_are_both_looked_at(place, tmp_path):
    shutil.copytree(place / "dataset", tmp_path / "other")
    schema = pa.schema([("id", pa.string()), ("messages", MESSAGES_TYPE)])
    row = {"id": "trained-on", "messages": chat("What is 1 of code?", "It is 1.")}
    pq.write_table(pa.Table.from_pylist([row], schema=schema), tmp_path / "other" / "data" / "train-0.parquet")
    config = small_config(place, tmp_path / "store", items=_items(tmp_path / "items.parquet"))
    datasets = {"ours": str(place / "dataset"), "theirs": str(tmp_path / "other")}
    found = evaluate(config, StageStore(config.store), evaluated_models(config, {}), datasets)
    assert [leak.item_id for leak in read_leaks(found.path / LEAKS)] == ["code1"]


def test_a_model_whose_losses_are_no_numbers_is_named(place, tmp_path):
    from train.models import load_base

    model = load_base(str(place / "base"))
    model.lm_head.weight.data[:] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    make_tokenizer().save_pretrained(tmp_path / "broken")
    config = small_config(place, tmp_path / "store")
    models = evaluated_models(config, {"ours": [str(tmp_path / "broken")]})
    with pytest.raises(HeldOutError, match=r"model ours \(.*broken\): the loss of 24 of 24 .* NaN"):
        evaluate(config, StageStore(config.store), models, {"ours": str(place / "dataset")})


def test_an_adapter_of_another_base_is_refused_before_any_work(place, tmp_path):
    make_base("gpt2").save_pretrained(tmp_path / "gpt2")
    config = small_config(place, tmp_path / "store").model_copy(update={"model": str(tmp_path / "gpt2")})
    with pytest.raises(ConfigError, match=r"model 'x': the adapter .* was trained on another base model"):
        evaluated_models(config, {"x": [str(place / "run1" / "adapter")]})


@pytest.fixture
def with_task(place, tmp_path, monkeypatch):
    """Evaluates a task whose data lies outside its folder, on a stand-in for the engine; returns the call."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "t.yaml").write_text("task: t\ndataset_kwargs: {data_files: {test: ../data.json}}\n")
    (tmp_path / "data.json").write_text("{}")
    config = small_config(place, tmp_path / "store", items=[], tasks=["t", "t"], task_folder=str(tmp_path / "tasks"))
    engine = EngineInfo(backend="hf", device="cpu", dtype="float32", python="3", versions={})

    def answer(request, *_, **__):
        assert request.tasks == ("t",)
        items = tuple(
            ItemResult(model=m.name, task="t", item_id=f"{k}", prompt=f"What is {k}?", metrics={"acc": 1.0})
            for m in request.models
            for k in range(3)
        )
        return EvaluationResponse(items=items, engine=engine, seconds={}, seconds_start_up=0, notes=("told",))

    monkeypatch.setattr(evaluation, "run_evaluation", answer)
    return lambda: evaluate(config, StageStore(config.store), evaluated_models(config, {}), {})


def test_other_items_under_a_task_make_another_result(with_task, tmp_path):
    first = with_task()
    assert (first.cached, read_results(first.path).notes) == (False, ("told",))
    assert with_task().cached
    (tmp_path / "data.json").write_text("{ }")
    assert not with_task().cached
