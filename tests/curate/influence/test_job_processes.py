"""`python -m curate.influence` in real processes: killed and run again, and two that share the shards."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from curate.influence.features import FeatureStore
from curate.influence.job import read_outcomes
from curate.influence.rows import read_rows
from curate.influence.settings import GradientJob
from tests.curate.influence.builders import make_job
from tests.tiny import make_rows
from train.encoding import write_encoded

pytestmark = pytest.mark.slow  # each process imports torch and transformers
ROOT = Path(__file__).parents[3]
TWO = ROOT / "configs/accelerate/two_cpu_processes.yaml"
ROWS = 240


def command(job: GradientJob, *launcher: str) -> tuple[list[str], dict[str, str]]:
    path = job.features.with_suffix(".json")
    path.write_text(job.model_dump_json())
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return [sys.executable, *(launcher or ("-m",)), "curate.influence", str(path)], environment


def finish(job: GradientJob, *launcher: str) -> str:
    arguments, environment = command(job, *launcher)
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def shard_count(job: GradientJob) -> int:
    return len(list(job.features.glob("*/????????????????????/shard.json")))


def kill_after(job: GradientJob, shards: int) -> None:
    arguments, environment = command(job)
    process = subprocess.Popen(arguments, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    try:
        while shard_count(job) < shards:
            assert process.poll() is None, "the job ended before it could be killed"
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def values(job: GradientJob) -> list[np.ndarray]:
    rows = read_rows(job.pool, job.targets)
    found = [FeatureStore(each.store, each.identity).rows(rows.keys)[0:ROWS] for each in read_outcomes(job.output)]
    return [np.array(part) for part in found]


@pytest.fixture
def job_in(tmp_path, warmup):
    write_encoded(tmp_path / "pool.parquet", make_rows(ROWS, seed=1))
    write_encoded(tmp_path / "targets.parquet", make_rows(3, seed=2, prefix="target"))

    def make(name: str, **changes) -> GradientJob:
        own = {"features": tmp_path / name, "output": tmp_path / f"{name}-output", "sample": warmup.sample}
        return make_job(tmp_path, warmup.checkpoints, warmup.base, **(own | changes))

    return make


@pytest.mark.parametrize("settings", [{}, {"mode": "sketch", "dimension": 64, "preconditioner": "ekfac"}])
def test_killed_and_run_again_ends_with_the_same_bytes(job_in, settings):
    straight, killed = job_in("straight", **settings), job_in("killed", **settings)
    finish(straight)
    total = shard_count(straight)
    assert total == 2 * ROWS // 4
    done = []
    for shards in (3, 90):  # within the first checkpoint, and within the second
        kill_after(killed, shards)
        done.append(shard_count(killed))
    assert 3 <= done[0] < total // 2 < done[1] < total
    finish(killed)
    assert shard_count(killed) == total
    for mine, wanted in zip(values(killed), values(straight), strict=True):
        assert mine.tobytes() == wanted.tobytes()
    # the same shards, byte for byte: their names are checksums
    names = [sorted(path.parent.name for path in job.features.glob("*/*/shard.json")) for job in (killed, straight)]
    assert names[0] == names[1]


@pytest.mark.parametrize("settings", [{}, {"mode": "sketch", "dimension": 64, "preconditioner": "ekfac"}])
def test_two_processes_equal_one(job_in, settings):
    one, two = job_in("one", **settings), job_in("two", **settings)
    finish(one)
    told = finish(two, "-m", "accelerate.commands.launch", "--config_file", str(TWO), "-m")
    assert "Traceback" not in told
    for mine, wanted in zip(values(two), values(one), strict=True):
        assert mine.tobytes() == wanted.tobytes()
    outcomes = [[each.model_dump(exclude={"store"}) for each in read_outcomes(job.output)] for job in (one, two)]
    assert outcomes[0] == outcomes[1]


def test_error_in_two_processes_ends_both_with_the_reason(job_in, tmp_path):
    job = job_in("bad")
    write_encoded(tmp_path / "targets.parquet", [])
    arguments, environment = command(job, "-m", "accelerate.commands.launch", "--config_file", str(TWO), "-m")
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode != 0
    assert f"error: {job.targets} has no target with an answer to score" in done.stderr
    assert not job.output.joinpath("gradients.json").exists()


def test_bad_job_alone_is_one_line(job_in, tmp_path):
    job = job_in("bad")
    write_encoded(tmp_path / "pool.parquet", [])
    arguments, environment = command(job)
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line == f"error: {job.pool} has no row with an answer to score; check max_length and the pool"
    assert "Traceback" not in done.stderr and json.loads(job.model_dump_json())["pool"] in line
