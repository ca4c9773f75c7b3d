"""A vLLM server that already runs, behind the harness's interface: the OpenAI-compatible completions API with echo.

The server keeps its models loaded and may stand on another machine; adapters are models of their own names there.
Log-likelihoods come from the prompt's own log-probabilities (`echo`), which vLLM's server gives and most hosted APIs do
not. The token is read from the environment (`EQUIPOISE_SERVER_TOKEN`), so it never stands in a file. Cost: one request
per item and choice, several under way at once.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from functools import partial
from typing import Any

from eval.errors import EvaluationError
from eval.request import EngineSettings

TOKEN = "EQUIPOISE_SERVER_TOKEN"


def _headers() -> dict[str, str]:
    token = os.environ.get(TOKEN)
    return {"Authorization": f"Bearer {token}"} if token else {}


def served_names(url: str, timeout_s: float = 30) -> dict[str, int | None]:
    """Name → context in tokens of every model that the server offers. Raises `EvaluationError` when it does not
    answer as such a server does."""
    address = f"{url.rstrip('/')}/models"
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=_headers()), timeout=timeout_s) as answer:
            listed = json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        hint = f"; set {TOKEN} to its token" if error.code in (401, 403) else ""
        raise EvaluationError(f"engine.url: {address} answered {error.code} {error.reason}{hint}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"engine.url: no OpenAI-compatible server answers at {address} ({error}); start one with `vllm serve`"
        ) from error
    return {model["id"]: model.get("max_model_len") for model in listed}


def served_model(settings: EngineSettings) -> Any:
    """What makes an LM of a model's name and tokenizer, as the engine's other model classes do."""
    assert settings.url is not None
    return partial(_served, settings, served_names(settings.url))


def _served(settings: EngineSettings, names: dict[str, int | None], *, model: str, tokenizer: str) -> Any:
    from lm_eval.models.openai_completions import LocalCompletionsAPI
    from transformers import AutoTokenizer

    if model not in names:
        raise EvaluationError(
            f"the server at {settings.url} does not serve {model!r}; it serves {', '.join(sorted(names))}"
        )
    context = settings.max_model_len or names[model] or 2048
    own = AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=settings.trust_remote_code)
    # a chat template writes the first token itself; without one the engines put it before the text, the client does not
    adds_bos = own.bos_token_id is not None and own("a").input_ids[0] == own.bos_token_id
    client = LocalCompletionsAPI(
        base_url=f"{str(settings.url).rstrip('/')}/completions",
        model=model,
        tokenizer=tokenizer,
        tokenizer_backend="huggingface",
        add_bos_token=adds_bos and not own.chat_template,
        max_length=context + 1,  # the client takes one off
        num_concurrent=settings.concurrency,
        timeout=settings.timeout_s,
        trust_remote_code=settings.trust_remote_code,
        revision=None,
        header=_headers() or None,
    )
    client.max_gen_toks = client._max_gen_toks  # where the harness's other models have it
    return client
