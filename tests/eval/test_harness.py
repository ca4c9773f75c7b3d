"""The evaluation process: its errors, and the real vLLM engine against plain transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval.harness import LOG_FILE, RESPONSE_FILE, run_evaluation
from eval.request import EvaluationError, EvaluationRequest

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "demo" / "model"
LIMIT = 8
CHOICE_TASKS = ["demo_knowledge", "demo_code"]


def _request(path, tasks, **rest):
    models = rest.pop("models", [{"name": "m", "path": str(path)}])
    return EvaluationRequest.model_validate(
        {"models": models, "tasks": tasks, "task_folder": str(ROOT / "configs" / "tasks"), **rest}
    )


@pytest.mark.slow
def test_a_wrong_task_is_one_clear_line(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EvaluationError, match=r"^tasks: 'demo_mth' is neither .* did you mean 'demo_math'\? \(log: "):
        run_evaluation(_request(tmp_path, ["demo_mth"]), tmp_path / "work")


@pytest.mark.slow
def test_a_crash_shows_the_end_of_the_log_and_leaves_no_old_answer(tmp_path):
    (tmp_path / "config.json").write_text("{not json")
    work = tmp_path / "work"
    work.mkdir()
    (work / RESPONSE_FILE).write_text("an answer of yesterday")
    with pytest.raises(EvaluationError, match=r"(?s)exit code 1.*evaluation\.log.*config\.json"):
        run_evaluation(_request(tmp_path, ["demo_math"], engine={"backend": "hf"}), work)
    assert not (work / RESPONSE_FILE).exists()
    assert "Traceback" in (work / LOG_FILE).read_text()


def _naive_scores(task):
    """Log-likelihood of each choice, one unpadded float32 pass per choice, and its count of tokens."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    rows = pq.read_table(ROOT / "demo" / "data" / "eval" / f"{task.removeprefix('demo_')}.parquet").to_pylist()[:LIMIT]
    scores = {}
    for row in rows:
        turn = [{"role": "user", "content": row["prompt"]}]
        context = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        # the harness scores white space at the end of the prompt together with the choice
        start = len(tokenizer(context.rstrip())["input_ids"])
        sums, counts = [], []
        for choice in row["choices"]:
            ids = torch.tensor(tokenizer(context + choice)["input_ids"])
            with torch.no_grad():
                log_probabilities = model(ids[None]).logits[0].log_softmax(-1)
            sums.append(log_probabilities[torch.arange(start - 1, len(ids) - 1), ids[start:]].sum().item())
            counts.append(len(ids) - start)
        scores[row["id"]] = np.array(sums), np.array(counts), row["answer_index"]
    return scores


def _check_against_naive(response, model, tolerance_per_token):
    for task in CHOICE_TASKS:
        found = {item.item_id: item for item in response.items if (item.model, item.task) == (model, task)}
        expected = _naive_scores(task)
        assert found.keys() == expected.keys()
        for name, (sums, counts, answer) in expected.items():
            item = found[name]
            ours = np.array(item.log_likelihoods)
            tolerance = tolerance_per_token * counts
            assert (np.abs(ours - sums) <= tolerance).all(), (task, name, ours - sums, counts)
            assert not item.truncated
            first, second = np.argsort(-sums)[:2]
            if sums[first] - sums[second] > tolerance[first] + tolerance[second]:  # no near tie
                assert item.metrics["acc"] == float(first == answer)


@pytest.mark.slow
def test_vllm_agrees_with_transformers_and_reloads(tmp_path):
    """Two models after one another in one process (the same weights twice): log-likelihoods, answers and generation."""
    lines = []
    models = [{"name": name, "path": str(MODEL)} for name in ("first", "second")]
    request = _request(MODEL, [*CHOICE_TASKS, "demo_reasoning_generate"], limit=LIMIT, models=models)
    response = run_evaluation(request, tmp_path, on_line=lines.append)

    assert response.engine.backend == "vllm"
    assert set(response.seconds) == {"first", "second"}
    assert len(response.items) == 2 * LIMIT * 3
    assert any(line.startswith("model second") for line in lines)
    # bfloat16 keeps 8 bits: logits of size 10 are off by up to 0.04, which averages out over a choice
    _check_against_naive(response, "first", tolerance_per_token=0.05)
    _check_against_naive(response, "second", tolerance_per_token=0.05)

    written = [item for item in response.items if item.task == "demo_reasoning_generate"]
    assert all(set(item.metrics) == {"exact_match"} and item.answer is not None for item in written)
    assert {item.capability for item in written} == {"reasoning"}


@pytest.mark.slow
def test_the_transformers_backend_agrees_with_a_naive_loop(tmp_path):
    engine = {"backend": "hf", "dtype": "float32"}
    response = run_evaluation(_request(MODEL, CHOICE_TASKS, limit=LIMIT, engine=engine), tmp_path)
    _check_against_naive(response, "m", tolerance_per_token=1e-4)  # float32 sums in another order


@pytest.mark.slow
def test_a_prompt_beyond_the_context_stops_before_anything_runs_unless_cutting_is_asked(tmp_path):
    engine = {"backend": "vllm", "dtype": "float32", "max_model_len": 128}
    tasks = ["local_gsm8k", "demo_code", "local_ifeval"]
    with pytest.raises(EvaluationError) as stopped:
        run_evaluation(_request(MODEL, tasks, limit=4, engine=engine), tmp_path / "stop")
    told = str(stopped.value)
    assert "do not fit into the context of" in told and "local_gsm8k: 4 of 4 items, up to" in told
    assert "demo_code" not in told
    assert "items in" not in (tmp_path / "stop" / LOG_FILE).read_text()
    cut = run_evaluation(_request(MODEL, tasks, limit=4, engine={**engine, "overflow": "cut"}), tmp_path / "cut")
    assert any(item.truncated for item in cut.items if item.task == "local_ifeval")
    assert not any(item.truncated for item in cut.items if item.task == "demo_code")
    shortened = [note for note in cut.notes if "answers of at most" in note]
    assert [note.split(":")[0] for note in shortened] == ["local_gsm8k", "local_ifeval"]
    for task in tasks:
        lost = sum(item.truncated for item in cut.items if item.task == task)
        assert (f"{task}: {lost} of 4 prompts of m were cut on the left" in cut.notes) == (lost > 0)
    scored = {item.task: set(item.metrics) for item in cut.items}
    assert scored["local_gsm8k"] == {"exact_match"} and "prompt_strict" in scored["local_ifeval"]


@pytest.mark.slow
@pytest.mark.sandbox
def test_programs_that_the_model_writes_are_judged_in_the_sandbox(tmp_path):
    engine = {"backend": "hf", "dtype": "float32", "overflow": "cut"}
    with pytest.raises(EvaluationError, match="local_mbpp run programs that the model writes; set run_code"):
        run_evaluation(_request(MODEL, ["local_mbpp"], limit=4, engine=engine), tmp_path / "off")
    found = run_evaluation(_request(MODEL, ["local_mbpp"], limit=4, engine=engine, run_code=True), tmp_path / "on")
    assert all(item.metrics == {"pass@1": 0.0} and item.answer for item in found.items)
    assert {item.capability for item in found.items} == {"code"}
