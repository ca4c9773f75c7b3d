"""What `equipoise gc` removes and what it never does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.config import ConfigError
from flows.gc import collect
from flows.runs import find_run, write_run
from flows.store import StageStore, locks
from tests.flows.report_values import config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


def made(root, stage="clean", size=5000, **params):
    """An output of `size` bytes, as a process that has ended has left it."""

    def build(folder):
        (folder / "data.bin").write_bytes(bytes(size))

    folder = StageStore(root).run(stage, build, params=params, inputs={}, code=["flows/gc.py"]).path
    forget_uses(root)
    return folder


def forget_uses(root):
    """As if this process had ended, as far as the store can tell."""
    note = locks._notes.pop(root.resolve())
    note.lock.release()
    note.path.unlink(missing_ok=True)


def record(tmp_path, root, *folders, **changes):
    stages = {}
    for folder in folders:
        stages[folder.parent.name] = StageStore(root).run(
            folder.parent.name, lambda folder: None, params=PARAMS[folder], inputs={}, code=["flows/gc.py"]
        )
    forget_uses(root)
    return write_run(config(tmp_path, store=str(root), **changes), stages)


PARAMS: dict = {}


def output(root, stage="clean", **params):
    folder = made(root, stage, **params)
    PARAMS[folder] = params
    return folder


def aged(*paths, days=100):
    for path in paths:
        then = path.stat().st_mtime - days * 86400
        os.utime(path, (then, then))


def names(found):
    return sorted(str(item.path.name) for item in found.items)


def test_what_no_run_refers_to_goes_after_some_days_and_only_when_asked(tmp_path, root):
    kept, old, new = output(root, n=1), output(root, n=2), output(root, n=3)
    record(tmp_path, root, kept)
    aged(kept, old)
    found = collect(str(root))
    assert names(found) == [old.name] and found.freed["clean"] >= 5000 and found.kept_runs == 1
    assert old.exists()
    assert "nothing was removed: add --yes" in found.in_words(False)
    assert names(collect(str(root), remove=True)) == [old.name]
    assert not old.exists() and kept.exists() and new.exists()
    assert names(collect(str(root), unrecorded_days=0, remove=True)) == [new.name]
    assert collect(str(root), unrecorded_days=0).items == []
    assert find_run("small", root).stage("clean") == kept


def test_superseded_runs_go_with_what_only_they_refer_to(tmp_path, root):
    shared, first, second = output(root, "ingest", n=0), output(root, n=1), output(root, n=2)
    records = [record(tmp_path, root, shared, folder) for folder in (first, second)]
    other = output(root, n=3)
    record(tmp_path, root, shared, other, name="other")
    aged(shared, first, second, other)
    assert collect(str(root)).items == []
    found = collect(str(root), keep=1, remove=True)
    assert names(found) == sorted([first.name, records[0].name])
    assert not first.exists() and not records[0].exists()
    assert all(path.exists() for path in (shared, second, other, records[1]))
    aged(records[1], days=3)
    assert records[1].name in names(collect(str(root), keep_days=2))
    assert collect(str(root), keep=1, keep_days=2).items == []  # what either keeps


def test_what_a_promotion_names_stays(tmp_path, root):
    first, second, loose = output(root, n=1), output(root, n=2), output(root, n=3)
    records = [record(tmp_path, root, folder) for folder in (first, second)]
    aged(first, second, loose)
    (root / "promoted" / "model").mkdir(parents=True)
    (root / "promoted" / "model" / "latest.json").write_text(json.dumps({"run": f"runs/small/{records[0].name}"}))
    (root / "promoted" / "data.json").write_text(json.dumps({"path": [str(loose)]}))
    assert collect(str(root), keep=1, remove=True).items == []
    assert first.exists() and loose.exists() and records[0].exists()


def test_leftovers_go_unless_somebody_may_go_on_with_them(tmp_path, root):
    done = output(root, n=1)
    record(tmp_path, root, done)
    stage, gone = root / "clean", "0" * 20
    leftovers = {
        stage / f"{done.name}.partial": True,
        stage / f"{done.name}.damaged-1": True,
        stage / f"{gone}.partial": False,  # young: an interrupted run will go on
        stage / f"{'1' * 20}.fetched": True,
    }
    for folder in leftovers:
        folder.mkdir()
        (folder / "part.bin").write_bytes(bytes(3000))
    aged(stage / f"{'1' * 20}.fetched")
    (stage / f".{'2' * 20}.lock").touch()
    (stage / "strangers-folder").mkdir()
    (stage / "notes.txt").touch()
    collect(str(root), remove=True)
    assert {folder: not folder.exists() for folder in leftovers} == leftovers
    assert not (stage / f".{'2' * 20}.lock").exists()
    assert (stage / "strangers-folder").exists() and (stage / "notes.txt").exists() and done.exists()


def test_what_a_running_process_holds_or_relies_on_stays(root):
    relied, building = output(root, n=1), output(root, n=2)
    (root / "features" / "a").mkdir(parents=True)
    (root / "features" / "a" / ("3" * 20)).mkdir()
    program = f"""
