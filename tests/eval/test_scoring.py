"""The body of an evaluation on stand-ins for models and tasks: what stops it, what is told, what survives a restart."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from eval import scoring
from eval.engine import Engine
from eval.errors import EvaluationError
from eval.request import EngineInfo, EngineSettings, EvaluationRequest, ItemResult
from eval.scoring import evaluate, item_results
from eval.tasks import LoadedTask, TaskSpec

LM = SimpleNamespace(max_length=100, max_gen_toks=16, tokenizer=lambda text, **_: {"input_ids": text.split()})


def _choice_task():
    return LoadedTask("t", TaskSpec("t", {}), SimpleNamespace(doc_to_text=lambda doc: "which?"))


def _sample(likelihoods, acc=1.0):
    return {
        "doc": {"id": "i"},
        "doc_id": 0,
        "filter": "none",
        "metrics": ["acc"],
        "acc": acc,
        "filtered_resps": [(likelihood, False) for likelihood in likelihoods],
        "arguments": [("which?", " one")],
    }


def test_a_log_likelihood_that_is_no_number_never_scores():
    (item,) = item_results("m", _choice_task(), [_sample([-1.0, -2.0])], [{}], LM)
    assert item.log_likelihoods == (-1.0, -2.0)
    for broken in ([float("nan"), -1.0], [-1.0, float("-inf")]):
        with pytest.raises(
            EvaluationError, match=r"model 'm', task t, item 'i': .* NaN or infinite; the model's weights"
        ):
            item_results("m", _choice_task(), [_sample(broken)], [{}], LM)
    with pytest.raises(EvaluationError, match="NaN or infinite"):
        item_results("m", _choice_task(), [_sample([-1.0], acc=float("nan"))], [{}], LM)


class _Engine(Engine):
    """Loads stand-ins whose tokenizers, named by the models' paths, make as many tokens of a word."""

    on_cpu = True
    info = EngineInfo(backend="vllm", device="none", dtype="float32", python="3", versions={})

    def __init__(self, settings, seed):
        self.settings, self.seed, self.notes, self.loaded = settings, seed, [], []
        _Engine.last = self

    def _load(self, model, stack):
        self.loaded.append(model.name)
        each = int(model.path)

        def tokenizer(text, **_):
            return {"input_ids": text.split() * each}

        tokenizer.chat_template = None
        return SimpleNamespace(max_length=20, max_gen_toks=16, tokenizer=tokenizer)

    def _free(self):
        pass


class _Task:
    """A task of one written answer to a prompt of six words."""

    OUTPUT_TYPE = "generate_until"
    instances = (SimpleNamespace(doc_id=0, args=("one two three four five six", {"max_gen_toks": 8})),)

    def __init__(self, metric="exact_match"):
        self.config, self.metric = SimpleNamespace(generation_kwargs={"max_gen_toks": 30}), metric

    def aggregation(self):
        return {self.metric: None}

    def build_all_requests(self, **_):
        pass

    def set_config(self, key, value, update):
        self.config.generation_kwargs |= value


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Evaluate models (name → path, adapter) on stand-ins; returns the call and the engine's class."""
    tasks = [LoadedTask(name, TaskSpec(name, name), _Task()) for name in ("first", "second")]
    monkeypatch.setattr(scoring, "Engine", _Engine)
    monkeypatch.setattr(scoring, "resolve", lambda names, folder: [task.spec for task in tasks])
    monkeypatch.setattr(scoring, "load", lambda specs, seed: tasks)
    monkeypatch.setattr(scoring, "check_fit", lambda model, trust: None)

    def answer(lm, model, task, request):
        cut = len(lm.tokenizer("one two three four five six")["input_ids"]) > 12
        return [ItemResult(model=model.name, task=task.name, item_id="i", metrics={"exact_match": 1}, truncated=cut)]

    monkeypatch.setattr(scoring, "_evaluate_task", answer)

    def call(models, say=lambda line: None, **engine):
        request = EvaluationRequest(
            models=[{"name": name, "path": path, "adapter": adapter} for name, path, adapter in models],
            tasks=("first", "second"),
            engine=EngineSettings.model_validate(engine),
        )
        return evaluate(request, tmp_path, say)

    return SimpleNamespace(call=call, tasks=tasks)


def test_a_model_with_another_tokenizer_is_checked_against_the_context_too(asked):
    asked.call([("short", "1", None)])
    with pytest.raises(EvaluationError, match=r"context of 20 tokens \(first: 1 of 1 items, up to 26 tokens"):
        asked.call([("short", "1", None), ("long", "3", None)])
    assert _Engine.last.loaded == ["long"]


def test_the_notes_of_a_run_that_was_killed_are_those_of_one_that_was_not(asked, tmp_path):
    models = [("base", "1", None), ("tuned", "1", "adapter"), ("other", "3", None)]
    whole = asked.call(models, overflow="cut")
    assert [note.split(":")[0] for note in whole.notes] == [
        "adapters were merged into their base weights",
        *(("first", "second") * 2),
    ]
    assert "first: 1 of 1 prompts of other were cut on the left" in whole.notes
    assert "first: answers of at most 10 tokens instead of 30, half of the context" in whole.notes
    again = asked.call(models, overflow="cut")
    assert (again.notes, again.items, _Engine.last.loaded) == (whole.notes, whole.items, [])


def test_a_task_that_no_table_can_show_is_refused_before_anything_is_loaded(asked):
    asked.tasks[1].task.metric = "word_perplexity"
    with pytest.raises(EvaluationError, match=r"tasks: second measures word_perplexity; tables know acc, "):
        asked.call([("base", "1", None)])
