"""A store in a bucket: a real S3 server, a line to it that breaks, damage there, and machines that share it."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from curate.influence.features import FeatureIdentity, FeatureStore
from flows.runs import find_run, write_run
from flows.store import MANIFEST, StoreError, mirror, open_store
from flows.store.features import shared
from flows.store.mirror import MARK
from tests.flows.bucket import bucket_behind_a_line
from tests.flows.report_values import config

pytestmark = pytest.mark.slow
BUCKET, URL = "runs", "s3://runs/team/store"
SIZE = 300_000


@pytest.fixture(scope="module")
def place():
    with pytest.MonkeyPatch.context() as patch:
        pytest.importorskip("moto.server")
        pytest.importorskip("s3fs")
        with bucket_behind_a_line(patch, BUCKET) as found:
            yield found


@pytest.fixture
def bucket(place):
    """The client, with an empty bucket and a whole line."""
    client, line = place
    for each in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=each["Key"])
    yield client
    line.cut()
    line.mend()


@pytest.fixture
def line(place):
    return place[1]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(mirror, "PATIENCE_S", 1.0)


def names(bucket, prefix="team/store/"):
    found = bucket.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return {each["Key"].removeprefix(prefix) for each in found} - {MARK}


def machine(tmp_path, name):
    """A store as another machine sees it: with a cache of its own."""
    return open_store(URL, tmp_path / name)


def run(store, build=None, **changes):
    given = {"params": {}, "inputs": {}, "code": ["flows/gc.py"], **changes}
    return store.run("stage", build or unexpected, **given)


def unexpected(folder):
    raise AssertionError("it should have been found")


def write(folder):
    rng = np.random.default_rng(3)
    (folder / "part").mkdir()
    for name in ("a.bin", "part/b.bin", "part/c.bin"):
        (folder / name).write_bytes(rng.bytes(SIZE))


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_one_machine_makes_another_finds(tmp_path, bucket):
    first = run(machine(tmp_path, "one"), write)
    assert names(bucket) == {f"stage/{first.key}/{name}" for name in files(first.path)}
    second = run(machine(tmp_path, "two"))
    assert second.cached and second.path != first.path and files(second.path) == files(first.path)
    (second.path / "a.bin").write_bytes(b"rotten")
    assert files(run(machine(tmp_path, "two")).path) == files(first.path)  # fetched again, not made again


def test_a_line_that_breaks_in_an_upload_is_tried_again(tmp_path, bucket, line, caplog, monkeypatch):
    monkeypatch.setattr(mirror, "PATIENCE_S", 60.0)
    store = machine(tmp_path, "one")
    store.mirror.check()
    line.cut_after(SIZE)
    mended = threading.Timer(2.0, line.mend)
    mended.start()
    output = run(store, write)
    mended.join()
    assert f"store {URL}: " in caplog.text and "trying again" in caplog.text
    assert files(run(machine(tmp_path, "two")).path) == files(output.path)


def test_a_line_that_stays_broken_is_one_message_and_the_next_run_goes_on(tmp_path, bucket, line):
    store = machine(tmp_path, "one")
    store.mirror.check()
    line.cut_after(SIZE)
    with pytest.raises(StoreError, match=rf"store {URL}: uploading .* failed .*check the address.*then run again"):
        run(store, write)
    assert f"stage/{next((store.root / 'stage').glob('[0-9a-f]*')).name}/{MANIFEST}" not in names(bucket)
    line.mend()
    calls = []
    made_again = run(machine(tmp_path, "two"), lambda folder: (calls.append(1), write(folder))[1])
    assert calls == [1]  # what was half uploaded is not complete
    assert run(machine(tmp_path, "one")).cached
    assert files(run(machine(tmp_path, "three")).path) == files(made_again.path)


def test_an_upload_that_failed_is_made_good_by_the_next_run(tmp_path, bucket, line):
    store = machine(tmp_path, "one")
    store.mirror.check()
    line.cut_after(SIZE)
    with pytest.raises(StoreError):
        run(store, write)
    line.mend()
    output = run(machine(tmp_path, "one"))  # kept here, not made again
    assert f"stage/{output.key}/{MANIFEST}" in names(bucket)


def test_a_line_that_breaks_in_a_download_leaves_nothing_that_looks_complete(tmp_path, bucket, line):
    first = run(machine(tmp_path, "one"), write)
    store = machine(tmp_path, "two")
    store.mirror.check()
    line.cut_after(2 * SIZE)
    with pytest.raises(StoreError, match=rf"store {URL}: downloading .* failed"):
        run(store)
    assert not (store.root / "stage" / first.key).exists()
    line.mend()
    assert files(run(machine(tmp_path, "two")).path) == files(first.path)
    assert not list(store.root.glob("stage/*.fetched"))


@pytest.mark.parametrize("damage", ["flipped", "short", "gone", "manifest"])
def test_what_is_damaged_there_is_not_taken_but_made_and_uploaded_again(tmp_path, bucket, damage, caplog):
    output = run(machine(tmp_path, "one"), write)
    key = f"team/store/stage/{output.key}/{MANIFEST if damage == 'manifest' else 'part/b.bin'}"
    content = bytearray(bucket.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    content[100] ^= 1
    if damage == "gone":
        bucket.delete_object(Bucket=BUCKET, Key=key)
    else:
        bucket.put_object(Bucket=BUCKET, Key=key, Body=bytes(content if damage != "short" else content[:50]))
    again = run(machine(tmp_path, "two"), write)
    assert not again.cached and "is damaged there" in caplog.text
    assert run(machine(tmp_path, "three")).cached


def test_names_planted_there_write_nothing_outside(tmp_path, bucket):
    output = run(machine(tmp_path, "one"), write)
    key = f"team/store/stage/{output.key}/{MANIFEST}"
    told = json.loads((output.path / MANIFEST).read_text())
    told["files"]["../../../planted"] = told["files"]["a.bin"]
    for name in ("checksum", "format"):
        told.pop(name)
    bucket.put_object(Bucket=BUCKET, Key=key, Body=json.dumps(told).encode())
    bucket.put_object(Bucket=BUCKET, Key="team/store/planted", Body=b"x")
    assert not run(machine(tmp_path, "two"), write).cached
    assert not list(tmp_path.rglob("planted"))


def test_a_bucket_that_is_not_there_is_named_before_any_work(tmp_path, bucket):
    with pytest.raises(StoreError, match=r"store s3://nowhere/x: .*create the bucket"):
        run(open_store("s3://nowhere/x", tmp_path))


def test_records_are_shared_and_numbered_on(tmp_path, bucket):
    def recorded(name, seed):
        store = machine(tmp_path, name)
        settings = config(tmp_path, store=URL, store_cache=str(tmp_path / name), seed=seed)
        return write_run(settings, {"stage": run(store, write)})

    first, second = recorded("one", 1), recorded("two", 2)
    assert (first.name[:5], second.name[:5]) == ("0001-", "0002-")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)  # with a cache of its own, of the default name
        found = find_run("small", URL)
        assert found.config["seed"] == 2
        assert (found.stage("stage") / "a.bin").stat().st_size == SIZE
        assert find_run(f"small@{first.stem}", URL).config["seed"] == 1


IDENTITY = FeatureIdentity(
    kind="sketch",
    width=8,
    seed=1,
    dtype="float32",
    model="m",
    checkpoint="c",
    template="t",
    max_length=8,
    preconditioner="sgd",
    betas=(0.9, 0.999),
    eps=1e-8,
    step=1,
    parameters="p",
    targets=None,
    precision="float32",
)


def add(folder, *keys):
    """Rows that are not stored yet; returns how many there were."""
    store = FeatureStore(folder, IDENTITY)
    missing = [keys[i] for i in store.missing(keys)]
    for key in missing:  # a shard each
        values = np.full((1, 8), int(key), np.float32)
        store.write([key], values, np.ones(1, np.float32), np.ones(1, np.int32), {})
    return len(missing)


def test_shards_of_gradients_are_shared(tmp_path, bucket, caplog):
    def features(name, *keys):
        store = machine(tmp_path, name)
        folder = store.root / "features" / "f1"
        with shared(store.mirror, store.root, [folder]):
            added = add(folder, *keys)
        return folder, added

    folder, added = features("one", "1", "2", "3")
    assert added == 3
    (folder / "targets-x.safetensors").write_bytes(b"targets")
    (folder / "targets-x.safetensors.sha256").write_text("...")
    (folder / ".targets.lock").touch()
    features("one", "1")
    assert not any("lock" in name for name in names(bucket))
    other, added = features("two", "1", "2", "3", "4")
    assert added == 1  # a new machine pays for new rows only
    assert (other / "targets-x.safetensors").read_bytes() == b"targets"
    assert np.array_equal(FeatureStore(other, IDENTITY).rows(["2"])[0:1], np.full((1, 8), 2, np.float32))
    assert features("one", "4")[1] == 0
    # a shard that rots there is computed again and replaced
    values = next(name for name in sorted(names(bucket)) if name.endswith("values.npy"))
    bucket.put_object(Bucket=BUCKET, Key=f"team/store/{values}", Body=b"rotten")
    assert features("three", "1", "2", "3", "4")[1] == 1
    assert "is damaged there" in caplog.text
    assert features("four", "1", "2", "3", "4")[1] == 0


def test_shards_of_a_pass_that_failed_are_kept_there(tmp_path, bucket):
    store = machine(tmp_path, "one")
    folder = store.root / "features" / "f1"
    with pytest.raises(RuntimeError, match="killed"), shared(store.mirror, store.root, [folder]):
        add(folder, "1", "2")
        raise RuntimeError("killed")
    other = machine(tmp_path, "two")
    with shared(other.mirror, other.root, [other.root / "features" / "f1"]):
        assert add(other.root / "features" / "f1", "1", "2", "3") == 1
