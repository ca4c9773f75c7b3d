"""What is live, while a process that promotes is killed at each of its steps."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from flows.nightly.pointer import Promotions
from flows.store import StageStore, StoreError
from tests.flows.nightly.nights import latest, night, stages_of

STEPS = ("open", "os.mkdir", "os.rename", "os.symlink", "os.remove", "os.rmdir")
KILLED = 99


@pytest.fixture
def promotions(tmp_path):
    store = StageStore(tmp_path / "store")
    for number in (1, 2, 3):
        stages_of(store, number)
    return Promotions(store, "tiny")


def seen(promotions):
    """The number of what is live, as each of the links and files tells it: one, or none."""
    folder = promotions.folder
    numbers = {
        (folder / "live" / "adapter" / "number").read_text(),
        (folder / "live" / "dataset" / "number").read_text(),
        str(promotions.latest().number),
    }
    for name in ("adapter", "dataset"):
        if (folder / name).is_symlink():
            numbers.add((folder / name / "number").read_text())
    (number,) = numbers
    return int(number)


def killed_at(step, work, root):
    """Do `work` in a process that ends, without any farewell, before it changes something under `root` for the
    `step`th time; whether it came to that."""
    child = os.fork()
    if child == 0:
        left = step

        def count(event, args):
            nonlocal left
            if event not in STEPS or not any(str(arg).startswith(str(root)) for arg in args[:2]):
                return
            if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR):
                return
            left -= 1
            if left == 0:
                os._exit(KILLED)

        sys.addaudithook(count)
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED)
    return code == KILLED


def test_a_promotion_is_seen_by_every_link(promotions):
    assert promotions.latest() is None
    assert promotions.next_number() == 1
    for number in (1, 2, 3):
        promotions.finish(night(number), latest(number))
        assert seen(promotions) == number
        assert (promotions.folder / "latest.json").resolve().parent.name == f"{number:06d}"
    assert [each.number for each in promotions.history.nights()] == [1, 2, 3]
    assert sorted(path.name for path in (promotions.folder / "releases").iterdir()) == ["000002", "000003"]


def test_a_refused_night_is_recorded_and_moves_nothing(promotions):
    promotions.finish(night(1), latest(1))
    promotions.finish(night(2, "refused"))
    assert seen(promotions) == 1
    assert promotions.next_number() == 3
    assert [each.outcome for each in promotions.history.nights()] == ["promoted", "refused"]


@pytest.mark.parametrize("before", [0, 1, 2])
def test_killed_at_any_step_old_or_new_is_live_whole_and_the_next_night_goes_on(promotions, before):
    """before: how many nights were promoted already."""
    for number in range(1, before + 1):
        promotions.finish(night(number), latest(number))
    whole = promotions.folder.with_name("whole")
    if before:
        shutil.copytree(promotions.folder, whole, symlinks=True)
    tonight, outcomes, step = before + 1, [], 0
    while True:
        step += 1
        shutil.rmtree(promotions.folder, ignore_errors=True)
        if before:
            shutil.copytree(whole, promotions.folder, symlinks=True)
        was_killed = killed_at(step, lambda: promotions.finish(night(tonight), latest(tonight)), promotions.store.root)
        there = promotions.latest()
        assert there is None if not before and there is None else seen(promotions) in (before, tonight)
        promotions.recover()
        now = promotions.latest().number if promotions.latest() else 0
        assert now == (there.number if there else 0)
        recorded = [each.number for each in promotions.history.nights()] if now else []
        assert recorded == list(range(1, now + 1))
        assert not list(promotions.folder.rglob("*.partial"))
        outcomes.append(now)
        if now == before:  # the night is done once more
            assert promotions.next_number() == tonight
            promotions.finish(night(tonight), latest(tonight))
        assert seen(promotions) == tonight
        assert promotions.history.last() == tonight
        if not was_killed:
            break
    assert outcomes == sorted(outcomes)  # one step, before which the old is live and after which the new
    assert outcomes.count(before) >= 5
    assert outcomes.count(tonight) >= 3


def test_links_are_relative_so_that_a_store_can_be_moved(promotions, tmp_path):
    promotions.finish(night(1), latest(1))
    promotions.store.root.rename(tmp_path / "moved")
    assert (tmp_path / "moved/promoted/tiny/adapter/number").read_text() == "1"


def test_several_seeds_are_live_together_and_the_first_is_the_adapter(promotions):
    told = latest(1, seeds=(17, 18))
    promotions.finish(night(1), told)
    assert [kept.key for kept in promotions.latest().tuned()] == [
        told.stages["finetune-bids"].key,
        told.stages["finetune-bids-seed18"].key,
    ]
    assert (promotions.folder / "adapter").resolve().parent.name == told.stages["finetune-bids"].key


def test_a_record_that_cannot_be_read_is_an_error_with_the_remedy(promotions):
    promotions.finish(night(1), latest(1))
    path = promotions.folder / "live" / "latest.json"
    for text in ("{", '{"format": 2}'):
        path.write_text(text)
        with pytest.raises(StoreError, match=r"latest\.json is no record that .* remove the link .*live"):
            promotions.latest()


def test_the_number_counts_and_not_the_clock(promotions):
    promotions.finish(night(1, finished="2030-01-01T00:00:00Z"), latest(1))
    promotions.finish(night(2, finished="2020-01-01T00:00:00Z"), latest(2))
    assert promotions.next_number() == 3
    assert [each.number for each in promotions.history.nights()] == [1, 2]
