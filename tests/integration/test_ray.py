"""`execution.engine: ray` on a cluster of two nodes on this machine: a node lost in the middle changes no byte, what
may pass is tried again, what is wrong fails at once.

The nodes listen on loopback addresses of their own (not 127.0.0.1, which Ray takes for this machine's outer address).
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.cleaning import Reference
from curate.cleaning.settings import CleaningSettings
from curate.cleaning.shards import clean_pool
from curate.records import examples_table
from flows.cluster.cleaning import ClusterSpread
from flows.cluster.connection import ClusterError
from flows.cluster.executor import RayExecutor
from flows.cluster.worker import NodeError, check_node
from flows.config import load_config
from flows.execution import ExecutionSettings, WorkerRequest
from flows.stages.data import CLEAN_CODE
from flows.stages.evaluation import ENGINE, EXCLUDED, ITEMS, LEAKS, RESULTS, evaluate, evaluated_models
from flows.stages.influence import GRADIENT_CODE, gradients
from flows.store import StageOutput, StageStore, source_digest
from tests.curate.cleaning.test_shards import ALL, pool
from tests.flows.small_evaluation import make_place, small_config
from tests.integration.ray_tasks import Task, work
from tests.tiny import make_rows
from tests.tiny_warmup import make_warmup
from train.encoding import write_encoded

pytestmark = pytest.mark.slow  # a Prefect server, two Ray nodes and their workers, which import torch
ROOT = Path(__file__).parents[2]
HEAD, OTHERS = "127.0.0.2", iter(f"127.0.0.{number}" for number in range(3, 9))
OBJECTS = 80 * 2**20  # bytes of a node's object store
CPUS = os.cpu_count() or 1  # as many threads as the local process has, so that sums are the same to the last bit
ROWS, SHARD_ROWS, CHECKPOINTS = 480, 4, 2


@pytest.fixture(scope="module")
def cluster():
    """One node, and a Prefect server for all tests of this file."""
    from prefect.testing.utilities import prefect_test_harness
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch, prefect_test_harness(server_startup_timeout=180):
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        found = Cluster()
        add_node(found, HEAD, include_dashboard=False)
        yield found
        found.shutdown()


def add_node(cluster, address, **options):
    """A node that holds one worker of `CPUS`. Ray waits 30 s for its start, which a busy machine may need twice."""
    options |= {"num_cpus": CPUS, "object_store_memory": OBJECTS, "node_ip_address": address}
    for attempts_left in (2, 1, 0):
        try:
            return cluster.add_node(**options)
        except Exception as error:
            if not attempts_left or "timed out during startup" not in str(error):
                raise
    return None


@pytest.fixture(scope="module")
def execution(cluster):
    requests = {stage: {"cpus": CPUS} for stage in ("cleaning", "gradients", "evaluation")}
    return ExecutionSettings(engine="ray", address=cluster.address, retry_delay_seconds=0, requests=requests)


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """A configuration, and the outputs of encode and warmup that the gradients stage reads."""
    folder = tmp_path_factory.mktemp("stages")
    encoded, warmup = folder / "encoded", make_warmup(folder)
    encoded.mkdir()
    write_encoded(encoded / "pool.parquet", make_rows(ROWS, seed=1))
    write_encoded(encoded / "targets.parquet", make_rows(3, seed=2, prefix="target"))
    overrides = {"model": str(warmup.base), "influence": {"shard_rows": SHARD_ROWS}}
    config = load_config(
        ROOT / "configs" / "demo.yaml", [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    )
    outputs = [
        StageOutput(name, name, path, True, 0.0) for name, path in (("encode", encoded), ("warmup", warmup.folder))
    ]
    return config, outputs


def lose(node) -> None:
    """SIGKILL a node's raylet and everything it has started, its workers first of all."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    for each in [*raylet.children(recursive=True), raylet]:
        each.kill()


