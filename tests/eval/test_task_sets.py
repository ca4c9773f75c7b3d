"""Task sets: those that are committed, and the script that makes them, on small files made here."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from eval.items import read_items
from eval.scorers import SCORERS

ROOT = Path(__file__).parents[2]
ITEMS, TASKS = ROOT / "demo" / "data" / "tasks", ROOT / "configs" / "tasks"
COMMITTED = {"gsm8k": "numeric", "ifeval": "instructions", "mbpp": "code", "humaneval": "code", "nq_open": "match"}

_spec = importlib.util.spec_from_file_location("build_eval_tasks", ROOT / "scripts" / "build_eval_tasks.py")
assert _spec is not None and _spec.loader is not None
script = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = script  # dataclasses look their module up there
_spec.loader.exec_module(script)


def rows_of(name):
    return pq.read_table(ITEMS / f"{name}.parquet").to_pylist()


@pytest.mark.parametrize(("name", "scorer"), COMMITTED.items())
def test_committed_sets_have_a_task_and_items_that_its_scorer_takes(name, scorer):
    text = (TASKS / f"local_{name}.yaml").read_text()
    task = yaml.safe_load(text)
    assert text.startswith(f"# .venv/bin/equipoise run configs/demo.yaml --set evaluation.tasks=[local_{name}]")
    assert ("evaluation.run_code=true" in text) == SCORERS[scorer].runs_code
    assert (task["task"], task["scorer"], task["include"]) == (f"local_{name}", scorer, "_local_written")
    assert "metric_list" not in task
    assert task.get("unsafe_code", False) == SCORERS[scorer].runs_code
    path = (TASKS / task["dataset_kwargs"]["data_files"]["test"]).resolve()
    assert path == ITEMS / f"{name}.parquet"
    items = read_items([path])
    assert len(items) == 40
    assert len({item.capability for item in items}) == 1
    assert all(row["source"] and row["license"] for row in rows_of(name))


def test_committed_items_are_not_among_the_demos():
    others = [ROOT / "demo" / "data" / name for name in ("pool.parquet", "targets.parquet")]
    others += (ROOT / "demo" / "data" / "eval").glob("*.parquet")
    for name in COMMITTED:
        assert len(script.disjoint(rows_of(name), others)) == 40


def test_gold_answers_score_one():
    rows = rows_of("nq_open")
    assert {s["exact_match"] for s in SCORERS["match"].score_all(rows, [row["target"] for row in rows])} == {1.0}


def test_the_table_of_licences_counts_every_row():
    table = (ITEMS / "README.md").read_text()
    for name in COMMITTED:
        (licence,) = {row["license"] for row in rows_of(name)}
        assert f"| `{name}.parquet` |" in table
        assert f"| {licence} | 40 |" in table


def raw(number, domain="math", split="test", extra=None, **columns):
    row = {"id": f"r-{number}", "source": "s", "domain": domain, "subset": "t", "license": "MIT", "split": split}
    row |= {"prompt": f"question {number}", "target": str(number), "choices": None, "answer_index": None}
    return {**row, "extra": json.dumps(extra) if extra else None, **columns}


def write(folder, file, rows):
    folder.mkdir(exist_ok=True)
    choices = pa.list_(pa.string())
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    columns["choices"] = pa.array(columns["choices"], type=choices)
    pq.write_table(pa.table(columns), folder / f"{file}.parquet")


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    write(folder, "math_gsm8k", [raw(n) for n in range(20)])
    write(folder, "multilingual_mgsm", [raw(n, "multilingual:tel") for n in range(3)])
    answers = [
        raw(n, "knowledge", "dev" if n == 0 else "test", choices=["x", str(n)], answer_index=1) for n in range(4)
    ]
    write(folder, "knowledge_mmlu", answers)
    write(folder, "instruction_user_oriented", [raw(0)])
    write(folder, "something_else", [raw(0)])
    return folder


def test_the_script_writes_tasks_items_and_a_table(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert script.main(["--data", str(data), "--out", str(out), "--sets", "gsm8k", "mgsm", "mmlu", "--limit", "5"]) == 0
    said = capsys.readouterr().out
    assert "left out: instruction_user_oriented (free texts" in said
    assert "left out: something_else (this script does not know it)" in said
    assert [line.split()[:3] for line in said.splitlines()[1:4]] == [
        ["local_gsm8k", "math", "5"],
        ["local_mgsm", "multilingual", "3"],
        ["local_mmlu", "knowledge", "3"],
    ]
    mmlu = pq.read_table(out / "items" / "mmlu.parquet").to_pylist()
    assert [row["id"] for row in mmlu] == ["r-1", "r-2", "r-3"]  # without the examples of the split dev
    assert all(row["choices"][row["answer_index"]] == row["target"] for row in mmlu)
    mgsm = pq.read_table(out / "items" / "mgsm.parquet").to_pylist()
    assert {(row["capability"], row["language"]) for row in mgsm} == {("multilingual", "tel")}
    task = yaml.safe_load((out / "local_mmlu.yaml").read_text())
    assert (task["include"], "scorer" in task) == ("_local_choices", False)
    assert (out / task["dataset_kwargs"]["data_files"]["test"]).is_file()


def test_a_limit_draws_by_seed_and_id_alone(data, tmp_path):
    def drawn(seed, folder):
        script.build(data, tmp_path / folder, tmp_path / folder, ["gsm8k"], 5, seed)
        return (tmp_path / folder / "gsm8k.parquet").read_bytes(), [
            row["id"] for row in pq.read_table(tmp_path / folder / "gsm8k.parquet").to_pylist()
        ]

    first, again, other = drawn(0, "a"), drawn(0, "b"), drawn(1, "c")
    assert first == again
    assert first[1] != other[1]
    write(data, "math_gsm8k", [raw(n) for n in reversed(range(20))])
    assert sorted(drawn(0, "d")[1]) == sorted(first[1])


def test_items_that_another_file_has_are_left_out(data, tmp_path):
    long = " ".join(f"w{n}" for n in range(13))
    rows = [raw(0), raw(1), raw(2, prompt=f"First, {long} and more"), raw(3)]
    write(data, "math_gsm8k", rows)
    items = [{"id": "r-0", "prompt": "other"}, {"id": "x", "prompt": f"so {long}."}]
    pq.write_table(pa.Table.from_pylist(items), tmp_path / "items.parquet")
    chats = [
        {"id": "y", "messages": [{"role": "user", "content": " question 1"}, {"role": "assistant", "content": "3"}]}
    ]
    pq.write_table(pa.Table.from_pylist(chats), tmp_path / "chats.parquet")
    kept = script.disjoint(script.read_set(data, "gsm8k"), [tmp_path / "items.parquet", tmp_path / "chats.parquet"])
    assert [row["id"] for row in kept] == ["r-3"]


def test_mistakes_are_one_line(data, tmp_path, capsys):
    assert script.main(["--data", str(data), "--out", str(tmp_path / "o"), "--sets", "svamp"]) == 2
    assert "math_svamp.parquet: no such file" in capsys.readouterr().err
    write(data, "math_aqua", [raw(7, choices=["x", "y"], answer_index=0)])
    assert script.main(["--data", str(data), "--out", str(tmp_path / "o"), "--sets", "aqua"]) == 2
    assert "row r-7: its target is not the choice" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script.main(["--data", str(data), "--out", str(tmp_path / "o"), "--limit", "0"])


def test_the_script_explains_itself():
    run = subprocess.run(
        [sys.executable, ROOT / "scripts" / "build_eval_tasks.py", "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert run.returncode == 0
    assert "--disjoint-from" in run.stdout
