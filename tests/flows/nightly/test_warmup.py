"""When the pinned warmup is kept and why a new one is trained; the training itself is in the test of whole nights."""

from __future__ import annotations

import pytest

from flows.nightly import warmup
from flows.nightly.files import PIN, Kept, promoted_folder, write_whole
from flows.nightly.warmup import Pin, keep_warmup, new_share, read_pin
from flows.stages.data import POOL
from flows.store import StageStore
from tests.flows.report_values import config as small_config
from tests.tiny import make_rows
from train.encoding import write_encoded


def encoded(store, rows):
    """The encode stage of a pool."""
    build = lambda folder: write_encoded(folder / POOL, rows)  # noqa: E731
    return store.run("encode", build, params={"rows": [row.id for row in rows]}, inputs={}, code=["train/encoding.py"])


def trained(store, name):
    build = lambda folder: (folder / "adapter").write_text(name) and None  # noqa: E731
    return store.run("warmup", build, params={"name": name}, inputs={}, code=["train/encoding.py"])


@pytest.fixture
def store(tmp_path):
    return StageStore(tmp_path / "store")


@pytest.fixture
def config(tmp_path, store):
    model = tmp_path / "model"  # and apart from the store, which changes
    model.mkdir()

    def of(**changes):
        return small_config(model, store=str(store.root), **changes)

    return of


@pytest.fixture
def first(store, config):
    """The first night's warmup, pinned with a pool of ten rows."""
    pinned, pool = trained(store, "first"), encoded(store, make_rows(10))
    pin = Pin(
        warmup=Kept(stage="warmup", key=pinned.key),
        encoded=Kept(stage="encode", key=pool.key),
        made_of=warmup._made_of(config()),
        why="the first night of this name",
    )
    path = promoted_folder(store.root, config().name) / PIN
    path.parent.mkdir(parents=True)
    write_whole(path, pin)
    return pinned


@pytest.fixture
def asked(store, monkeypatch):
    """The pools that a new warmup was asked for."""
    pools = []

    def train(config, store, encoded):
        pools.append(encoded.key)
        return trained(store, f"of {encoded.key}")

    monkeypatch.setattr(warmup, "warmup", train)
    return pools


def test_another_pool_keeps_it(store, config, first, asked):
    grown = encoded(store, [*make_rows(10)[2:], *make_rows(4, seed=9, prefix="new")])
    kept = keep_warmup(config(), store, grown)
    assert (kept.key, kept.cached, asked) == (first.key, True, [])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 18}, "changed since the last one: seed"),
        ({"max_length": 99}, "changed since the last one: max_length"),
        ({"warmup": {"checkpoints": 3}}, "changed since the last one: settings"),
        ({"seed": 18, "warmup": {"checkpoints": 3}}, "changed since the last one: settings, seed"),
    ],
)
def test_another_configuration_makes_a_new_one_and_pins_it(store, config, first, asked, changes, told):
    pool, changed = encoded(store, make_rows(10)), config(**changes)
    made = keep_warmup(changed, store, pool)
    assert asked == [pool.key]
    pin = read_pin(promoted_folder(store.root, changed.name) / PIN)
    assert (pin.warmup.key, pin.why) == (made.key, told)
    assert keep_warmup(changed, store, pool).key == made.key
    assert len(asked) == 1


def test_other_weights_or_other_code_make_a_new_one(tmp_path, store, config, first, asked, monkeypatch):
    pool = encoded(store, make_rows(10))
    (tmp_path / "model" / "weights").write_text("others")
    keep_warmup(config(), store, pool)
    monkeypatch.setattr(warmup, "WARMUP_CODE", ("train/encoding.py",))
    keep_warmup(config(), store, pool)
    assert len(asked) == 2
    assert read_pin(promoted_folder(store.root, config().name) / PIN).why == "changed since the last one: code"


@pytest.mark.parametrize(("fresh", "trains"), [(5, False), (6, True)])
def test_a_pool_that_is_mostly_new_makes_a_new_one(store, config, first, asked, fresh, trains):
    """rewarm_after is 0.5: of ten rows five may be new."""
    pool = encoded(store, [*make_rows(10)[fresh:], *make_rows(fresh, seed=9, prefix="new")])
    keep_warmup(config(), store, pool)
    assert bool(asked) is trains
    if trains:
        pin = read_pin(promoted_folder(store.root, config().name) / PIN)
        assert pin.why == "60% of the pool is new since the last one (promotion.rewarm_after)"


def test_rows_are_known_by_content_and_not_by_id(store):
    renamed = [row.__class__(f"other-{row.id}", "x", row.input_ids, row.labels) for row in make_rows(10)]
    assert new_share(encoded(store, make_rows(10)).path / POOL, encoded(store, renamed).path / POOL) == 0


@pytest.mark.parametrize("gone", ["warmup", "encode"])
def test_one_that_is_gone_from_the_store_is_made_again(store, config, first, asked, gone):
    """Of the pool it was trained from only what is new can be told; another pool needs both."""
    pool = encoded(store, make_rows(11))
    pin = read_pin(promoted_folder(store.root, config().name) / PIN)
    kept = getattr(pin, {"warmup": "warmup", "encode": "encoded"}[gone])
    (store.root / kept.stage / kept.key).rename(store.root / "elsewhere")
    keep_warmup(config(), store, pool)
    assert asked == [pool.key]
    assert "gone from the store" in read_pin(promoted_folder(store.root, config().name) / PIN).why


def test_a_pin_that_cannot_be_read_costs_a_warmup_and_no_more(store, config, first, asked, caplog):
    path = promoted_folder(store.root, config().name) / PIN
    path.write_text("{")
    keep_warmup(config(), store, encoded(store, make_rows(10)))
    assert len(asked) == 1
    assert "warmup.json is no record" in caplog.text
