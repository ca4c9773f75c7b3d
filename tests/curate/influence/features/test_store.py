"""curate.influence.features: what is stored is read back in any order, and only what belongs together is mixed."""

import json
import logging
import os
import time

import numpy as np
import pytest

from curate.influence.features import FeatureIdentity, FeatureStore, FeatureStoreError, row_key
from tests.curate.influence.features.builders import WIDTH, identity, keys, values, write
from train.encoding import Encoded

FILES = ["values.npy", "rows.npy", "shard.json"]


def shards(folder):
    return sorted(path for path in folder.iterdir() if path.is_dir())


def flip_byte(path, at=-3):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


@pytest.fixture
def store(tmp_path):
    made = FeatureStore(tmp_path / "store", identity())
    write(made, 0, 1, 2)
    write(made, 3, 4)
    write(made, 5)
    return made


def reopened(store) -> FeatureStore:
    return FeatureStore(store.folder, store.identity)


def test_rows_come_in_the_callers_order_by_blocks(store):
    order = [4, 0, 5, 2, 0, 1]
    for opened in (store, reopened(store)):
        rows = opened.rows(keys(*order))
        assert rows.shape == (6, WIDTH)
        for part in (slice(0, 6), slice(1, 4), slice(4, 99), slice(3, 3)):
            block = rows[part]
            assert block.dtype == np.float32
            np.testing.assert_array_equal(block, values(*order[part]))
        np.testing.assert_array_equal(opened.norms(keys(*order)), np.array(order) + 0.5)
        np.testing.assert_array_equal(opened.tokens(keys(*order)), order)
    with pytest.raises(TypeError, match="by blocks"):
        store.rows(keys(1))[0]


def test_missing_names_first_positions_of_unknown_rows(store):
    assert store.missing(keys(9, 1, 8, 9, 5, 7, 8)) == [0, 2, 5]
    assert store.missing(keys(0, 1, 2, 3, 4, 5)) == []
    assert FeatureStore(store.folder / "other", store.identity).missing(keys(3, 3)) == [0]
    assert store.missing([]) == []


def test_new_rows_are_the_only_ones_computed(store):
    pool = [*range(6), 6, 7]
    missing = reopened(store).missing(keys(*pool))
    assert missing == [6, 7]
    before = {path: path.stat().st_mtime_ns for path in shards(store.folder)}
    write(store, *(pool[i] for i in missing))
    np.testing.assert_array_equal(reopened(store).rows(keys(*pool))[0:8], values(*pool))
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_layout_of_shards_does_not_change_what_is_read(tmp_path, store):
    one = FeatureStore(tmp_path / "one", identity())
    write(one, 5, 3, 1, 0, 2, 4)
    np.testing.assert_array_equal(one.rows(keys(*range(6)))[0:6], store.rows(keys(*range(6)))[0:6])


def test_equal_writes_are_one_shard(store):
    before = shards(store.folder)
    write(reopened(store), 3, 4)
    assert shards(store.folder) == before
    np.testing.assert_array_equal(reopened(store).rows(keys(3))[0:1], values(3))


def test_row_that_is_not_there_is_named(store):
    for read in (store.rows, store.norms, store.tokens, store.excluded):
        with pytest.raises(FeatureStoreError, match=f"1 of 2 rows are not in .*{keys(77)[0]}.*`missing`"):
            read(keys(0, 77))


def test_excluded_rows_hold_nan_and_their_reason(tmp_path):
    for dtype in ("float32", "float16", "int8"):
        store = FeatureStore(tmp_path / dtype, identity(dtype=dtype))
        given = values(1, 2, 3)
        given[1] = np.nan
        reason = {keys(2)[0]: "gradient has norm 0.0"}
        store.write(keys(1, 2, 3), given, np.array([1, np.nan, 1], np.float32), np.ones(3), reason)
        again = reopened(store)
        assert again.excluded(keys(3, 2, 1)) == reason and again.excluded(keys(1)) == {}
        assert again.missing(keys(1, 2, 3)) == []  # a row without a value is not tried again
        block = again.rows(keys(1, 2, 3))[0:3]
        assert np.isnan(block[1]).all() and np.isfinite(block[[0, 2]]).all()


