"""Nights of a store behind a URL: any machine may do the next one."""

from __future__ import annotations

import json
import uuid

import pytest

from flows.nightly.files import PIN, promoted_folder
from flows.nightly.history import History
from flows.nightly.pointer import Promotions
from flows.store import StageStore
from flows.store.mirror import Mirror
from tests.flows.nightly.nights import latest, night, seen, stages_of


@pytest.fixture
def machines(tmp_path):
    """What two machines know of one store, each with the stages already fetched."""
    url = f"memory://{uuid.uuid4().hex}"
    stores = [StageStore(tmp_path / name, Mirror(url)) for name in ("one", "two")]
    for store in stores:
        for number in (1, 2, 3):
            stages_of(store, number)
    return [Promotions(store, "tiny") for store in stores]


def start(promotions):
    """As every night begins."""
    with promotions.held():
        promotions.recover()


def test_the_next_night_is_another_machine_s(machines):
    one, two = machines
    start(one)
    one.finish(night(1), latest(1))
    start(two)
    assert seen(two) == 1
    assert two.next_number() == 2
    two.finish(night(2, "refused"))
    two.finish(night(3), latest(3))
    start(one)
    assert seen(one) == 3
    assert [each.outcome for each in one.history.nights()] == ["promoted", "refused", "promoted"]


def test_what_a_killed_night_did_not_upload_is_uploaded_by_the_next(machines, monkeypatch):
    one, two = machines
    start(one)
    one.finish(night(1), latest(1))
    with monkeypatch.context() as patch:  # the machine goes down before the upload
        patch.setattr(Promotions, "_share", lambda self: None)
        one.finish(night(2), latest(2))
    start(two)
    assert seen(two) == 1
    start(one)
    assert seen(one) == 2
    start(two)
    assert seen(two) == 2


def test_the_history_is_read_from_the_url_and_the_pinned_warmup_comes_along(machines, tmp_path):
    one, two = machines
    start(one)
    one.finish(night(1), latest(1))
    elsewhere = History(StageStore(tmp_path / "three", Mirror(one.store.name)), "tiny")
    assert elsewhere.nights() == one.history.nights() == [night(1)]
    pin = promoted_folder(one.store.root, "tiny") / PIN
    pin.write_text(json.dumps({"warmup": "of one"}))
    one.store.mirror.upload(one.store.root, [pin.relative_to(one.store.root).as_posix()])
    start(two)
    assert (two.folder / PIN).read_text() == pin.read_text()
