"""An evaluation whose process dies: what was finished stays, and the next one goes on at the next task."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from eval import parts
from eval.__main__ import main
from eval.errors import EvaluationError
from eval.harness import LOCK_FILE, WRONG_REQUEST, run_evaluation
from eval.request import EvaluationRequest, ModelToEvaluate
from eval.tasks import LoadedTask, resolve

ROOT = Path(__file__).parents[2]
TASKS = ROOT / "configs" / "tasks"
NAMES = ["demo_reasoning_generate", "demo_knowledge", "demo_code"]


def _request(**changes):
    asked = {
        "models": [{"name": name, "path": str(ROOT / "demo" / "model")} for name in ("one", "two")],
        "tasks": NAMES,
        "task_folder": str(TASKS),
        "limit": 4,
        "engine": {"backend": "hf", "dtype": "float32"},
    }
    return EvaluationRequest.model_validate(asked | changes)


def _task(name):
    (spec,) = resolve([name], TASKS)
    return LoadedTask(name, spec, None)


def _part(model, task):
    return parts.Part(model=model.name, task=task.name, items=(), seconds=1.0)


@pytest.mark.parametrize(
    "changes",
    [{"limit": 5}, {"seed": 1}, {"engine": {"backend": "hf", "dtype": "bfloat16"}}],
    ids=["limit", "seed", "engine"],
)
def test_a_part_answers_the_question_it_was_made_for_only(tmp_path, changes):
    request, task = _request(), _task("demo_knowledge")
    model = request.models[0]
    kept = parts.Parts(tmp_path, request)
    kept.begin(model, task)
    assert parts.under_way(tmp_path) == ("one", "demo_knowledge")
    kept.write(model, task, _part(model, task))
    assert parts.under_way(tmp_path) is None
    assert parts.finished(tmp_path) == 1
    assert kept.find(model, task) == _part(model, task)
    assert kept.find(model, _task("demo_code")) is None
    assert kept.find(request.models[1], task) is None
    assert parts.Parts(tmp_path, _request(**changes)).find(model, task) is None


def test_other_weights_under_the_same_path_are_another_model(tmp_path):
    request, task = _request(), _task("demo_knowledge")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    model = ModelToEvaluate(name="m", path=str(folder))
    kept = parts.Parts(tmp_path, request)
    kept.write(model, task, _part(model, task))
    (folder / "config.json").write_text("{ }")
    assert kept.find(model, task) is None


@pytest.mark.parametrize("changed", ["own.py", "shard-1.json", "shard-2.json"])
def test_other_data_or_other_functions_of_the_task_are_another_question(tmp_path, changed):
    text = "task: t\nprocess_docs: !function own.f\ndataset_kwargs: {data_files: {test: shard-*.json}}\n"
    # a text that looks like a path is none, however long
    text += f"doc_to_text: '/no_think {'x' * 300}'\ntarget_delimiter: /\n"
    for name, content in (("a.yaml", text), ("own.py", "def f(docs):\n    return docs\n"), ("shard-1.json", "{}")):
        (tmp_path / name).write_text(content)
    request, work = _request(), tmp_path / "work"
    model = request.models[0]
    first = LoadedTask("t", resolve(["t"], tmp_path)[0], None)
    parts.Parts(work, request).write(model, first, _part(model, first))
    assert parts.Parts(work, request).find(model, LoadedTask("t", resolve(["t"], tmp_path)[0], None)) is not None
    (tmp_path / changed).write_text("def f(docs):\n    return docs.select([0])\n")
    assert parts.Parts(work, request).find(model, LoadedTask("t", resolve(["t"], tmp_path)[0], None)) is None


def test_a_part_of_another_version_is_evaluated_again(tmp_path, monkeypatch):
    request, task = _request(), _task("demo_knowledge")
    kept = parts.Parts(tmp_path, request)
    kept.write(request.models[0], task, _part(request.models[0], task))
    monkeypatch.setattr(parts, "_code_and_versions", lambda: ["other code", "vllm 99"])
    assert parts.Parts(tmp_path, request).find(request.models[0], task) is None


def test_a_damaged_part_is_evaluated_again(tmp_path):
    request, task = _request(), _task("demo_knowledge")
    kept = parts.Parts(tmp_path, request)
    kept.write(request.models[0], task, _part(request.models[0], task))
    (file,) = (tmp_path / parts.FOLDER).iterdir()
    file.write_text(file.read_text()[:20])
    assert kept.find(request.models[0], task) is None


def test_two_evaluations_do_not_share_a_folder(tmp_path):
    with (
        FileLock(tmp_path / LOCK_FILE),
        pytest.raises(EvaluationError, match=f"another evaluation is at work in {tmp_path}"),
    ):
        run_evaluation(_request(), tmp_path)


def test_a_full_disk_is_one_line_and_no_reason_to_start_again(tmp_path, monkeypatch, capsys):
    def full(request, folder, say):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "parts" / "x.json.partial"))

    monkeypatch.setattr("eval.scoring.evaluate", full)
    (tmp_path / "request.json").write_text(_request().model_dump_json())
    assert main([str(tmp_path / "request.json"), str(tmp_path / "response.json")]) == WRONG_REQUEST
    told = capsys.readouterr().err
    assert told.startswith("error: ") and "No space left on device" in told and len(told.splitlines()) == 1


@pytest.mark.slow
def test_a_killed_engine_costs_the_task_at_hand_and_the_answers_are_those_of_an_undisturbed_run(tmp_path):
    """The evaluation's own process is killed twice, in the middle of a task; one call of ours survives both."""
    undisturbed = run_evaluation(_request(), tmp_path / "calm")
    killed: list[str] = []

    def kill(line):
        # a task's last word: the next one is under way a moment later
        if "items in" in line and len(killed) < 2:
            (child,) = _children("-m", "eval")
            os.kill(child, signal.SIGKILL)
            killed.append(line)

    lines: list[str] = []
    answer = run_evaluation(_request(), tmp_path / "disturbed", on_line=lambda line: (lines.append(line), kill(line)))
    assert len(killed) == 2
    assert answer.items == undisturbed.items
    told = [line for line in lines if "going on with what is left" in line]
    assert len(told) == 2 and "was killed by signal 9" in told[0]
    assert any("results are there from an earlier attempt" in line for line in lines)
    # nothing that was finished ran again
    assert len([line for line in lines if "items in" in line and not line.startswith("model")]) == 6