def test_empty_columns_stay_nan(tmp_path):
    for dtype in ("float32", "int8"):
        store = FeatureStore(tmp_path / dtype, identity(kind="cosines", seed=None, targets="x", dtype=dtype))
        given = values(1, 2)
        given[:, 3] = np.nan
        store.write(keys(1, 2), given, np.ones(2), np.ones(2), {}, empty_columns=[3])
        block = reopened(store).rows(keys(1, 2))[0:2]
        np.testing.assert_array_equal(np.isnan(block), np.isnan(given))
        np.testing.assert_allclose(block, given, atol=1 / 127)  # half a step of int8, the largest value being below 1


@pytest.mark.parametrize("name", FILES)
def test_flipped_byte_sets_exactly_that_shard_aside(store, caplog, name):
    hurt = next(path for path in shards(store.folder) if json.loads((path / "shard.json").read_text())["rows"] == 2)
    flip_byte(hurt / name)
    opened = reopened(store)
    with caplog.at_level(logging.WARNING):
        assert opened.verify() == [hurt.name]
    assert opened.missing(keys(*range(6))) == [3, 4]
    assert not hurt.exists() and hurt.with_name(f"{hurt.name}.damaged").exists()
    write(opened, 3, 4)
    assert reopened(store).verify() == []
    np.testing.assert_array_equal(reopened(store).rows(keys(*range(6)))[0:6], values(*range(6)))


@pytest.mark.parametrize("name", FILES)
def test_cut_off_file_is_found_at_opening(store, caplog, name):
    hurt = shards(store.folder)[0]
    data = (hurt / name).read_bytes()
    (hurt / name).write_bytes(data[: len(data) // 2])
    with caplog.at_level(logging.WARNING):
        opened = reopened(store)
    assert f"{hurt} is damaged" in caplog.text and opened.verify() == [hurt.name]
    missing = opened.missing(keys(*range(6)))
    assert missing in ([0, 1, 2], [3, 4], [5])


def test_changed_key_or_scale_is_found_at_opening(store):
    """Values are only read in full by `verify`; what tells rows apart is checked each time."""
    hurt = next(path for path in shards(store.folder) if json.loads((path / "shard.json").read_text())["rows"] == 2)
    flip_byte(hurt / "rows.npy")
    assert reopened(store).missing(keys(*range(6))) == [3, 4]


def test_intact_store_verifies(store):
    assert store.verify() == []


def test_second_damage_of_the_same_shard_keeps_both(store):
    for _ in range(2):
        hurt = next(path for path in shards(store.folder) if "." not in path.name)
        numbers = {3: [0, 1, 2], 2: [3, 4], 1: [5]}[json.loads((hurt / "shard.json").read_text())["rows"]]
        flip_byte(hurt / "values.npy")
        opened = reopened(store)
        opened.verify()
        write(opened, *numbers)
    names = [path.name for path in shards(store.folder) if ".damaged" in path.name]
    assert names == [f"{hurt.name}.damaged", f"{hurt.name}.damaged-1"]


def test_reader_from_before_the_damage_keeps_its_rows(store):
    rows = store.rows(keys(*range(6)))
    hurt = next(path for path in shards(store.folder) if json.loads((path / "shard.json").read_text())["rows"] == 2)
    flip_byte(hurt / "values.npy")
    store.verify()
    for part in (slice(0, 3), slice(5, 6)):
        np.testing.assert_array_equal(rows[part], values(*range(6)[part]))


def test_other_identity_is_refused_by_name(store):
    other = identity(seed=8, preconditioner="torch", dtype="int8")
    with pytest.raises(FeatureStoreError) as refused:
        FeatureStore(store.folder, other)
    message = str(refused.value)
    for part in ("seed 7 != 8", "preconditioner 'less' != 'torch'", "dtype 'float32' != 'int8'", "another folder"):
        assert part in message
    assert "width" not in message and str(store.folder) in message


@pytest.mark.parametrize("field", [name for name in FeatureIdentity.model_fields if name not in ("kind", "targets")])
def test_every_field_of_the_identity_counts(store, field):
    value = getattr(store.identity, field)
    special = {"dtype": "float16", "betas": (0.9, 0.95)}
    changed = special.get(field) or ("new" if isinstance(value, str) else value + 1)
    with pytest.raises(FeatureStoreError, match=f": {field} "):
        FeatureStore(store.folder, identity(**{field: changed}))


def test_identity_that_is_lost_or_unreadable_is_refused(store):
    path = store.folder / "identity.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(FeatureStoreError, match=r"identity\.json is damaged"):
        reopened(store)
    path.unlink()
    with pytest.raises(FeatureStoreError, match=r"has shards but no identity\.json"):
        reopened(store)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "cosines"}, "cosines needs a digest of the targets"),
        ({"kind": "cosines", "targets": "x"}, "cosines must not have a seed"),
        ({"targets": "x"}, "sketch must not have a digest"),
        ({"seed": None}, "sketch needs a seed"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"wdith": 3}, "wdith"),
    ],
)
def test_identity_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        identity(**changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((keys(1, 1), values(1, 1), np.ones(2), np.ones(2), {}), "given twice"),
        ((keys(1), values(1, 2), np.ones(1), np.ones(1), {}), "do not fit 1 keys of width 5"),
        ((keys(1), values(1), np.ones(2), np.ones(1), {}), "2 norms"),
        ((keys(1), values(1), np.ones(1), np.ones(1), {"other": "why"}), "excluded row other"),
        ((["x" * 33], values(1), np.ones(1), np.ones(1), {}), "is no row key"),
        ((keys(1), values(1) * np.nan, np.ones(1), np.ones(1), {}), f"row {keys(1)[0]} has nan in column 0: exclude"),
        ((keys(1), values(1), np.ones(1), np.ones(1), {keys(1)[0]: "why"}), "excluded values are NaN"),
    ],
)
def test_writes_that_do_not_fit_are_refused_and_leave_nothing(tmp_path, arguments, message):
    store = FeatureStore(tmp_path, identity())
    with pytest.raises(FeatureStoreError, match=message):
        store.write(*arguments)
    assert shards(tmp_path) == [] and store.missing(keys(1)) == [0]


