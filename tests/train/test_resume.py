"""A killed run goes on to the same adapter, bit for bit, and refuses what would give another one."""

import contextlib
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from tests.tiny import save_base
from tests.train import jobs
from tests.train.jobs import ALL_METHODS, ONE, ROOT, adapter_bytes, command, environment, launch, log_lines
from train.__main__ import RESUME, run
from train.resume import STATE_FILE, ResumeError, last_checkpoint, seal
from train.settings import CoresetSettings, MixtureSettings, OptimizerSettings
from train.trainer import BalancedTrainer

STEPS = 10


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def make_job(base, tmp_path_factory):
    return partial(jobs.make_job, base, tmp_path_factory.mktemp("jobs"), max_steps=STEPS, save_every=1)


@pytest.fixture(scope="module")
def whole(make_job):
    """An undisturbed run with all three methods, dropout, micro-batches and moments for influence."""
    job = make_job("whole", **ALL_METHODS, checkpoints=2)
    run(job)
    return job


def stop_at(monkeypatch, step: int) -> None:
    real = BalancedTrainer.training_step

    def training_step(self, model, inputs, num_items_in_batch=None):
        if inputs["step"] == step:
            raise Killed
        return real(self, model, inputs, num_items_in_batch)

    monkeypatch.setattr(BalancedTrainer, "training_step", training_step)


