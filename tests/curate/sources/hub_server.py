"""A hub on loopback: the part of the Hugging Face hub's HTTP interface that `datasets` asks for, over real sockets.

The hub itself cannot be reached from a test; with `HF_ENDPOINT` the real `datasets` and `huggingface_hub` speak to
this one. It holds commits of one dataset and a branch `main` that can be moved.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote

ROOT = Path(__file__).parents[3]


def run_client(program: str, asked: Any, address: str, home: Path, **variables: str) -> subprocess.CompletedProcess:
    """Run `program` with `asked` as its JSON argument against the hub at `address`, and see it succeed.

    A process of its own, since the client takes its address from the environment when it is imported.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": address, "HF_HOME": str(home), "PYTHONPATH": str(ROOT)}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", **variables}
    command = [sys.executable, "-c", program, json.dumps(asked)]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


class Hub:
    """commits: commit -> file name -> content; `main` is one of them; asked: paths of the files that were fetched."""

    def __init__(self, name: str, commits: dict[str, dict[str, bytes]], main: str) -> None:
        self.name, self.commits, self.main = name, commits, main
        self.asked: list[str] = []

    @contextmanager
    def serve(self):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hub.answer(self)

            do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 (http.server's names)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def answer(self, request) -> None:
        path = unquote(request.path.partition("?")[0])
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        api, files = f"/api/datasets/{self.name}", f"/datasets/{self.name}/resolve/"
        if path == api or path.startswith(f"{api}/revision/"):
            self._json(request, self._info(path.removeprefix(f"{api}/revision/") if path != api else "main"))
        elif path.startswith(f"{api}/tree/"):
            revision, _, folder = path.removeprefix(f"{api}/tree/").partition("/")
            self._json(request, self._listing(revision, folder))
        elif path.startswith(f"{api}/paths-info/"):
            revision = path.rpartition("/")[2]
            wanted = json.loads(body)["paths"] if body.startswith(b"{") else []
            self._json(request, [entry for entry in self._listing(revision, "") or [] if entry["path"] in wanted])
        elif path.startswith(files):
            self._file(request, *path.removeprefix(files).split("/", 1))
        else:
            self._json(request, None)

    def _commit(self, revision: str) -> str | None:
        commit = self.main if revision == "main" else revision
        return commit if commit in self.commits else None

    def _info(self, revision: str) -> dict | None:
        commit = self._commit(revision)
        if commit is None:
            return None
        siblings = [{"rfilename": name} for name in self.commits[commit]]
        return {"id": self.name, "sha": commit, "private": False, "tags": [], "siblings": siblings}

    def _listing(self, revision: str, folder: str) -> list[dict] | None:
        commit = self._commit(revision)
        if commit is None or folder:  # the files lie at the top
            return None
        return [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in self.commits[commit].items()
        ]

    def _file(self, request, revision: str, name: str) -> None:
        commit = self._commit(revision)
        if commit is None or name not in self.commits[commit]:
            self._json(request, None)
            return
        content = self.commits[commit][name]
        start, end = 0, len(content)
        if wanted := request.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(end, int(last) + 1) if last else end
        request.send_response(206 if wanted else 200)
        request.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        request.send_header("X-Repo-Commit", commit)
        request.send_header("Accept-Ranges", "bytes")
        request.send_header("Content-Length", str(end - start))
        if wanted:
            request.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        request.end_headers()
        if request.command == "GET":
            self.asked.append(f"{commit}/{name}")
            request.wfile.write(content[start:end])

    def _json(self, request, value) -> None:
        body = b"" if value is None else json.dumps(value).encode()
        request.send_response(404 if value is None else 200)
        if value is None:
            request.send_header("X-Error-Code", "EntryNotFound")
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)
