"""Promotions killed at each of their steps: `python -m tests.flows.nightly.killed FOLDER`.

For none, one and two nights that were promoted before, a forked process promotes the next one and ends, without any
farewell, before it changes something for the first, second, ... time. Prints per case how many nights were promoted
before, and after how many of the kills the old and the new one was live.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from flows.nightly.pointer import Promotions
from flows.store import StageStore
from tests.flows.nightly.nights import latest, night, seen, stages_of

STEPS = ("open", "os.mkdir", "os.rename", "os.symlink", "os.remove", "os.rmdir")
KILLED = 99


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


def killed_everywhere(promotions, before):
    """What was live after each of the kills."""
    for number in range(1, before + 1):
        promotions.finish(night(number), latest(number))
    whole = promotions.folder.with_name("whole")
    shutil.copytree(promotions.folder, whole, symlinks=True) if before else whole.mkdir(parents=True)
    tonight, live, was_killed = before + 1, [], True
    while was_killed:
        shutil.rmtree(promotions.folder, ignore_errors=True)
        shutil.copytree(whole, promotions.folder, symlinks=True)
        was_killed = killed_at(
            len(live) + 1, lambda: promotions.finish(night(tonight), latest(tonight)), promotions.store.root
        )
        there = seen(promotions) if promotions.latest() else 0
        assert there in (before, tonight)
        promotions.recover()
        assert (seen(promotions) if promotions.latest() else 0) == there
        assert [each.number for each in promotions.history.nights()] == list(range(1, there + 1)) if there else True
        assert not list(promotions.folder.rglob("*.partial"))
        live.append(there)
        if there == before:  # the night is done once more
            assert promotions.next_number() == tonight
            promotions.finish(night(tonight), latest(tonight))
        assert seen(promotions) == tonight
        assert promotions.history.last() == tonight
    assert live == sorted(live)
    return live


def main():
    for before in (0, 1, 2):
        store = StageStore(Path(sys.argv[1]) / f"after-{before}")
        for number in range(1, before + 2):
            stages_of(store, number)
        live = killed_everywhere(Promotions(store, "tiny"), before)
        print(before, live.count(before), live.count(before + 1))


if __name__ == "__main__":
    main()