def run_until(job, step: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(Killed):
            run(job)


@pytest.mark.parametrize("step", range(STEPS))
def test_resume_at_any_step_equals_the_undisturbed_run(make_job, whole, step):
    job = make_job(f"stopped-{step}", **ALL_METHODS, checkpoints=2)
    run_until(job, step)
    run(job)
    assert adapter_bytes(job) == adapter_bytes(whole)
    assert log_lines(job.output) == log_lines(whole.output)
    for name in ("checkpoint-1/optimizer.json", "checkpoint-2/moments.safetensors"):
        assert (job.output / name).read_bytes() == (whole.output / name).read_bytes()
    assert not (job.output / RESUME).exists()


def test_resume_twice_with_spsa_scalarization_and_rare_checkpoints(make_job):
    parts = ALL_METHODS | {
        "mixture": MixtureSettings(mode="scalarization", start=3.0, max_epochs=None),
        "coreset": CoresetSettings(feature="spsa", directions=2),
    }
    straight, stopped = make_job("straight", **parts), make_job("stopped", **parts, save_every=3)
    run(straight)
    run_until(stopped, 5)
    run_until(stopped, 8)
    run(stopped)
    assert adapter_bytes(stopped) == adapter_bytes(straight)
    assert log_lines(stopped.output) == log_lines(straight.output)


def test_a_checkpoint_cut_off_while_it_was_written_is_passed_over(make_job, whole):
    job = make_job("cut", **ALL_METHODS, checkpoints=2)
    run_until(job, 6)
    newest = last_checkpoint(job.output / RESUME)
    assert newest.name == "checkpoint-6"
    (newest / STATE_FILE).unlink()
    run(job)
    assert adapter_bytes(job) == adapter_bytes(whole)


@pytest.mark.parametrize("file", [STATE_FILE, "optimizer.pt", "adapter_model.safetensors"])
def test_a_damaged_checkpoint_is_passed_over_and_named(make_job, whole, file, caplog):
    job = make_job(f"damaged-{file}", **ALL_METHODS, checkpoints=2, save_every=2)
    run_until(job, 5)
    newest = last_checkpoint(job.output / RESUME)
    assert newest.name == "checkpoint-4"
    (newest / file).write_bytes((newest / file).read_bytes()[:100])
    run(job)
    assert adapter_bytes(job) == adapter_bytes(whole)
    assert "checkpoint-4 is damaged" in caplog.text


@pytest.mark.parametrize("saved", ["checkpoint-2", "adapter", "merged"])
def test_what_a_killed_save_left_is_gone(make_job, monkeypatch, saved):
    """safetensors writes under a name of its own first."""
    job = make_job(f"killed-saving-{saved}", checkpoints=2, merge=True)
    real = Path.rename

    def rename(path, target):
        if path.name == f".{saved}.partial":
            (path / ".tmpABCDEF").write_text("half a model")
            raise Killed
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(Killed):
            run(job)
    assert list(job.output.rglob(".tmpABCDEF"))
    run(job)
    assert list(job.output.rglob(".*")) == []
    assert (job.output / saved).is_dir()


class Bomb:
    """What would run when somebody unpickles it."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("sealed", [False, True])
def test_what_is_planted_in_a_checkpoint_is_never_run(make_job, tmp_path, sealed):
    """Also where the checksums were forged."""
    job = make_job(f"planted-{sealed}", **ALL_METHODS)
    run_until(job, 3)
    newest = last_checkpoint(job.output / RESUME)
    mark = tmp_path / "exploded"
    planted = [path for path in newest.iterdir() if path.suffix in (".pt", ".pth", ".bin")]
    assert len(planted) >= 3
    for path in planted:
        path.write_bytes(pickle.dumps(Bomb(mark)))
    if sealed:
        seal(newest, newest / STATE_FILE)
    with pytest.raises(Exception, match=r"weights_only|Weights only") if sealed else contextlib.nullcontext():
        run(job)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 3}, "seed: 17 when saved, now 3"),
        ({"coreset": CoresetSettings(feature="random")}, "coreset"),
        ({"max_steps": STEPS + 1}, "total_steps: 10 when saved, now 11"),
        ({"optimizer": OptimizerSettings(batch_size=4, micro_batch_size=2)}, "pool_size: 8 when saved, now 4"),
    ],
)
def test_changed_job_is_refused(make_job, changes, named):
    job = make_job(f"changed-{'-'.join(changes)}", **ALL_METHODS)
    run_until(job, 2)
    with pytest.raises(ResumeError) as told:
        run(job.model_copy(update=changes))
    assert named in str(told.value)
    assert "restore them, or remove the checkpoints" in str(told.value)


@pytest.mark.parametrize(("entry", "saved"), [("processes", 2), ("sources", ["a", "b", "c"])])
def test_other_world_size_and_source_list_are_refused(make_job, entry, saved):
    job = make_job(f"entry-{entry}", **ALL_METHODS)
    run_until(job, 2)
    path = last_checkpoint(job.output / RESUME) / STATE_FILE
    state = json.loads(path.read_text())
    state["identity"][entry] = saved
    path.write_text(json.dumps(state))
    seal(path.parent, path)
    with pytest.raises(ResumeError, match=f"{entry}: "):
        run(job)


def test_changed_rows_are_refused(make_job, tmp_path):
    from tests.tiny import make_rows
    from train.encoding import write_encoded

    data = tmp_path / "rows.parquet"
    write_encoded(data, make_rows(16))
    job = make_job("rows", **ALL_METHODS, data=data)
    run_until(job, 2)
    write_encoded(data, list(reversed(make_rows(16))))
    with pytest.raises(ResumeError, match="rows: "):
        run(job)


@pytest.mark.slow
def test_sigkill_at_random_moments(make_job, whole):
    """The real thing: the whole process group is killed three times, anywhere, also while a checkpoint is written."""
    job = make_job("sigkill", **ALL_METHODS, checkpoints=2)
    # one thread on both sides: the reference in this process may have used two
    reference = make_job("sigkill-reference", **ALL_METHODS, checkpoints=2)
    assert launch(reference, *ONE).returncode == 0
    chance, kills = random.Random(5), 0
    for _ in range(12):
        process = subprocess.Popen(command(job, *ONE), cwd=ROOT, env=environment(), start_new_session=True,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        if kills < 3:
            while process.poll() is None and not list((job.output / RESUME).glob("checkpoint-*")):
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.4))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
                process.wait()
                continue
        assert process.wait() == 0
        break
    assert kills >= 1
    assert adapter_bytes(job) == adapter_bytes(reference)
    assert log_lines(job.output) == log_lines(reference.output)
    shutil.rmtree(job.output)
