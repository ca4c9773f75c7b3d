"""Uploads through the real client to a hub of ours: private, whole, in one commit, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from curate.export import CardInfo, ExportSettings, export_dataset, pool_sources
from curate.records import Example, Message
from flows.cli import app
from tests.curate.export.upload_hub import TOKEN, Repository, UploadHub
from tests.curate.sources.hub_server import run_client

ROOT = Path(__file__).parents[3]
OLD_SHARD = "data/train-00008-of-00009.parquet"
# one process for all steps
PROGRAM = """
import json, os, sys
from pathlib import Path
from curate.export.push import push_to_hub
for step in json.loads(sys.argv[1]):
    os.environ.pop("HF_TOKEN", None)
    if step.pop("token"):
        os.environ["HF_TOKEN"] = TOKEN if step.pop("right", True) else "hf_wrong"
    try:
        told = push_to_hub(Path(step.pop("folder")), step.pop("repo"), **step)
    except ValueError as error:
        told = f"{type(error).__name__}: {error}"
    print("TOLD", json.dumps(told))
import datasets
os.environ["HF_TOKEN"] = TOKEN
print("TOLD", json.dumps(datasets.load_dataset("lab/set", split="train")["id"][:]))
"""


def export(folder: Path, license: str = "MIT", rows_per_shard: int = 100) -> Path:
    turns = (Message("user", "?"), Message("assistant", "数 \u2028!"))
    examples = [Example(f"r{n}", "s", turns, license=license, domain="d", origin=f"p.jsonl:{n + 1}") for n in range(5)]
    rows = [{"id": example.id, "rank": n, "utility": 1.0 - n, "task": "math"} for n, example in enumerate(examples)]
    card = CardInfo("T", "S.", "M.", pool_sources(examples), languages=("en",))
    export_dataset(folder, examples, rows, card, settings=ExportSettings(rows_per_shard=rows_per_shard))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("push")
    changed = export(root / "changed")
    (changed / "chat.jsonl").write_text("{}\n")
    return {
        "shards": export(root / "shards", rows_per_shard=2),
        "whole": export(root / "whole"),
        "unknown": export(root / "unknown", license="unknown"),
        "changed": changed,
    }


STEPS = {
    "first": {"folder": "shards", "repo": "lab/set"},
    "again": {"folder": "whole", "repo": "lab/set"},
    "branch": {"folder": "shards", "repo": "lab/set", "revision": "v2"},
    "beside other files": {"folder": "whole", "repo": "lab/old"},
    "public unasked": {"folder": "whole", "repo": "lab/open"},
    "public": {"folder": "whole", "repo": "lab/open", "public": True},
    "private unasked": {"folder": "whole", "repo": "lab/old", "public": True},
    "new public": {"folder": "whole", "repo": "lab/new", "public": True},
    "no token": {"folder": "whole", "repo": "lab/none", "token": False},
    "wrong token": {"folder": "whole", "repo": "lab/none", "right": False},
    "bad name": {"folder": "whole", "repo": "lab/set/x"},
    "changed": {"folder": "changed", "repo": "lab/none"},
    "unknown licence": {"folder": "unknown", "repo": "lab/none"},
    "unknown licence, allowed": {"folder": "unknown", "repo": "lab/allowed", "allow_licenses": ["Unknown"]},
    "ignored": {"folder": "whole", "repo": "lab/ignores"},
    "cut off": {"folder": "whole", "repo": "lab/dead"},
}


@pytest.fixture(scope="module")
def pushed(folders, tmp_path_factory):
    """(hub, what each step told, the ids that `datasets` read back), after all steps."""
    hub = UploadHub()
    hub.repositories["lab/old"] = Repository("lab/old", {"notes.txt": b"mine", OLD_SHARD: b"stale"}, private=True)
    hub.repositories["lab/open"] = Repository("lab/open", {}, private=False)
    hub.repositories["lab/ignores"] = Repository("lab/ignores", {}, private=True, ignored=("chat.jsonl",))
    home = tmp_path_factory.mktemp("home")
    steps = [{"token": True, **step, "folder": str(folders[step["folder"]])} for step in STEPS.values()]
    with hub.serve() as address:
        hub.address = address
        program = PROGRAM.replace("TOKEN if", f"{TOKEN!r} if").replace('"] = TOKEN', f'"] = {TOKEN!r}')
        done = run_client(program, steps, address, home)
    told = [json.loads(line.removeprefix("TOLD ")) for line in done.stdout.splitlines() if line.startswith("TOLD ")]
    leaks = [path for path in home.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert not leaks and TOKEN not in done.stdout + done.stderr
    return hub, dict(zip(STEPS, told[:-1], strict=True)), told[-1]


def test_the_folder_arrives_as_it_is_privately_and_opens(pushed, folders):
    hub, told, read = pushed
    repository = hub.repositories["lab/set"]
    assert repository.private
    first, second = list(repository.commits.values())[1:3]
    assert first == {**contents(folders["shards"]), ".gitattributes": b""}
    assert second == {**contents(folders["whole"]), ".gitattributes": b""}  # no shard of the first is left
    assert told["first"].startswith(f"{hub.address}/datasets/lab/set/commit/")
    assert repository.messages == ["start", *["Dataset selected with Equipoise"] * 3]
    assert repository.files("v2") == first and repository.files() == second
    assert read == [f"r{n}" for n in range(5)]


def test_files_of_others_stay_and_old_shards_go(pushed, folders):
    assert pushed[0].repositories["lab/old"].files() == {**contents(folders["whole"]), "notes.txt": b"mine"}


def test_who_may_see_it_is_what_was_asked_for(pushed, folders):
    hub, told, _ = pushed
    assert told["public unasked"] == (
        "PushError: lab/open exists and is public; give --public to upload there, or another name"
    )
    assert "lab/old exists and is private; make it public in its settings" in told["private unasked"]
    assert hub.repositories["lab/open"].files() == contents(folders["whole"])
    assert not hub.repositories["lab/new"].private


def test_what_stops_an_upload_makes_no_repository(pushed):
    hub, told, _ = pushed
    assert "lab/none" not in hub.repositories
    assert told["no token"].startswith("PushError: lab/none: no token of the hub; set HF_TOKEN, or log in once with")
    assert told["wrong token"].startswith("PushError: lab/none: the hub refused the upload") and hub.refused
    assert "the token is not valid; set another in HF_TOKEN" in told["wrong token"]
    assert told["bad name"].startswith("PushError: 'lab/set/x' is not the name of a repository")
    assert told["changed"].startswith("ManifestError: ") and "chat.jsonl was changed" in told["changed"]
    assert told["unknown licence"].startswith(
        "LicenseError: the licence 'unknown' is not known to permit passing on its 5 rows"
    )
    assert "--allow-license 'unknown'" in told["unknown licence"]
    assert "lab/allowed" in hub.repositories


def test_a_connection_that_breaks_is_told(pushed):
    assert pushed[1]["cut off"].startswith("PushError: lab/dead: the upload did not finish (RemoteProtocolError: ")


def test_a_file_that_the_hub_left_out_is_told(pushed):
    assert pushed[1]["ignored"].startswith(
        "PushError: lab/ignores: after the upload the hub does not have chat.jsonl; see whether a .gitignore"
    )


@pytest.mark.parametrize(
    ("name", "code", "message"), [("changed", 1, "chat.jsonl was changed"), ("unknown", 2, "licence")]
)
def test_the_command_tells_what_is_wrong(folders, name, code, message):
    result = CliRunner().invoke(app, ["push", str(folders[name]), "lab/none"])
    assert result.exit_code == code and message in result.output
