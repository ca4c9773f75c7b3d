"""What a configuration names is opened before any work: everything wrong is told at once, with its key."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.checks import check, checked
from flows.config import ConfigError, validate
from tests.tiny import make_base, make_tokenizer, save_base

GOOD = {"id": "a", "messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checks")
    save_base(folder / "model")
    (folder / "pool.jsonl").write_text(json.dumps(GOOD))
    (folder / "targets.jsonl").write_text(json.dumps(GOOD | {"capability": "c"}))
    item = {"id": "i", "capability": "c", "prompt": "p", "target": "t"}
    pq.write_table(pa.Table.from_pylist([item]), folder / "items.parquet")
    return folder


def configured(folder, *, pool="pool.jsonl", targets="targets.jsonl", items="items.parquet", model="model", **changes):
    return validate(
        {
            "name": "small",
            "model": str(folder / model),
            "max_length": 64,
            "data": {"pool": [{"path": str(folder / pool)}], "targets": [{"path": str(folder / targets)}]},
            "evaluation": {"items": [str(folder / items)]},
            **changes,
        }
    )


def test_a_sound_configuration_has_no_problem_and_hands_on_what_was_opened(folder):
    found = checked(configured(folder))
    assert [row.id for row in found.samples[0]] == ["a"]
    assert [row.capability for row in found.targets] == ["c"]
    assert [item.id for item in found.items] == ["i"]
    assert all(parameter.is_meta for parameter in found.model.parameters())


def test_all_problems_are_told_at_once(folder):
    (folder / "shapeless.jsonl").write_text('{"a": 1}\n{"b": 2}\n')
    (folder / "empty.jsonl").write_text("")
    pq.write_table(pa.table({"id": ["i"], "prompt": ["p"]}), folder / "half.parquet")
    config = configured(
        folder,
        pool="shapeless.jsonl",
        targets="empty.jsonl",
        items="half.parquet",
        max_length=4096,
        warmup={"lora": {"targets": ["q_prj"]}},
    )
    with pytest.raises(ConfigError) as error:
        checked(config)
    message = str(error.value)
    assert message.startswith("5 problem(s)")
    for part in (
        f"data.pool.0: {folder / 'shapeless.jsonl'}:1: ",
        f"data.targets.0: no rows in {folder / 'empty.jsonl'}",
        "lacks the column(s) capability, target",
        "max_length: 4096 tokens are more than the model takes",
        "warmup.lora: lora.targets ['q_prj'] name no linear map of this model: there is no 'q_prj', did you mean ",
    ):
        assert part in message, message


def test_targets_without_a_capability_are_told(folder):
    (problem,) = check(configured(folder, targets="pool.jsonl")).problems
    assert "data.targets.0: " in problem and "capability is missing" in problem


def test_a_few_bad_rows_are_left_to_ingest(folder):
    (folder / "dirty.jsonl").write_text("\n".join([json.dumps(GOOD | {"id": str(n)}) for n in range(3)] + ["{"]))
    assert check(configured(folder, pool="dirty.jsonl")).problems == []


@pytest.mark.parametrize("fault", ["no weights", "cut off", "no template", "no model"])
def test_a_model_that_will_not_load(folder, tmp_path, fault):
    model = tmp_path / "model"
    tokenizer = make_tokenizer()
    make_base("llama", vocabulary=len(tokenizer)).save_pretrained(model)
    if fault == "no template":
        tokenizer.chat_template = None
    tokenizer.save_pretrained(model)
    weights = model / "model.safetensors"
    if fault == "no weights":
        weights.unlink()
    elif fault == "cut off":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif fault == "no model":
        (model / "config.json").write_text(json.dumps({"model_type": "no_such_kind"}))
    expected = {
        "no weights": "holds no *.safetensors file",
        "cut off": f"{weights} cannot be read",
        "no template": "has no chat template",
        "no model": "cannot load the folder",
    }[fault]
    problems = check(configured(folder, model=model)).problems
    assert any(expected in problem for problem in problems), problems
    assert all(problem.startswith("model: ") for problem in problems)