def test_nothing_to_write_writes_nothing(tmp_path):
    store = FeatureStore(tmp_path, identity())
    store.write([], values(), np.ones(0), np.ones(0), {})
    assert shards(tmp_path) == [] and store.fidelity() is None and store.figures() == {}


def test_figures_are_averaged_over_rows(store):
    store.write(keys(10, 11, 12), values(10, 11, 12), np.ones(3), np.ones(3), {}, figures={"share": 0.2})
    store.write(keys(13), values(13), np.ones(1), np.ones(1), {}, figures={"share": 0.6})
    assert reopened(store).figures() == {"share": pytest.approx(0.3)}


def test_bytes_per_row_are_those_on_disk(tmp_path):
    for dtype, size in (("float32", 4), ("float16", 2), ("int8", 1)):
        store = FeatureStore(tmp_path / dtype, identity(dtype=dtype, width=512))
        write(store, *range(2000))
        assert store.identity.bytes_per_row == 512 * size + 44
        used = sum(path.stat().st_size for path in (tmp_path / dtype).rglob("*"))
        folders_and_headers = 20_000
        assert 0 <= used - 2000 * store.identity.bytes_per_row < folders_and_headers


def test_old_leftovers_go_and_young_ones_stay(store):
    old, young = store.folder / ".partial-old", store.folder / ".partial-young"
    for path in (old, young):
        path.mkdir()
        (path / "values.npy").write_bytes(b"half")
    two_days_ago = time.time() - 48 * 3600
    os.utime(old, (two_days_ago, two_days_ago))
    opened = reopened(store)
    assert not old.exists() and young.exists()
    assert opened.missing(keys(*range(6))) == [] and opened.verify() == []


def test_key_is_the_content_and_nothing_else():
    row = Encoded("a", "web", [5, 6, 7], [-100, 6, 7])
    assert row_key(row) == row_key(Encoded("b", "book", [5, 6, 7], [-100, 6, 7], truncated=True))
    others = [
        Encoded("a", "web", [5, 6, 8], [-100, 6, 7]),
        Encoded("a", "web", [5, 6, 7], [-100, -100, 7]),
        Encoded("a", "web", [5, 6, 7, -100], [6, 7]),  # the same numbers, cut elsewhere
        Encoded("a", "web", [6, 5, 7], [-100, 6, 7]),
    ]
    assert len({row_key(other) for other in [row, *others]}) == 5
    assert len(row_key(row)) == 32