def _children(*arguments):
    """Process ids of our children whose command line has these arguments."""
    import psutil

    return [child.pid for child in psutil.Process().children() if all(a in child.cmdline() for a in arguments)]


@pytest.mark.slow
def test_a_second_call_goes_on_where_a_killed_one_stopped(tmp_path):
    """Caller and engine are killed together, as a lost machine does; what was written is found."""
    program = (
        "import sys; from eval.harness import run_evaluation; from eval.request import EvaluationRequest; "
        "run_evaluation(EvaluationRequest.model_validate_json(sys.argv[1]), sys.argv[2])"
    )
    work = tmp_path / "work"
    command = [sys.executable, "-c", program, _request().model_dump_json(), str(work)]
    child = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + 180
    while parts.finished(work) < 2 and time.monotonic() < deadline:
        assert child.poll() is None
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    kept = parts.finished(work)
    assert 2 <= kept < 6
    lines: list[str] = []
    answer = run_evaluation(_request(), work, on_line=lines.append)
    assert f"{kept} of 6 results are there from an earlier attempt" in lines
    assert len(answer.items) == 2 * 3 * 4


@pytest.mark.slow
def test_an_engine_that_dies_without_finishing_anything_is_an_error_that_says_where(tmp_path):
    def kill(line):
        if line.startswith("model "):
            time.sleep(0.3)
            for child in _children("-m", "eval"):
                os.kill(child, signal.SIGKILL)

    with pytest.raises(EvaluationError, match=r"was killed by signal 9, often for want of memory"):
        run_evaluation(_request(limit=None), tmp_path, on_line=kill)