import sys
from pathlib import Path
from flows.store import StageStore
StageStore(Path({str(root)!r})).run("clean", None, params={{"n": 1}}, inputs={{}}, code=["flows/gc.py"])
print("ready", flush=True)
sys.stdin.read()
"""
    running = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert running.stdout.readline() == "ready\n"
    with locks.held(building, "a build"):
        aged(relied, building, root / "features" / "a", root / "features" / "a" / ("3" * 20))
        found = collect(str(root), unrecorded_days=0, remove=True)
    assert relied.exists() and building.exists() and found.items == []
    told = "\n".join(found.left)
    assert f"in use: {building}" in told and f"in use by process {running.pid} on " in told
    assert (root / "features" / "a" / ("3" * 20)).exists()
    running.kill()
    running.wait()
    aged(relied, building)
    assert {relied.name, building.name} <= set(names(collect(str(root), remove=True)))
    assert not relied.exists() and not (root / "features" / "a").exists()


def shard(folder, name, size=4096):
    path = folder / (name * 20)
    path.mkdir(parents=True)
    (path / "values.npy").write_bytes(bytes(size))
    return path


def test_shards_that_a_kept_gradients_stage_needs_stay(tmp_path, root):
    features = root / "features" / ("f" * 20)
    needed, free = shard(features, "a"), shard(features, "b")
    old = shard(root / "features" / ("e" * 20), "c")
    stage = output(root, "gradients", n=1)
    link = stage / "checkpoint-1" / needed.name
    link.mkdir(parents=True)
    os.link(needed / "values.npy", link / "values.npy")
    PARAMS.pop(stage)
    aged(needed, free, old, features, old.parent)
    found = collect(str(root), remove=True)
    assert names(found) == sorted([free.name, old.parent.name])
    assert found.freed == {"features": 8192}
    assert needed.exists() and not free.exists() and not old.parent.exists()
    aged(stage, needed, features)
    # the last stage goes: the bytes have two names and are counted once
    found = collect(str(root), remove=True)
    assert not stage.exists() and not features.exists()
    assert sum(found.freed.values()) >= 4096 and "features" in {item.kind for item in found.items}
    assert found.freed.get("features", 0) in (0, 4096)


def test_the_command_shows_and_removes(tmp_path, root):
    old = output(root, n=1)
    aged(old)
    shown = CliRunner().invoke(app, ["gc", "--store", str(root)])
    assert shown.exit_code == 0 and "clean" in shown.output and "would be freed" in shown.output and old.exists()
    CliRunner().invoke(app, ["gc", "--store", str(root), "--yes", "--dry-run"])
    assert old.exists()
    removed = CliRunner().invoke(app, ["gc", "--store", str(root), "--yes"])
    assert removed.exit_code == 0 and " freed" in removed.output and not old.exists()


@pytest.mark.parametrize(("store", "told"), [("s3://bucket/store", "a bucket is not"), ("none", "no store at none")])
def test_what_is_no_folder_is_refused(store, told):
    with pytest.raises(ConfigError, match=told):
        collect(store)
