"""The hub on loopback of the readers' tests, with what an upload asks for: making repositories and branches, judging a
card, choosing how a file travels, large-file storage and commits. The real client speaks to it over real sockets.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote

import yaml

from curate.export.licenses import HUB_LICENSES
from tests.curate.sources.hub_server import Hub

TOKEN = "hf_aTokenThatMayWrite"
DEAD = "lab/dead"  # asked for it, the hub hangs up


class Repository(Hub):
    """branches: name -> commit; ignored: files that the hub's .gitignore leaves out of every commit."""

    def __init__(self, name: str, files: dict[str, bytes], *, private: bool, ignored: tuple[str, ...] = ()) -> None:
        super().__init__(name, {}, "")
        self.private, self.ignored, self.branches = private, ignored, {}
        self.messages: list[str] = []
        self.commit("main", files, "start")

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        oid = hashlib.sha1(f"{self.name}{branch}{len(self.commits)}".encode()).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        self.messages.append(message)
        return oid

    def files(self, branch: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[branch]]

    def _commit(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)

    def _info(self, revision: str) -> dict | None:
        told = super()._info(revision)
        return told and {**told, "private": self.private}

    def _listing(self, revision: str, folder: str) -> list[dict] | None:
        """Everything below a folder, whether the client asked for all or for one level: it filters itself."""
        commit = self._commit(revision)
        if commit is None:
            return None
        prefix = f"{folder}/" if folder else ""
        found = {name: content for name, content in self.commits[commit].items() if name.startswith(prefix)}
        folders = {name.rpartition("/")[0] for name in found if "/" in name.removeprefix(prefix)}
        return [
            *({"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in sorted(folders)),
            *(
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in found.items()
            ),
        ]


@dataclass
class UploadHub:
    """repositories by name; stored: large files by sha256; refused: requests without the right token."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    refused: int = 0
    address: str = ""
    serve = Hub.serve

    def answer(self, request) -> None:
        path, _, query = request.path.partition("?")
        path = unquote(path)
        if path.startswith("/store/"):
            self._store(request, path.removeprefix("/store/"))
        elif request.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refused += 1
            self._tell(request, {"error": "Invalid username or password."}, 401)
        elif path in ("/api/repos/create", "/api/validate-yaml"):
            self._outside(request, path, self._body(request))
        else:
            self._inside(request, path, parse_qs(query))

    def _outside(self, request, path: str, body: dict) -> None:
        if path == "/api/validate-yaml":
            errors = card_errors(body["content"])
            self._tell(request, {"errors": errors, "warnings": []}, 400 if errors else 200)
            return
        name = f"{body['organization']}/{body['name']}"
        assert body["type"] == "dataset"
        self.repositories[name] = Repository(name, {".gitattributes": b""}, private=body["visibility"] == "private")
        self._tell(request, {"url": f"{self.address}/datasets/{name}"})

    def _inside(self, request, path: str, query: dict[str, list[str]]) -> None:
        """What is asked of one repository, `owner/name` behind /api/datasets or /datasets."""
        parts = path.removeprefix("/api").removeprefix("/datasets/").split("/")
        name = "/".join(parts[:2]).removesuffix(".git")
        repository, what = self.repositories.get(name), parts[2] if len(parts) > 2 else ""
        if name == DEAD:
            request.connection.shutdown(socket.SHUT_RDWR)
        elif repository is None:
            self._tell(request, {"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        elif what == "branch":
            known = parts[3] in repository.branches
            if not known:
                repository.branches[parts[3]] = repository.branches["main"]
            self._tell(request, {}, 409 if known else 201)
        elif what == "preupload":
            names = [file["path"] for file in self._body(request)["files"]]
            files = [
                {"path": name, "uploadMode": _mode(name), "shouldIgnore": name in repository.ignored} for name in names
            ]
            self._tell(request, {"files": files})
        elif what == "info":
            self._large(request, self._body(request))
        elif what == "commit":
            self._commit(request, repository, parts[3])
        else:
            repository.answer(request)

    def _large(self, request, body: dict) -> None:
        wanted = [file for file in body["objects"] if file["oid"] not in self.stored]
        told = [{**file, "actions": {"upload": {"href": f"{self.address}/store/{file['oid']}"}}} for file in wanted]
        self._tell(request, {"transfer": "basic", "objects": told})

    def _store(self, request, oid: str) -> None:
        content = request.rfile.read(int(request.headers["Content-Length"]))
        assert hashlib.sha256(content).hexdigest() == oid
        assert "Authorization" not in request.headers  # a signed address needs none, and the token is the hub's only
        self.stored[oid] = content
        self._tell(request, {})

    def _commit(self, request, repository: Repository, branch: str) -> None:
        files, message = dict(repository.files(branch)), ""
        for line in request.rfile.read(int(request.headers["Content-Length"])).splitlines():
            key, value = json.loads(line)["key"], json.loads(line)["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.stored[value["oid"]]
            else:
                assert key == "deletedFile"
                del files[value["path"]]
        oid = repository.commit(branch, files, message)
        url = f"{self.address}/datasets/{repository.name}/commit/{oid}"
        self._tell(request, {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    @staticmethod
    def _body(request) -> dict:
        return json.loads(request.rfile.read(int(request.headers.get("Content-Length") or 0)) or b"{}")

    @staticmethod
    def _tell(request, value: dict, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        request.send_response(status)
        plain = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        for name, text in {**plain, **(headers or {})}.items():
            request.send_header(name, text)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)


def card_errors(content: str) -> list[dict[str, str]]:
    """What the hub's own check of a dataset card would refuse of the fields we write."""
    head = yaml.safe_load(content.split("---\n")[1])
    errors = []
    if head["license"] not in HUB_LICENSES:
        errors.append(f'"license" must be one of {sorted(HUB_LICENSES)}')
    if head["license"] == "other" and not head.get("license_name"):
        errors.append('"license_name" is required with license: other')
    if any(not (code.isascii() and code.isalpha() and len(code) in (2, 3)) for code in head.get("language", [])):
        errors.append('"language" must be ISO 639 codes')
    return [{"message": error} for error in errors]


def _mode(path: str) -> str:
    return "lfs" if path.endswith(".parquet") else "regular"
