"""The store where the disk is full, cannot be written, is shared, or holds what somebody planted."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.config import ConfigError
from flows.runs import find_run, write_run
from flows.store import MANIFEST, StageOutput, StageStore, StoreError
from flows.store.digests import source_digest, value_digest
from flows.store.folder import is_inside
from tests.flows.report_values import config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path):
    return StageStore(tmp_path / "store")


def run(store, build=None, **changes):
    """build: None where nothing may be built."""
    given = {"params": {}, "inputs": {}, "code": ["flows/gc.py"], **changes}
    return store.run("stage", build or unexpected, **given)


def unexpected(folder):
    raise AssertionError("it should have been found")


def write(folder):
    (folder / "data.txt").write_text("some rows")


@contextlib.contextmanager
def mounted(folder, *options):
    """A mount that is taken away afterwards; skips where this user may not mount."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs a mount, which only root may do: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def read_only(folder):
    with mounted(folder, "--bind", str(folder)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield


# full


def fill(path):
    with contextlib.suppress(OSError), path.open("wb") as file:
        while True:
            file.write(bytes(1 << 16))


def in_a_child(folder):
    """Writes as a training process does: the number of the error does not reach this process, its words do."""
    command = ["dd", "if=/dev/zero", f"of={folder / 'weights.bin'}", "bs=64k", "count=200"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"fine-tuning: {done.stderr}")


def large(folder):
    (folder / "rows.bin").write_bytes(bytes(12 << 20))


def hidden(folder):
    """As torch does, which says only that writing failed."""
    try:
        large(folder)
    except OSError:
        raise RuntimeError("failed writing file") from None


@pytest.mark.parametrize("build", [large, in_a_child, hidden])
def test_a_full_disk_is_one_message_and_the_next_run_goes_on(tmp_path, build):
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=16m", "none") as disk:
        store = StageStore(disk / "store")
        fill_to = disk / "other.bin"
        fill_to.write_bytes(bytes(8 << 20))
        with pytest.raises(StoreError) as failure:
            run(store, build)
        told = str(failure.value)
        assert f"store {store.root}: no space left while stage stage was written" in told
        assert "Free more than that" in told and "the stage had written" in told
        assert not list(store.root.glob(f"stage/*/{MANIFEST}"))
        fill_to.unlink()
        assert run(store, build).cached is False
        assert run(store).cached


FIND = """
import sys
from pathlib import Path
from flows.store import StageStore
print(StageStore(Path(sys.argv[1])).run("stage", None, params={}, inputs={}, code=["flows/gc.py"]).path)
"""


def test_a_full_disk_still_serves_what_is_there(tmp_path):
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=1m", "none") as disk:
        store = StageStore(disk / "store")
        first = run(store, write)
        fill(disk / "other.bin")
        done = subprocess.run(
            [sys.executable, "-c", FIND, str(store.root)], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == str(first.path)


# read-only


def test_a_read_only_store_serves_what_is_complete_and_refuses_the_rest(tmp_path, store):
    output = run(store, write)
    recorded = write_run(config(tmp_path, store=str(store.root)), {"stage": output})
    with read_only(store.root):
        assert run(store).path == output.path
        with pytest.raises(StoreError, match=r"cannot be written .* no complete output of stage stage .*--set store="):
            run(store, write, params={"n": 2})
        assert write_run(config(tmp_path, store=str(store.root)), {"stage": output}) == recorded
        other = StageOutput("stage", "0" * 20, store.root, True, 1.0)
        assert write_run(config(tmp_path, store=str(store.root)), {"stage": other}) is None
        assert find_run("small", store.root).stage("stage") == output.path
    (output.path / "data.txt").write_text("damaged")
    with read_only(store.root), pytest.raises(StoreError, match=r"cannot be written .*data\.txt has changed"):
        run(store)


# shared


SLOW = """
import logging, sys, time
from pathlib import Path
from flows.store import StageStore
logging.basicConfig(format="%(message)s", level=logging.WARNING)
def build(folder):
    print("building", flush=True)
    sys.stdin.readline()
    (folder / "data.txt").write_text("some rows")
output = StageStore(Path(sys.argv[1])).run("stage", build, params={}, inputs={}, code=["flows/gc.py"])
print("cached" if output.cached else "built", flush=True)
"""


def start(root):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", SLOW, str(root)], cwd=ROOT, text=True, **pipes)


def test_of_two_processes_one_builds_and_the_other_says_for_whom_it_waits(tmp_path):
    first = start(tmp_path)
    assert first.stdout.readline() == "building\n"
    second = start(tmp_path)
    told = second.stderr.readline()
    assert f"stage stage: waiting for process {first.pid} on " in told and "(there since 20" in told
    assert first.communicate("\n", timeout=60)[0] == "built\n"
    assert second.communicate(timeout=60)[0] == "cached\n"


def test_a_killed_holder_frees_its_lock(tmp_path):
    first = start(tmp_path)
    assert first.stdout.readline() == "building\n"
    second = start(tmp_path)
    assert f"waiting for process {first.pid}" in second.stderr.readline()
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert second.stdout.readline() == "building\n"
    assert second.communicate("\n", timeout=60)[0] == "built\n"


PARENT = """
import sys
from pathlib import Path
from train.process import run_process
child = '''
import sys, time
sys.path.insert(0, ".")
from train.process import end_with_parent
end_with_parent()
print("child", flush=True)
time.sleep(600)
'''
launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
run_process([sys.executable, "-c", launcher], Path(sys.argv[1]), lambda line: print(line, flush=True))
"""


def test_what_a_killed_run_had_started_ends_too(tmp_path):
    """Also behind a launcher: left alone, it would go on writing where the next run works."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "log")], cwd=ROOT, text=True, stdout=subprocess.PIPE
    )
    assert parent.stdout.readline() == "child\n"
    tree = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent.pid)], capture_output=True, text=True).stdout
    launcher = int(tree)
    child = int(subprocess.run(["ps", "-o", "pid=", "--ppid", str(launcher)], capture_output=True, text=True).stdout)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{child}").exists()


# other versions and clocks


def edit_manifest(output, change, seal=True):
    path = output.path / MANIFEST
    told = json.loads(path.read_text())
    change(told)
    if seal:
        told.pop("checksum", None)
        told["checksum"] = value_digest(told)
    path.write_text(json.dumps(told))


def test_a_manifest_of_an_older_version_is_believed_for_its_files(store):
    output = run(store, write)
    edit_manifest(output, lambda told: [told.pop(name) for name in ("format", "checksum")], seal=False)
    assert run(store).cached
    (output.path / "data.txt").write_text("other rows")
    assert run(store, write).cached is False


def test_a_manifest_of_a_newer_version_is_refused_not_removed(store):
    output = run(store, write)
    edit_manifest(output, lambda told: told.update(format=2))
    with pytest.raises(StoreError, match="format 2, this version of Equipoise reads up to 1"):
        run(store)
    assert output.path.exists()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"seconds": 99.0}, "manifest.json has changed"),
        ({"rows": {"rows_in": 9}}, "manifest.json has changed"),
        ({"key": "0" * 20}, "of another key"),
        ({"files": {"../../secret": {"sha256": "", "bytes": 1}}}, "names '../../secret', which is no file"),
    ],
)
def test_a_changed_manifest_is_damage(store, changed, told, caplog):
    output = run(store, write)
    edit_manifest(output, lambda manifest: manifest.update(changed), seal="has changed" not in told)
    assert run(store, write).cached is False
    assert told in caplog.text and "set aside" in caplog.text


def test_every_flipped_bit_of_a_manifest_is_found(store):
    output = run(store, write)
    path = output.path / MANIFEST
    whole = path.read_bytes()
    from flows.store.folder import DamagedError, read_manifest

    read_manifest(whole, output.key)
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 7
        try:
            told = read_manifest(bytes(flipped), output.key)
        except (DamagedError, StoreError):
            continue
        assert json.loads(whole) == told  # white space


def test_an_older_record_is_found_and_a_newer_one_refused(tmp_path, store):
    output = run(store, write)
    path = write_run(config(tmp_path, store=str(store.root)), {"stage": output})
    told = json.loads(path.read_text())
    older = path.with_name("20990101T000000Z.json")
    older.write_text(json.dumps({name: told[name] for name in told if name not in ("format", "number")}))
    assert find_run("small@2099", store.root).record == older
    assert find_run("small", store.root).record == path  # what has a number is later than what has none
    path.write_text(json.dumps(told | {"format": 2}))
    with pytest.raises(ConfigError, match="format 2, this version of Equipoise reads up to 1"):
        find_run("small", store.root)


def test_a_clock_that_is_set_back_changes_no_order_and_no_duration(tmp_path, store, monkeypatch):
    output = run(store, write)
    first = write_run(config(tmp_path, store=str(store.root)), {"stage": output})
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 1e8)
    monkeypatch.setattr(time, "gmtime", lambda *seconds: time.struct_time((2001, 1, 1, 0, 0, 0, 0, 1, 0)))
    second = write_run(config(tmp_path, store=str(store.root), seed=3), {"stage": output})
    assert second.name.endswith("20010101T000000Z.json") and second.name > first.name
    assert find_run("small", store.root).config["seed"] == 3

    def backwards(folder):
        write(folder)
        monkeypatch.setattr(time, "time", lambda: now - 2e8)

    assert 0 <= run(store, backwards, params={"n": 2}).seconds < 60


def test_a_record_cut_short_by_a_kill_is_none(tmp_path, store):
    output = run(store, write)
    path = write_run(config(tmp_path, store=str(store.root)), {"stage": output})
    (path.parent / "0002-20990101T000000Z.partial").write_text('{"name": "sm')
    assert find_run("small", store.root).record == path
    assert write_run(config(tmp_path, store=str(store.root)), {"stage": output}).name.startswith("0002-")


def test_templates_and_task_sets_are_part_of_the_code(tmp_path, monkeypatch):
    monkeypatch.setattr("flows.store.digests.ROOT", tmp_path)
    room = tmp_path / "room"
    (room / "published").mkdir(parents=True)
    (room / "work.py").write_text("")
    seen = {source_digest(["room"])}
    for name in ("published/set.yaml", "page.html", "page.css", "page.js"):
        (room / name).write_text("first")
        seen.add(source_digest(["room"]))
        (room / name).write_text("second")
        seen.add(source_digest(["room"]))
    assert len(seen) == 9
    (room / "notes.txt").write_text("none of the code")
    assert source_digest(["room"]) in seen


# planted


class Bomb:
    """What would run when somebody unpickles it."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_a_link_in_a_stage_is_damage_even_to_the_same_bytes(tmp_path, store):
    for number, plant in enumerate(("file", "folder", "whole")):
        output = run(store, write, params={"n": number})
        outside = tmp_path / f"outside-{number}"
        if plant == "file":
            (output.path / "data.txt").rename(outside)
            (output.path / "data.txt").symlink_to(outside)
        elif plant == "folder":
            outside.mkdir()
            (output.path / "more").symlink_to(outside, target_is_directory=True)
        else:
            output.path.rename(outside)
            output.path.symlink_to(outside, target_is_directory=True)
        assert run(store, write, params={"n": number}).cached is False
        assert outside.exists() and not (output.path / "data.txt").is_symlink()


def test_a_builder_that_leaves_a_link_is_refused(store):
    with pytest.raises(StoreError, match="is no plain file"):
        run(store, lambda folder: (folder / "link").symlink_to("/etc/passwd"))


@pytest.mark.parametrize("stage", ["../outside", "a/b", "", ".hidden", "..", "/etc"])
def test_a_stage_s_name_stays_in_the_store(store, stage):
    with pytest.raises(StoreError, match="cannot be the name of a stage"):
        store.run(stage, write, params={}, inputs={}, code=["flows/gc.py"])


@pytest.mark.parametrize("name", ["..", ".", "../other", "/etc", ".hidden", "a/../b"])
def test_a_run_s_name_stays_in_the_store(tmp_path, store, name):
    with pytest.raises(ConfigError, match="name"):
        config(tmp_path, name=name)
    with pytest.raises(ConfigError, match="cannot be a run's name"):
        find_run(name, store.root)


@pytest.mark.parametrize("planted", [{"stage": ".."}, {"key": "../../outside"}, {"stage": "/etc"}, {"key": None}])
def test_a_record_names_nothing_outside_its_store(tmp_path, store, planted):
    path = write_run(config(tmp_path, store=str(store.root)), {"stage": run(store, write)})
    told = json.loads(path.read_text())
    told["stages"]["stage"] |= planted
    path.write_text(json.dumps(told))
    with pytest.raises(ConfigError, match="which is no place in a store"):
        find_run("small", store.root)


def test_names_that_leave_a_folder():
    assert all(is_inside(name) for name in ("a", "a/b.txt", "a/.b", "a..b"))
    assert not any(is_inside(name) for name in ("", "/a", "../a", "a/../b", "a//b", "a/", "./a", "a\\b", "a\0", None))


@pytest.mark.parametrize("text", ["s3://key:secret@bucket/x", "nosuch://bucket", ""])
def test_a_store_s_place_is_checked_with_the_configuration(tmp_path, text):
    with pytest.raises(ConfigError, match="store:"):
        config(tmp_path, store=text)


def test_a_bomb_in_place_of_the_manifest_is_text_that_cannot_be_read(tmp_path, store):
    output = run(store, write)
    mark = tmp_path / "exploded"
    (output.path / MANIFEST).write_bytes(pickle.dumps(Bomb(mark)))
    assert run(store, write).cached is False
    assert not mark.exists()
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists() and os.path.exists(output.path)  # noqa: PTH110  (the bomb is one)
