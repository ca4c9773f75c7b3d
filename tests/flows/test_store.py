"""The stage store: what is found again, what is built anew, and what is never trusted."""

from __future__ import annotations

import json
import shutil
import threading
import time

import pytest

import flows.store.digests
from flows.store import MANIFEST, Accounting, StageStore, StoreError, path_digest

ROWS = {"rows_in": 5, "rows_out": 3, "duplicates": 2}


class Builder:
    """Writes two files, a small one and one in a folder, and counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, folder):
        self.calls += 1
        (folder / "part").mkdir()
        (folder / "data.txt").write_text("some rows")
        (folder / "part" / "more.bin").write_bytes(bytes(range(256)))
        return Accounting(5, 3, duplicates=2)


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A source folder of our own, so that a test can change the code a stage depends on."""
    monkeypatch.setattr(flows.store.digests, "ROOT", tmp_path / "root")
    room = tmp_path / "root" / "room"
    room.mkdir(parents=True)
    (room / "work.py").write_text("VERSION = 1\n")
    (tmp_path / "root" / "other.py").write_text("VERSION = 1\n")
    return room


@pytest.fixture
def store(tmp_path, code):
    return StageStore(tmp_path / "store")


def run(store, build, *, params=None, inputs=None, code=("room",), resumable=False):
    return store.run(
        "stage",
        build,
        params={"limit": 3} if params is None else params,
        inputs={"pool": "abc"} if inputs is None else inputs,
        code=list(code),
        resumable=resumable,
    )


def test_a_second_run_finds_the_output_and_builds_nothing(store):
    build = Builder()
    first, second = run(store, build), run(store, build)
    assert build.calls == 1
    assert (first.cached, second.cached) == (False, True)
    assert (second.key, second.path, second.rows, second.seconds) == (first.key, first.path, ROWS, first.seconds)
    assert first.path == store.root / "stage" / first.key


def test_the_manifest_says_what_made_the_output(store):
    output = run(store, Builder())
    manifest = json.loads((output.path / MANIFEST).read_text())
    assert (manifest["stage"], manifest["key"], manifest["rows"]) == ("stage", output.key, ROWS)
    assert (manifest["params"], manifest["inputs"]) == ({"limit": 3}, {"pool": "abc"})
    assert {name: file["bytes"] for name, file in manifest["files"].items()} == {"data.txt": 9, "part/more.bin": 256}
    assert "torch" in manifest["versions"]


@pytest.mark.parametrize(
    "changed",
    [{"params": {"limit": 4}}, {"inputs": {"pool": "abd"}}, {"inputs": {"pool": "abc", "targets": "x"}}],
    ids=["parameter", "input", "one more input"],
)
def test_a_change_of_what_made_it_builds_anew_and_keeps_the_old(store, changed):
    build = Builder()
    first = run(store, build)
    other = run(store, build, **changed)
    assert build.calls == 2
    assert other.key != first.key
    assert run(store, build).path == first.path
    assert build.calls == 2


def test_changed_code_builds_anew_and_other_code_does_not(store, code):
    build = Builder()
    first = run(store, build)
    (code.parent / "other.py").write_text("VERSION = 2\n")
    assert run(store, build).key == first.key
    (code / "work.py").write_text("VERSION = 2\n")
    assert run(store, build).key != first.key
    (code / "work.py").rename(code / "renamed.py")
    assert run(store, build).key not in {first.key, run(store, build, code=["other.py"]).key}


def test_code_that_is_not_there_is_an_error(store):
    with pytest.raises(StoreError, match="no source file in"):
        run(store, Builder(), code=["rooom"])


def fail_midway(folder):
    (folder / "half.txt").write_text("half")
    raise ValueError("row 7 is bad")


def test_what_a_failed_build_left_is_wiped_before_the_next(store):
    with pytest.raises(ValueError, match="row 7 is bad"):
        run(store, fail_midway)
    assert [path.name for path in (store.root / "stage").glob("*/*")] == ["half.txt"]

    def build(folder):
        assert list(folder.iterdir()) == []
        return Builder()(folder)

    output = run(store, build)
    assert not output.cached
    assert not (output.path / "half.txt").exists()


def test_a_resumable_build_goes_on_with_what_an_earlier_one_left(store):
    with pytest.raises(ValueError, match="row 7 is bad"):
        run(store, fail_midway, resumable=True)

    def build(folder):
        (folder / "whole.txt").write_text((folder / "half.txt").read_text() * 2)

    output = run(store, build, resumable=True)
    assert (output.path / "whole.txt").read_text() == "halfhalf"
    assert run(store, build, resumable=True).cached


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "flipped bit": lambda folder: flip_a_bit(folder / "part" / "more.bin"),
    "truncated file": lambda folder: (folder / "data.txt").write_text("some"),
    "missing file": lambda folder: (folder / "data.txt").unlink(),
    "additional file": lambda folder: (folder / "stray.txt").write_text("?"),
    "truncated manifest": lambda folder: (folder / MANIFEST).write_text('{"files": {"data'),
    "manifest without files": lambda folder: (folder / MANIFEST).write_text("{}"),
    "no manifest": lambda folder: (folder / MANIFEST).unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_output_is_set_aside_and_built_again(store, damage, caplog):
    build = Builder()
    first = run(store, build)
    damage(first.path)
    again = run(store, build)
    assert build.calls == 2
    assert not again.cached
    assert again.path == first.path
    assert (again.path / "data.txt").read_text() == "some rows"
    (aside,) = (store.root / "stage").glob("*.damaged-*")
    assert aside.name.startswith(first.key)
    assert f"set aside as {aside}" in caplog.text
    assert run(store, build).cached


def test_output_damaged_twice_in_a_row_is_set_aside_twice(store):
    build = Builder()
    for _ in range(3):
        (run(store, build).path / "data.txt").write_text("damage")
    assert run(store, build).cached is False
    assert len(list((store.root / "stage").glob("*.damaged-*"))) == 3


@pytest.mark.parametrize("rows", [Accounting(5, 3), Accounting(5, 3, duplicates=1), Accounting(5, 3, a=1, b=2)])
def test_rows_that_do_not_add_up_stop_the_stage(store, rows):
    with pytest.raises(StoreError, match="stage stage lost rows"):
        run(store, lambda folder: rows)
    assert not list((store.root / "stage").glob(f"*/{MANIFEST}"))
    assert not run(store, Builder()).cached


def test_two_threads_with_one_key_build_once(store):
    started, outputs = threading.Barrier(2), []
    build = Builder()

    def slow(folder):
        time.sleep(0.2)
        return build(folder)

    def work():
        started.wait()
        outputs.append(run(store, slow))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert build.calls == 1
    assert sorted(output.cached for output in outputs) == [False, True]
    assert outputs[0].path == outputs[1].path


def test_a_folder_s_digest_follows_its_names_and_contents(tmp_path):
    folder = tmp_path / "folder"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "b.txt").write_text("x")
    first = path_digest(folder)
    shutil.copytree(folder, tmp_path / "copy")
    assert path_digest(tmp_path / "copy") == first
    (folder / "a" / "b.txt").write_text("y")
    changed = path_digest(folder)
    (folder / "a" / "b.txt").write_text("x")
    (folder / "a" / "b.txt").rename(folder / "a" / "c.txt")
    assert len({first, changed, path_digest(folder), path_digest(folder / "a" / "c.txt")}) == 4
