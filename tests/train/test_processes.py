"""Two gloo processes train the adapter that one process trains on the same global batch, with every method on."""

import subprocess
import time
from functools import partial

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import save_base
from tests.train import jobs
from tests.train.jobs import ALL_METHODS, ONE, TWO, launch, log_lines
from train.settings import CoresetSettings, LoraSettings, OptimizerSettings, ReweightingSettings

pytestmark = pytest.mark.slow
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def make_job(tmp_path_factory):
    return partial(jobs.make_job, save_base(tmp_path_factory.mktemp("base")), tmp_path_factory.mktemp("jobs"))


PLAIN = {
    "reweighting": ReweightingSettings(burn_in=0.0, cap=None, temperature=0.4),
    "optimizer": OptimizerSettings(batch_size=4, learning_rate=1e-2),
}
CASES = {
    "all methods": ALL_METHODS,
    "all methods, spsa": ALL_METHODS | {"coreset": CoresetSettings(feature="spsa", directions=4)},
    "micro-batch weights": PLAIN
    | {
        "reweighting": ReweightingSettings(burn_in=0.0, scope="micro", temperature=0.4),
        "optimizer": OptimizerSettings(batch_size=8, micro_batch_size=4, learning_rate=1e-2, reduction="token"),
    },
}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_adapter_of_one(make_job, case):
    # without dropout, whose masks differ between processes; scope micro has one gather set of 8 in both
    parts = CASES[case] | {"lora": LoraSettings(r=2), "checkpoints": 1, "max_steps": 5}
    one, two = make_job(f"one {case}", **parts), make_job(f"two {case}", **parts)
    if case == "micro-batch weights":
        one = one.model_copy(update={"optimizer": one.optimizer.model_copy(update={"micro_batch_size": 8})})
    for job, options in ((one, ONE), (two, TWO)):
        done = launch(job, *options)
        assert done.returncode == 0, done.stderr[-2000:]
    mine, wanted = (load_file(job.output / "adapter" / "adapter_model.safetensors") for job in (two, one))
    assert set(mine) == set(wanted)
    assert any(value.any() for value in wanted.values())
    worst = max((mine[name] - wanted[name]).abs().max().item() for name in wanted)
    assert worst < TOLERANCE
    for ours, theirs in zip(log_lines(two.output), log_lines(one.output), strict=True):
        assert ours["selected"] == theirs["selected"]
        assert ours["trained_tokens"] == theirs["trained_tokens"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


def test_two_processes_resume_and_refuse_one(make_job):
    parts = ALL_METHODS | {"max_steps": 40, "save_every": 2}
    whole, stopped = make_job("whole", **parts), make_job("stopped", **parts)
    assert launch(whole, *TWO).returncode == 0
    process = subprocess.Popen(jobs.command(stopped, *TWO), cwd=jobs.ROOT, env=jobs.environment())
    while process.poll() is None and not list(stopped.output.glob("resume/checkpoint-*/balance.json")):
        time.sleep(0.005)
    kill_with_workers(process.pid)
    process.wait()
    assert (stopped.output / "resume").exists()  # it was killed in time
    done = launch(stopped, *ONE)
    assert done.returncode != 0
    assert "processes: 2 when saved, now 1" in done.stderr
    done = launch(stopped, *TWO)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "going on after step" in done.stdout
    mine, wanted = (load_file(job.output / "adapter" / "adapter_model.safetensors") for job in (stopped, whole))
    for name in wanted:
        torch.testing.assert_close(mine[name], wanted[name], rtol=0, atol=TOLERANCE)


def kill_with_workers(pid: int) -> None:
    """SIGKILL a launcher and its workers, which lead process groups of their own."""
    launcher = psutil.Process(pid)
    for each in [launcher, *launcher.children(recursive=True)]:
        each.kill()


def test_batch_that_two_processes_cannot_share_is_refused(make_job):
    done = launch(make_job("odd", optimizer=OptimizerSettings(batch_size=3)), *TWO)
    assert done.returncode != 0
    assert "error: batch_size 3 cannot be split over 2 processes; make it a multiple" in done.stderr
