"""What is live, while a process that promotes is killed at each of its steps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flows.nightly.pointer import Promotions
from flows.store import StageStore, StoreError
from tests.flows.nightly.nights import latest, night, seen, stages_of


@pytest.fixture
def promotions(tmp_path):
    store = StageStore(tmp_path / "store")
    for number in (1, 2, 3):
        stages_of(store, number)
    return Promotions(store, "tiny")


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


def test_killed_at_any_step_old_or_new_is_live_whole_and_the_next_night_goes_on(tmp_path):
    """In a process of its own, which has no threads and can be forked."""
    command = [sys.executable, "-m", "tests.flows.nightly.killed", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        before, old, new = map(int, line.split())
        # one step, before which the old is live and after which the new, and neither at an end of the work
        assert (before, old >= 5, new >= 3) == (before, True, True)
    assert len(done.stdout.splitlines()) == 3


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
