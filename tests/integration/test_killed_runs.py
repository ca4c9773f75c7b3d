"""A run killed at forty moments of all its stages ends with the very outputs of a run that nobody disturbed.

The whole process group is killed with SIGKILL, each time at a random moment of a chosen stage, and started again at
once. Training is killed at its checkpoints and the gradient pass between its shards, since that is where they go on.
"""

from __future__ import annotations

import json
import random
import signal
import time

import pytest

from tests.integration.small_run import STAGES, contents, kill, outputs

pytestmark = pytest.mark.slow

KILLS = {  # stage -> how often, in the order in which a run comes to them
    **dict.fromkeys(("ingest", "clean", "encode"), 2),
    "warmup": 6,
    "gradients": 8,
    "attribution": 2,
    **dict.fromkeys(("select", "export"), 2),
    "analysis": 2,
    "finetune": 8,
    **dict.fromkeys(("evaluate", "report"), 2),
}
WITH_LAUNCHER = {"warmup": 1, "gradients": 1, "finetune": 1}  # of these, kills of the processes of a real launch
POLL_S = 0.002
LONGEST_S = 1200


class Watch:
    """Looks at the store while a run works on it."""

    def __init__(self, store, forker):
        self.store, self.forker = store, forker

    def until(self, true):
        """Wait until `true()`; False if the run ended before."""
        deadline = time.monotonic() + LONGEST_S
        while not true():
            assert time.monotonic() < deadline, self.forker.log.read_text()
            if not self.forker.answers.empty():
                return False
            time.sleep(POLL_S)
        return True

    def building(self, stage):
        return any((self.store / stage).glob("*.partial"))

    def marks(self, stage):
        """What has been finished of a stage that can go on: shards, or training checkpoints and results."""
        if stage == "gradients":
            return {path.parent.name for path in (self.store / "features").glob("*/*/shard.json")}
        patterns = ("resume/*/balance.json", "adapter/*", "merged/*", "checkpoint-*/optimizer.json")
        return {str(path) for p in patterns for path in (self.store / stage).glob(f"*.partial/{p}")}

    def shards_begun(self):
        """How many shards the process that was killed had come to, by its log."""
        logs = list((self.store / "gradients").glob("*.partial/gradients.log"))
        return logs[0].read_text().count("shard begun") if logs else 0


@pytest.fixture(scope="module")
def killed(finished):
    """Kill, start again, and so on; then let it end. The undisturbed store is beside it, as `undisturbed`."""
    undisturbed = finished.folder / "undisturbed"
    finished.store.rename(undisturbed)
    rng, watch = random.Random(7), Watch(finished.store, finished.forker)
    seconds = {}
    for name, path in outputs(undisturbed).items():
        stage = name.partition("-")[0]
        seconds[stage] = max(seconds.get(stage, 0), json.loads((path / "manifest.json").read_text())["seconds"])
    told, passes, started = [], [], time.monotonic()
    for stage, count in KILLS.items():
        for number in range(count):
            launcher = number < WITH_LAUNCHER.get(stage, 0)
            group = finished.forker.start(finished.config, launcher)
            there = watch.until(lambda stage=stage: watch.building(stage))
            before = watch.marks(stage) if stage in WITH_LAUNCHER else set()
            known = len(watch.marks("gradients"))
            if launcher or (stage in WITH_LAUNCHER and number % 3):  # after more has been finished, or at once
                there = there and watch.until(
                    lambda stage=stage, before=before: watch.marks(stage) - before or not watch.building(stage)
                )
                time.sleep(rng.uniform(0, 0.15))
            else:
                time.sleep(rng.uniform(0, min(seconds[stage], 1)))
            at = [each for each in KILLS if watch.building(each)]
            kill(group)
            code = finished.forker.wait()
            told.append((stage, at, code))
            if at == ["gradients"] and not launcher:
                passes.append((known, watch.shards_begun(), len(watch.marks("gradients"))))
    code, log = finished.forker.run(finished.config)
    assert code == 0, log
    print(f"{len(told)} kills in {time.monotonic() - started:.0f} s")
    yield told, passes, undisturbed, finished.store
    # both are whole: leave the undisturbed one for the other tests
    finished.store.rename(finished.folder / "killed")
    undisturbed.rename(finished.store)


def test_every_stage_was_killed(killed):
    told, *_ = killed
    assert len([code for _, _, code in told if code == -signal.SIGKILL]) >= 30, told
    assert {stage for _, at, _ in told for stage in at} == set(KILLS)


@pytest.mark.parametrize("stage", STAGES)
def test_the_outputs_are_those_of_an_undisturbed_run(killed, stage):
    *_, undisturbed, store = killed
    expected, found = outputs(undisturbed)[stage], outputs(store)[stage]
    assert found.relative_to(store) == expected.relative_to(undisturbed)
    expected, found = contents(expected), contents(found)
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []


def test_nothing_is_left_behind(killed):
    *_, store = killed
    assert list(store.glob("*/*.partial")) == []
    assert list(store.glob("*/*.damaged*")) == []


def test_a_kill_costs_at_most_one_shard_of_gradient_work(killed):
    """Each pass began with what earlier ones had finished, and lost at most the shard it was at."""
    _, passes, *_ = killed
    assert sum(begun for _, begun, _ in passes) >= 4, passes
    for known, begun, left in passes:
        assert known + begun - 1 <= left <= known + begun, passes
