"""A vLLM server that already runs, behind the harness's interface: the OpenAI-compatible completions API with echo.

The server keeps its models loaded and may stand on another machine; adapters are models of their own names there.
Log-likelihoods come from the prompt's own log-probabilities (`echo`), which vLLM's server gives and most hosted APIs do
not; an answer without them is refused, since the client would take it for a certain one. The token is read from the
environment (`EQUIPOISE_SERVER_TOKEN`) and taken out of what the client logs, so it never stands in a file. Cost: one
request per item and choice, several under way at once.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from eval.errors import EvaluationError
from eval.request import EngineSettings

TOKEN = "EQUIPOISE_SERVER_TOKEN"


def _headers() -> dict[str, str]:
    token = os.environ.get(TOKEN, "").strip()
    if not (token.isascii() and token.isprintable()):  # the client's own message would show it
        raise EvaluationError(f"{TOKEN} holds characters that no header can carry; set it to the token alone")
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
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException) as error:
        raise EvaluationError(
            f"engine.url: no OpenAI-compatible server answers at {address} ({error}); start one with `vllm serve`"
        ) from error
    return {model["id"]: model.get("max_model_len") for model in listed}


def served_model(settings: EngineSettings) -> Any:
    """What makes an LM of a model's name and tokenizer, as the engine's other model classes do."""
    assert settings.url is not None
    return partial(_served, settings, served_names(settings.url))


def _served(settings: EngineSettings, names: dict[str, int | None], *, model: str, tokenizer: str) -> Any:
    from transformers import AutoTokenizer

    if model not in names:
        raise EvaluationError(
            f"the server at {settings.url} does not serve {model!r}; it serves {', '.join(sorted(names))}"
        )
    context = min(filter(None, (settings.max_model_len, names[model])), default=2048)
    own = AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=settings.trust_remote_code)
    # a chat template writes the first token itself; without one the engines put it before the text, the client does not
    adds_bos = own.bos_token_id is not None and own("a").input_ids[0] == own.bos_token_id
    client = _client_class(str(settings.url))(
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


def _client_class(url: str) -> Any:
    """The harness's client, which says what a failed request means."""
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    class Client(LocalCompletionsAPI):
        @staticmethod
        def parse_logprobs(outputs: Any, tokens: Any = None, ctxlens: Any = None, **kwargs: Any) -> Any:
            _check_echo(url, outputs if isinstance(outputs, list) else [outputs], tokens)
            return LocalCompletionsAPI.parse_logprobs(outputs, tokens=tokens, ctxlens=ctxlens, **kwargs)

        def loglikelihood(self, *arguments: Any, **options: Any) -> Any:
            with _failures_told(url):
                return super().loglikelihood(*arguments, **options)

        def generate_until(self, *arguments: Any, **options: Any) -> Any:
            with _failures_told(url):
                return super().generate_until(*arguments, **options)

    return Client


def _check_echo(url: str, outputs: Sequence[Any], tokens: Sequence[Sequence[int]]) -> None:
    """Every answer has a log-probability per token of its prompt, and one of the token that was generated."""
    choices = sorted((choice for out in outputs for choice in out["choices"]), key=lambda choice: choice["index"])
    for choice, asked in zip(choices, tokens, strict=True):
        found = (choice.get("logprobs") or {}).get("token_logprobs") or []
        if len(found) != len(asked) + 1:
            raise EvaluationError(
                f"engine.url: the server at {url} gave {len(found)} log-probabilities for a prompt of {len(asked)} "
                "tokens, so it cannot score given text (`echo` with `logprobs`); use `vllm serve`, or tasks of written "
                "answers only"
            )


@contextmanager
def _failures_told(url: str) -> Iterator[None]:
    """One line instead of the client's traceback, and no token in the log, where the client shows whole requests."""
    from aiohttp import ClientError

    def redact(record: logging.LogRecord) -> bool:
        token = os.environ.get(TOKEN, "").strip()
        if token:
            record.msg, record.args = record.getMessage().replace(token, "***"), None
        return True

    logger = logging.getLogger("lm_eval.models.api_models")
    logger.addFilter(redact)
    try:
        yield
    except EvaluationError:
        raise
    except (ClientError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
        first_line = (str(error).strip().splitlines() or [""])[0]
        raise EvaluationError(
            f"engine.url: the server at {url} no longer answers as it should ({type(error).__name__}: {first_line}); "
            "look at its log, start it again and give the same command: finished results are kept"
        ) from error
    finally:
        logger.removeFilter(redact)