def at_work(node, tasks: str) -> bool:
    """Whether a worker of the node runs one of these tasks now, by the name that Ray gives its process."""
    for each in psutil.Process(node.all_processes["raylet"][0].process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has just ended
            if f"ray::{tasks}" in " ".join(each.cmdline()):
                return True
    return False


@contextlib.contextmanager
def second_node_lost(cluster, tasks: str, due: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """A second node, which is killed with all it has started while it is at such a task, once that is due; fails where
    it came to none."""
    node, lost = add_node(cluster, next(OTHERS)), threading.Event()
    over = threading.Event()

    def lose_it():
        while not (at_work(node, tasks) and due()):
            if over.wait(0.005):
                return
        lose(node)
        lost.set()

    killer = threading.Thread(target=lose_it, daemon=True)
    killer.start()
    try:
        yield
        assert lost.is_set(), f"the second node was never at {tasks}"
    finally:
        over.set()
        killer.join()


def files(folder: Path) -> dict[str, bytes]:
    """What a gradients stage left, without what tells when and how."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("job.json", "gradients.log", "manifest.json")
    }


def test_what_may_pass_is_tried_again_and_what_is_wrong_fails_at_once(execution, tmp_path):
    def attempts(name):
        return len((tmp_path / name).read_text().splitlines())

    with RayExecutor(execution, WorkerRequest()) as executor:
        tasks = [
            Task(tmp_path / "a", "works"),
            Task(tmp_path / "b", "loses its mount", 3),
            Task(tmp_path / "c", "dies", 2),
        ]
        done = []
        assert executor.map("tried", work, tasks, done.append) == [1, 3, 2]
        assert sorted(done) == [1, 2, 3]
        with pytest.raises(ValueError, match=r"^row r7 of d is wrong; mend it$"):
            executor.map("wrong", work, [Task(tmp_path / "d", "is wrong", 2)])
        assert attempts("d") == 1
        with pytest.raises(
            ClusterError, match=r"dying: a task was lost on the Ray cluster 3 time\(s\), often for want"
        ):
            executor.map("dying", work, [Task(tmp_path / "e", "dies", 99)])
        assert attempts("e") == 3


def test_cluster_that_cannot_do_the_work_is_refused_with_the_remedy(execution):
    with (
        pytest.raises(
            ClusterError, match=r"no node .* can hold a worker of 1000 CPU\(s\) \(nodes: \d+ CPU, 0 GPU\); lower"
        ),
        RayExecutor(execution, WorkerRequest(cpus=1000)),
    ):
        pass
    nobody = execution.model_copy(update={"address": "127.0.0.1:1"})
    with (
        pytest.raises(ClusterError, match=r"execution\.address 127\.0\.0\.1:1: no Ray cluster answers there"),
        RayExecutor(nobody, WorkerRequest()),
    ):
        pass


def test_node_without_the_store_or_with_other_sources_is_named(tmp_path):
    here = source_digest(GRADIENT_CODE)
    check_node(tmp_path, GRADIENT_CODE, here)
    with pytest.raises(NodeError, match=rf"node {os.uname().nodename} does not see .*nowhere.* share"):
        check_node(tmp_path / "nowhere", GRADIENT_CODE, here)
    with pytest.raises(NodeError, match="other sources of Equipoise"):
        check_node(tmp_path, GRADIENT_CODE, "0" * 20)


def test_evaluation_is_that_of_one_machine(cluster, execution, tmp_path, monkeypatch):
    """Also where a node is lost at it."""
    monkeypatch.setenv("OMP_NUM_THREADS", str(CPUS))  # of the engine, which is a process of its own
    place = make_place(tmp_path / "place")
    tasks = {"tasks": ["demo_knowledge"], "task_folder": str(ROOT / "configs" / "tasks"), "limit": 2, "backend": "hf"}
    config = small_config(place, tmp_path / "local", **tasks, overflow="cut", dtype="float32")
    models = evaluated_models(config, {"ours": [str(place / "run1")]})
    datasets = {"ours": str(place / "dataset")}
    local = evaluate(config, StageStore(tmp_path / "local"), models, datasets)
    there = config.model_copy(update={"execution": execution})
    with second_node_lost(cluster, "evaluation"):
        on_ray = evaluate(there, StageStore(tmp_path / "ray"), models, datasets)
    assert on_ray.key == local.key
    for name in (RESULTS, ITEMS, LEAKS, ENGINE, EXCLUDED):
        assert (on_ray.path / name).read_bytes() == (local.path / name).read_bytes(), name
    assert {row["metric"] for row in pq.read_table(on_ray.path / ITEMS).to_pylist()} >= {"acc", "bits_per_byte"}
    assert (on_ray.path / "engine" / "0" / "evaluation.log").exists()  # that a node has written


def test_cleaning_is_that_of_one_process(cluster, execution, tmp_path):
    """Also where a node is lost at it."""
    rows, settings = pool(200, 1), CleaningSettings(**ALL)
    references = [Reference("same", ("Same as the item",))]
    table = pa.concat_tables([examples_table(rows[i : i + 16]) for i in range(0, len(rows), 16)])
    pq.write_table(table, tmp_path / "pool.parquet", row_group_size=16)
    found = []
    (tmp_path / "ray").mkdir()
    (tmp_path / "local").mkdir()
    make = partial(RayExecutor, execution, execution.requests.cleaning)
    with (
        second_node_lost(cluster, "cleaning"),
        ClusterSpread(make, list(CLEAN_CODE), source_digest(CLEAN_CODE)) as spread,
    ):
        for name, options in (("local", {"processes": 1}), ("ray", {"spread": spread})):
            steps, rates = clean_pool(
                tmp_path / "pool.parquet", tmp_path / name / "out.parquet", references, settings, **options
            )
            found.append((steps.removed, steps.changed, rates))
    assert found[0] == found[1] and found[0][0] and found[0][1]
    assert (tmp_path / "ray" / "out.parquet").read_bytes() == (tmp_path / "local" / "out.parquet").read_bytes()


def test_lost_node_changes_no_byte(cluster, execution, stages, tmp_path, capsys):
    config, outputs = stages
    local = gradients(config, StageStore(tmp_path / "local"), *outputs)
    features, shards = tmp_path / "ray" / "features", CHECKPOINTS * ROWS // SHARD_ROWS

    def in_the_middle():
        return 20 < len(list(features.glob("*/*/shard.json"))) < shards

    there = config.model_copy(update={"execution": execution})
    with second_node_lost(cluster, "gradients", in_the_middle):
        on_ray = gradients(there, StageStore(tmp_path / "ray"), *outputs)
    assert on_ray.key == local.key and on_ray.rows == local.rows
    mine, wanted = files(on_ray.path), files(local.path)
    assert mine.keys() == wanted.keys() and sum(name.endswith("shard.json") for name in mine) == shards
    assert [name for name in wanted if mine[name] != wanted[name]] == []
    told = capsys.readouterr().err
    assert "gradients: 8 tasks on 2 worker(s); models loaded " in told
    # once per worker and checkpoint, and once more by the one that had to go back to the lost task's checkpoint
    assert int(told.split("models loaded ")[1].split()[0]) <= 2 * CHECKPOINTS + 1
