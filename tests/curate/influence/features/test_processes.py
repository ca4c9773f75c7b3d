"""The feature store under several processes, and under processes that are killed. All of them are real ones."""

import json
import multiprocessing
import os
import signal
import sys
import traceback

import numpy as np
import pytest

from curate.influence.features import FeatureStore
from tests.curate.influence.features.builders import identity, keys, values, write

SHARDS = [(0, 1, 2), (3, 4), (5,)]
ROWS = [number for shard in SHARDS for number in shard]
# of a process without threads: a fork of this one, after other tests, may wait for a lock that no thread will give back
CLEAN = multiprocessing.get_context("forkserver")
CLEAN.set_forkserver_preload([__name__])
FILE_EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.listdir"}


def forked(work, *arguments) -> multiprocessing.Process:
    process = CLEAN.Process(target=work, args=arguments)
    process.start()
    return process


def fill(folder, shards) -> None:
    store = FeatureStore(folder, identity())
    for shard in shards:
        write(store, *shard)


def fill_and_die_at(folder, moment) -> None:
    """Kill this process, as a power cut would, when it touches the folder for the `moment`-th time."""
    touched = 0

    def watch(event, arguments) -> None:
        nonlocal touched
        if event in FILE_EVENTS and str(arguments[0]).startswith(str(folder)):
            touched += 1
            if touched == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    fill(folder, SHARDS)


def intact(folder) -> FeatureStore:
    store = FeatureStore(folder, identity())
    assert store.verify() == []
    return store


def test_killed_at_every_step_leaves_a_readable_store_that_goes_on(tmp_path):
    stored_after_kill = set()
    for moment in range(1, 200):
        folder = tmp_path / str(moment)
        process = forked(fill_and_die_at, folder, moment)
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        store = intact(folder)
        missing = store.missing(keys(*ROWS))
        present = [number for number in ROWS if ROWS.index(number) not in missing]
        np.testing.assert_array_equal(store.rows(keys(*present))[0 : len(present)], values(*present))
        stored_after_kill.add(tuple(present))
        if missing:
            write(store, *(ROWS[i] for i in missing))
        again = intact(folder)
        assert again.missing(keys(*ROWS)) == []
        np.testing.assert_array_equal(again.rows(keys(*ROWS))[0:6], values(*ROWS))
    assert process.exitcode == 0, "the last process was to outlive its own writes"
    # whole shards or nothing: the kills fell before, between and after the writes of all three
    assert stored_after_kill == {(), (0, 1, 2), (0, 1, 2, 3, 4), tuple(ROWS)}


def test_killed_at_any_time_by_another_process(tmp_path):
    many = [tuple(range(start, start + 8)) for start in range(0, 8000, 8)]
    process = forked(fill, tmp_path, many)
    while not any(len(path.name) == 20 for path in tmp_path.iterdir()):
        assert process.is_alive()
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    store = intact(tmp_path)
    rows = [number for shard in many for number in shard]
    missing = set(store.missing(keys(*rows)))
    present = [number for number in rows if number not in missing]
    assert present and missing
    np.testing.assert_array_equal(store.rows(keys(*present))[0 : len(present)], values(*present))


def work(folder, shards, start, failed) -> None:
    try:
        start.wait()
        fill(folder, shards)
    except BaseException:
        failed.put(traceback.format_exc())
        raise


def test_several_writers_share_a_folder(tmp_path):
    """Two processes create the store at the same moment, each writes its own shards, and both write one in common."""
    start, failed = CLEAN.Barrier(2), CLEAN.Queue()
    common = (900, 901)
    parts = [[(100 * p + i, 100 * p + i + 50) for i in range(20)] for p in range(2)]
    for p in range(2):
        parts[p].insert(5, common)
    writers = [forked(work, tmp_path, part, start, failed) for part in parts]
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0], failed.get()
    store = intact(tmp_path)
    rows = sorted({number for part in parts for shard in part for number in shard})
    assert store.missing(keys(*rows)) == []
    np.testing.assert_array_equal(store.rows(keys(*rows))[0 : len(rows)], values(*rows))
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 41  # no copy of the common one, no leftover


def claim(folder, seed, start, failed) -> None:
    start.wait()
    try:
        FeatureStore(folder, identity(seed=seed))
    except ValueError as error:
        failed.put(str(error))


def test_two_identities_cannot_claim_one_folder(tmp_path):
    start, failed = CLEAN.Barrier(2), CLEAN.Queue()
    writers = [forked(claim, tmp_path, seed, start, failed) for seed in (1, 2)]
    for writer in writers:
        writer.join()
    stored = json.loads((tmp_path / "identity.json").read_text())["seed"]
    assert f"seed {stored} != {3 - stored}" in failed.get(timeout=10) and failed.empty()


def test_writer_sees_the_others_rows_when_it_opens_again(tmp_path):
    early = FeatureStore(tmp_path, identity())
    other = forked(fill, tmp_path, SHARDS)
    other.join()
    assert early.missing(keys(*ROWS)) == list(range(6))
    assert intact(tmp_path).missing(keys(*ROWS)) == []
    with pytest.raises(ValueError, match="open the store again"):
        early.rows(keys(0))
