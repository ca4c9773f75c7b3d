"""The body of an evaluation on stand-ins for models and tasks: what stops it, what is told, what survives a restart."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from eval.errors import EvaluationError
from eval.scoring import item_results
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
