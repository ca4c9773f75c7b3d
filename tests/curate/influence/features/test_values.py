"""curate.influence.features.values: what each number type keeps, says it keeps, and refuses."""

import numpy as np
import pytest

from curate.influence.features import FeatureStore, FeatureStoreError
from tests.curate.influence.features.builders import identity, keys, values

NUMBERS = range(64)
D = 1024


def stored(folder, dtype, given) -> tuple[FeatureStore, np.ndarray]:
    store = FeatureStore(folder, identity(dtype=dtype, width=given.shape[1]))
    names = keys(*range(len(given)))
    for start in range(0, len(given), 24):
        part = slice(start, start + 24)
        count = len(names[part])
        store.write(names[part], given[part], np.ones(count), np.ones(count), {})
    return store, FeatureStore(folder, store.identity).rows(names)[0 : len(given)]


def cosines(one, other) -> np.ndarray:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


def test_float32_keeps_every_bit(tmp_path):
    given = values(*NUMBERS, width=D)
    store, back = stored(tmp_path, "float32", given)
    np.testing.assert_array_equal(back, given)
    assert store.fidelity() is None


@pytest.mark.parametrize(
    ("dtype", "relative_noise"),
    [
        ("float16", 2**-11),  # half a unit in the last of 11 bits
        # the largest of 1024 normal values is about 3.5 deviations and at most 5; rounding error is step / sqrt(12)
        ("int8", 5 / 127 / np.sqrt(12)),
    ],
)
def test_narrow_types_report_the_fidelity_they_have(tmp_path, dtype, relative_noise):
    given = values(*NUMBERS, width=D)
    store, back = stored(tmp_path, dtype, given)
    found, true = store.fidelity(), cosines(given, back)
    assert found.rows == len(NUMBERS)
    assert found.mean == pytest.approx(true.mean(), abs=1e-12) and found.worst == pytest.approx(true.min(), abs=1e-12)
    assert 1 - relative_noise**2 < found.worst < found.mean < 1
    assert FeatureStore(tmp_path, store.identity).fidelity() == found


def test_int8_error_is_at_most_half_a_step_of_its_row(tmp_path):
    given = values(*NUMBERS, width=D) * np.logspace(-6, 0, len(NUMBERS), dtype=np.float32)[:, None]
    _, back = stored(tmp_path, "int8", given)
    step = np.abs(given).max(axis=1, keepdims=True) / 127
    assert (np.abs(back - given) <= 0.5001 * step).all()  # float32 rounding of the scale beside the half


def test_int8_keeps_a_row_of_zeros(tmp_path):
    store, back = stored(tmp_path, "int8", np.zeros((1, 4), np.float32))
    assert back.tolist() == [[0, 0, 0, 0]] and store.fidelity().worst == 1


@pytest.mark.parametrize("value", [65505.0, -1e30, np.inf, -np.inf, np.nan])
def test_float16_never_holds_a_silent_infinity(tmp_path, value):
    given = values(0, 1, 2)
    given[1, 3] = value
    store = FeatureStore(tmp_path, identity(dtype="float16"))
    with pytest.raises(FeatureStoreError, match=f"row {keys(1)[0]} has .* in column 3"):
        store.write(keys(0, 1, 2), given, np.ones(3), np.ones(3), {})
    assert store.missing(keys(0, 1, 2)) == [0, 1, 2]


def test_float16_holds_its_largest_number(tmp_path):
    _, back = stored(tmp_path, "float16", np.array([[65504, -65504]], np.float32))
    assert back.tolist() == [[65504, -65504]]


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_other_types_refuse_what_is_not_finite(tmp_path, dtype, value):
    given = values(0)
    given[0, 2] = value
    with pytest.raises(FeatureStoreError, match=rf"row {keys(0)[0]} has {value} in column 2: exclude the row"):
        FeatureStore(tmp_path, identity(dtype=dtype)).write(keys(0), given, np.ones(1), np.ones(1), {})
