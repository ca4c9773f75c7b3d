"""The repository's own tasks, and folders with mistakes in them."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from eval.request import EvaluationError
from eval.tasks import read_folder, resolve

TASKS = Path(__file__).parents[2] / "configs" / "tasks"
DEFAULT = ["demo_code", "demo_knowledge", "demo_math", "demo_multilingual", "demo_reasoning"]


def test_the_tag_names_one_task_per_capability():
    assert [task["task"] for task in resolve(["equipoise_demo"], TASKS)] == DEFAULT


def test_a_task_named_twice_comes_once_and_order_is_kept():
    found = resolve(["demo_reasoning_generate", "demo_math", "equipoise_demo"], TASKS)
    names = [task["task"] for task in found]
    assert names == ["demo_reasoning_generate", "demo_math", *[n for n in DEFAULT if n != "demo_math"]]


@pytest.mark.parametrize("name", DEFAULT)
def test_data_paths_hold_from_any_folder_and_answers_are_among_the_choices(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    task = read_folder(TASKS)[name]
    rows = pq.read_table(task["dataset_kwargs"]["data_files"]["test"]).to_pylist()
    assert {row["capability"] for row in rows} == {name.removeprefix("demo_")}
    assert all(row["choices"][row[task["doc_to_target"]]] == row["target"] for row in rows)
    assert task["target_delimiter"] == ""


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(EvaluationError, match=r"'demo_maths' is neither .* did you mean 'demo_math'"):
        resolve(["demo_maths"], TASKS)


def _write(folder, name, text):
    (folder / name).write_text(text)


def test_mistakes_in_a_folder_name_the_file(tmp_path):
    with pytest.raises(EvaluationError, match=r"no \*\.yaml"):
        read_folder(tmp_path)
    _write(tmp_path, "a.yaml", "dataset_path: parquet\n")
    with pytest.raises(EvaluationError, match=r"a\.yaml: no `task:` name"):
        read_folder(tmp_path)
    _write(tmp_path, "a.yaml", "task: t\ndataset_kwargs: {data_files: {test: missing.parquet}}\n")
    with pytest.raises(EvaluationError, match=r"a\.yaml: .*no such file: .*missing\.parquet"):
        read_folder(tmp_path)
    _write(tmp_path, "a.yaml", "task: t\ndataset_kwargs: {data_files: ['https://host/x.parquet']}\n")
    assert read_folder(tmp_path)["t"]["dataset_kwargs"]["data_files"] == ["https://host/x.parquet"]
    _write(tmp_path, "b.yaml", "task: t\n")
    with pytest.raises(EvaluationError, match=r"b\.yaml: the task name 't'"):
        read_folder(tmp_path)
