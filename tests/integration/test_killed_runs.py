"""A run killed at forty moments of all its stages ends with the very outputs of a run that nobody disturbed.

The whole process group is killed with SIGKILL, each time at a random moment of a chosen stage, and started again at
once. Training is killed at its checkpoints and the gradient pass between its shards, since that is where they go on.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import signal
import time

import pytest

from tests.integration.small_run import STAGES, Forker, contents, kill, outputs

pytestmark = pytest.mark.slow

BEGUN, AT_ONCE, FURTHER, LAUNCHED = "begun", "at once", "further", "launched"
LIGHT = [BEGUN, AT_ONCE]
HEAVY = [*LIGHT, AT_ONCE, LAUNCHED] + [FURTHER] * 4
KILLS = {  # stage -> how, in the order in which a run comes to them
    **dict.fromkeys(("ingest", "guard", "clean", "encode"), LIGHT),
    **dict.fromkeys(("warmup", "gradients"), HEAVY),
    **dict.fromkeys(("attribution", "select", "export", "analysis", "figures"), LIGHT),
    "finetune": HEAVY,
    **dict.fromkeys(("evaluate", "report"), LIGHT),
}
POLL_S = 0.002
LONGEST_S = 1200
TRIES = 5  # to catch a stage that takes milliseconds


class Watch:
    """Looks at the store while a run works on it."""

    def __init__(self, store, forker, undisturbed):
        self.store, self.forker, self.undisturbed = store, forker, list(undisturbed.values())

    def until(self, true):
        """Wait until `true()`, or the run has ended."""
        deadline = time.monotonic() + LONGEST_S
        while not true():
            assert time.monotonic() < deadline, self.forker.log.read_text()
            if not self.forker.answers.empty():
                return
            time.sleep(POLL_S)

    def is_building(self, stage):
        """Whether the run that is under way has come to the stage and found no output."""
        for note in (self.store / stage).glob(".*.holder"):
            with contextlib.suppress(OSError, ValueError):
                if json.loads(note.read_text())["pid"] == self.forker.group:
                    return (self.store / stage / f"{note.name[1:-7]}.partial").exists()
        return False

    def is_complete(self, stage):
        """Whether all outputs of the stage are there (it has one per method)."""
        return all((self.store / stage / path.name).exists() for path in self.of(stage))

    def forget(self, stage):
        """Remove what there is of a stage, so that the next run makes it again."""
        for path in (self.store / stage).glob("[!.]*"):
            shutil.rmtree(path)

    def of(self, stage):
        return [path for path in self.undisturbed if path.parent.name == stage]

    def seconds(self, stage):
        """How long the stage takes when nobody disturbs it."""
        return max(json.loads((path / "manifest.json").read_text())["seconds"] for path in self.of(stage))

    def marks(self, stage):
        """What has been finished of a stage that can go on: shards, or training checkpoints and results."""
        if stage == "gradients":
            return {path.parent.name for path in (self.store / "features").glob("*/*/shard.json")}
        results = ("checkpoint-*/optimizer.json", ".adapter.partial/*", ".merged.partial/*")  # being saved, too
        patterns = ("resume/*/balance.json", *results)
        return {str(path) for p in patterns for path in (self.store / stage).glob(f"*.partial/{p}")}

    def shards_begun(self):
        """How many shards the process that was killed had come to, by its log."""
        logs = list((self.store / "gradients").glob("*.partial/gradients.log"))
        return logs[0].read_text().count("shard begun") if logs else 0


@pytest.fixture(scope="module")
def killed(finished):
    """Kill, start again, and so on; then let it end: (stage, how, stages under way, exit code) of every attempt, the
    gradient passes, the undisturbed store, and the store."""
    undisturbed = finished.folder / "undisturbed"
    finished.store.rename(undisturbed)
    forker = Forker(finished.folder, hash_seed=2)
    rng, watch = random.Random(7), Watch(finished.store, forker, outputs(undisturbed))
    told, passes, started = [], [], time.monotonic()

    def was_killed(stage):
        return any(stage in at for *_, at, _ in told)

    for stage, ways in KILLS.items():
        for way in [*ways, *[BEGUN] * TRIES]:  # the last ones only for a stage that slipped by
            if way == BEGUN and not was_killed(stage):
                watch.forget(stage)
            elif way == BEGUN or watch.is_complete(stage):
                continue
            group = forker.start(finished.config, launcher=way == LAUNCHED)
            watch.until(lambda stage=stage: watch.is_building(stage) or watch.is_complete(stage))
            before, known = watch.marks(stage), len(watch.marks("gradients"))
            if way in (FURTHER, LAUNCHED):
                watch.until(lambda stage=stage, before=before: watch.marks(stage) - before or watch.is_complete(stage))
            longest = {BEGUN: 0, FURTHER: 0.1}.get(way, min(1.5, watch.seconds(stage)))
            time.sleep(rng.uniform(0, longest))
            at = [each for each in KILLS if watch.is_building(each)]
            kill(group)
            told.append((stage, way, at, forker.wait()))
            if at == ["gradients"] and way != LAUNCHED:
                passes.append((known, watch.shards_begun(), len(watch.marks("gradients"))))
    code, log = forker.run(finished.config)
    assert code == 0, log
    forker.close()
    print(f"{len(told)} kills in {time.monotonic() - started:.0f} s:", *told, passes, sep="\n  ")
    yield told, passes, undisturbed, finished.store
    # both are whole: leave the undisturbed one for the other tests
    finished.store.rename(finished.folder / "killed")
    undisturbed.rename(finished.store)


def test_every_stage_was_killed(killed):
    told, *_ = killed
    assert [code for *_, code in told].count(-signal.SIGKILL) >= 30
    assert {stage for *_, at, _ in told for stage in at} == set(KILLS)


@pytest.mark.parametrize("stage", STAGES)
def test_the_outputs_are_those_of_an_undisturbed_run(killed, stage):
    *_, undisturbed, store = killed
    expected, found = outputs(undisturbed)[stage], outputs(store)[stage]
    assert found.relative_to(store) == expected.relative_to(undisturbed)
    expected, found = contents(expected, made_in=store), contents(found)
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
