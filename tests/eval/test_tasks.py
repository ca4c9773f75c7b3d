"""The repository's own tasks, and folders with mistakes in them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from eval.errors import EvaluationError
from eval.published import PUBLISHED
from eval.scorers import SCORERS
from eval.tasks import TaskSpec, check_code, load, read_folder, resolve

TASKS = Path(__file__).parents[2] / "configs" / "tasks"
DEFAULT = ["demo_code", "demo_knowledge", "demo_math", "demo_multilingual", "demo_reasoning"]


def test_the_tag_names_one_task_per_capability():
    assert [task.name for task in resolve(["equipoise_demo"], TASKS)] == DEFAULT


def test_a_task_named_twice_comes_once_and_order_is_kept():
    found = resolve(["demo_reasoning_generate", "demo_math", "equipoise_demo"], TASKS)
    assert [task.name for task in found] == [
        "demo_reasoning_generate",
        "demo_math",
        *[n for n in DEFAULT if n != "demo_math"],
    ]


@pytest.mark.parametrize("name", DEFAULT)
def test_data_paths_hold_from_any_folder_and_answers_are_among_the_choices(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    task = read_folder(TASKS)[name].source
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
    assert read_folder(tmp_path)["t"].source["dataset_kwargs"]["data_files"] == ["https://host/x.parquet"]
    _write(tmp_path, "b.yaml", "task: t\n")
    with pytest.raises(EvaluationError, match=r"b\.yaml: the task name 't'"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("task: t\ndoc_to_text: '{{prompt}\nx: [1\n", r"a\.yaml, line \d+: not valid YAML: "),
        ("task: t\n\tx: 1\n", r"a\.yaml, line 2: not valid YAML"),
        ("include: _none\ntask: t\n", r"a\.yaml: include: no such file: .*/_none"),
        ("include: _broken\ntask: t\n", r"_broken, line \d: not valid YAML"),
        ("include: a.yaml\ntask: t\n", r"a\.yaml: ValueError: Include cycle"),
        ("- task: t\n", r"a\.yaml: ValueError: Expected YAML dict"),
        ("", r"a\.yaml: ValueError: Expected YAML dict"),
        (
            "task: t\nprocess_docs: !function own.missing\n",
            r"a\.yaml: AttributeError: Module .* has no function 'missing'",
        ),
        ("task: t\nprocess_docs: !function wrong.f\n", r"a\.yaml: SyntaxError"),
        ("task: t\ndataset_kwargs: [x]\n", r"a\.yaml: dataset_kwargs: expected keys"),
        ("task: t\ndataset_kwargs: {data_files: {test: 3}}\n", r"a\.yaml: dataset_kwargs\.data_files: 3 is no path"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_line(tmp_path, text, told):
    _write(tmp_path, "_broken", "x: 1\ny: [\n")
    _write(tmp_path, "own.py", "def there(docs):\n    return docs\n")
    _write(tmp_path, "wrong.py", "def f(:\n")
    _write(tmp_path, "a.yaml", text)
    with pytest.raises(EvaluationError, match=told):
        read_folder(tmp_path)


def test_a_scorer_is_known_and_goes_with_the_mark_of_running_programs(tmp_path):
    _write(tmp_path, "a.yaml", "task: t\nscorer: numerik\n")
    with pytest.raises(EvaluationError, match=r"a\.yaml: unknown scorer 'numerik'; did you mean 'numeric'\?"):
        read_folder(tmp_path)
    for text in (
        "task: t\nscorer: code\n",
        "task: t\nscorer: numeric\nunsafe_code: true\n",
        "task: t\nunsafe_code: true\n",
    ):
        _write(tmp_path, "a.yaml", text)
        with pytest.raises(EvaluationError, match=r"a\.yaml: `unsafe_code: true` belongs with a scorer"):
            read_folder(tmp_path)
    _write(tmp_path, "a.yaml", "task: t\nscorer: code\nunsafe_code: true\n")
    spec = read_folder(tmp_path)["t"]
    assert spec.runs_code and spec.scorer == "code" and "scorer" not in spec.source


@pytest.mark.sandbox
def test_programs_run_only_when_allowed_and_only_in_a_sandbox(tmp_path, monkeypatch):
    _write(tmp_path, "a.yaml", "task: t\nscorer: code\nunsafe_code: true\n")
    specs = resolve(["t"], tmp_path)
    with pytest.raises(EvaluationError, match="t run programs that the model writes; set run_code: true"):
        check_code(specs, run_code=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EvaluationError, match=r"^tasks: t run programs .* but bubblewrap.*apt-get install bubblewrap"):
        check_code(specs, run_code=True)
    check_code(resolve(["demo_math"], TASKS), run_code=False)


def test_the_published_benchmarks_go_by_their_names():
    specs = {spec.name: spec for spec in resolve(list(PUBLISHED), None)}
    assert list(specs) == ["mmlu", "bbh", "gsm8k", "gsm_plus", "math", "ifeval", "humaneval", "mbpp", "mgsm"]
    assert {spec.capability for spec in specs.values()} == {
        *("knowledge", "reasoning", "math", "instruction", "code", "multilingual")
    }
    assert {name for name, spec in specs.items() if spec.runs_code} == {"humaneval", "mbpp"}


def test_what_the_names_stand_for_is_in_the_installed_harness():
    from lm_eval.tasks import TaskManager

    known = set(TaskManager().all_tasks)
    named = {spec.source for spec in resolve(list(PUBLISHED), None) if isinstance(spec.source, str)}
    assert len(named) == 7
    assert named <= known


@pytest.mark.sandbox
def test_rows_of_the_published_code_benchmarks_become_items_that_are_judged():
    from datasets import Dataset

    from eval.published import programs

    row = {"task_id": "HumanEval/0", "prompt": "def twice(x):\n", "entry_point": "twice"}
    row["test"] = "def check(candidate):\n    assert candidate(2) == 4\n"
    (doc,) = programs.humaneval(Dataset.from_list([row]))
    right, wrong = SCORERS["code"].score_all([doc, doc], ["    return 2 * x\n", "    return x\n"])
    assert (right["pass@1"], wrong["pass@1"]) == (1.0, 0.0)

    row = {"task_id": 11, "text": "Double it.", "test_list": ["assert twice(3) == 6"], "test_setup_code": ""}
    (doc,) = programs.mbpp(Dataset.from_list([row]))
    right, wrong = SCORERS["code"].score_all([doc, doc], ["def twice(x):\n    return x + x", "def twice(x): return 0"])
    assert (doc["id"], right["pass@1"], wrong["pass@1"]) == ("11", 1.0, 0.0)


@pytest.mark.parametrize("name", ["humaneval_instruct", "mbpp_plus"])
def test_a_built_in_task_that_would_run_programs_here_is_refused(name):
    with pytest.raises(EvaluationError, match=f"'{name}' runs model-written programs without a sandbox"):
        resolve([name], None)


def _as_the_harness_loads(monkeypatch, groups):
    """`load` on stand-ins: name → tasks behind it."""

    def task():
        return SimpleNamespace(
            eval_docs=[1], get_config=lambda key: 0, set_config=lambda **_: None, set_fewshot_seed=lambda seed: None
        )

    monkeypatch.setattr(
        "eval.tasks._load", lambda manager, spec: {n: task() for n in groups.get(spec.name, [spec.name])}
    )
    monkeypatch.setattr("lm_eval.tasks.TaskManager", lambda **_: None)


def test_a_task_beside_its_group_comes_once(monkeypatch):
    _as_the_harness_loads(monkeypatch, {"many": ["one", "two"]})
    found = load([TaskSpec("many", "many"), TaskSpec("two", "two"), TaskSpec("three", "three")], seed=0)
    assert [task.name for task in found] == ["one", "two", "three"]


def test_two_tasks_of_one_name_are_refused(monkeypatch):
    """A file of ours named like a part of a published benchmark: their items would run into each other."""
    _as_the_harness_loads(monkeypatch, {"many": ["one", "two"]})
    with pytest.raises(EvaluationError, match="many and two both have a task two; leave one out"):
        load([TaskSpec("many", "many"), TaskSpec("two", {"task": "two"})], seed=0)


def test_a_task_without_items_is_named(tmp_path):
    import pyarrow as pa

    empty = pa.table({"id": pa.array([], pa.string()), "prompt": pa.array([], pa.string())})
    pq.write_table(empty, tmp_path / "items.parquet")
    text = (TASKS / "demo_reasoning_generate.yaml").read_text().replace("demo_reasoning_generate", "none")
    _write(tmp_path, "a.yaml", text.replace("../../demo/data/eval/reasoning.parquet", "items.parquet"))
    with pytest.raises(EvaluationError, match=r"task none has no items .*items\.parquet"):
        load(resolve(["none"], tmp_path), seed=0)
