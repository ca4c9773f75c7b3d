"""curate.influence.shards: shard size and interruptions do not change the scores, and nothing is done twice."""

import numpy as np
import pytest

from curate.influence.exact import Cosines, pool_cosines, target_gradients
from curate.influence.shards import sharded_cosines
from tests.curate.influence.test_exact import random_checkpoint
from tests.tiny import PAD, make_model, make_rows
from train.encoding import IGNORED, Encoded

MASKED = Encoded("masked", "a", [3, 4, 5], [IGNORED] * 3)
POOL = [*make_rows(4, seed=1), MASKED, *make_rows(2, seed=5, prefix="late")]


class Scorer:
    """The real scorer, counting what it is asked for."""

    def __init__(self) -> None:
        self.loads = 0
        self.rows: list[str] = []
        self.model = make_model()
        self.unit = target_gradients(self.model, make_rows(2, seed=2, prefix="target"), PAD, 4096)
        self.checkpoint = random_checkpoint(self.model)

    def load(self):
        self.loads += 1
        return self.score

    def score(self, rows) -> Cosines:
        self.rows += [row.id for row in rows]
        return pool_cosines(self.model, self.checkpoint, rows, self.unit, PAD)


@pytest.fixture(scope="module")
def whole() -> Cosines:
    return Scorer().score(POOL)


@pytest.mark.parametrize("shard_rows", [1, 3, 7, 100])
def test_shard_size_does_not_matter(tmp_path, whole, shard_rows):
    scorer = Scorer()
    scores = sharded_cosines(tmp_path, "dots-1", POOL, shard_rows, scorer.load)
    np.testing.assert_allclose(scores.values, whole.values, atol=2e-5)  # other padding, other float32 sums
    assert scores.excluded == whole.excluded and set(whole.excluded) == {"masked"}
    assert scores.small_v_share == pytest.approx(whole.small_v_share, abs=1e-4)
    assert scorer.loads == 1 and scorer.rows == [row.id for row in POOL]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dots-1.json", "dots-1.npy"]
    np.testing.assert_array_equal(np.load(tmp_path / "dots-1.npy"), scores.values)


def interrupted_after(folder, rows_allowed: int) -> None:
    scorer = Scorer()

    def score(rows):
        if len(scorer.rows) + len(rows) > rows_allowed:
            raise KeyboardInterrupt
        return scorer.score(rows)

    with pytest.raises(KeyboardInterrupt):
        sharded_cosines(folder, "dots-1", POOL, 2, lambda: score)


@pytest.mark.parametrize("rows_allowed", [0, 2, 4, 6])
def test_interrupted_run_goes_on_and_ends_with_the_same_bytes(tmp_path, rows_allowed):
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    straight.mkdir(), resumed.mkdir()
    sharded_cosines(straight, "dots-1", POOL, 2, Scorer().load)
    interrupted_after(resumed, rows_allowed)
    scorer, found = Scorer(), []
    sharded_cosines(resumed, "dots-1", POOL, 2, scorer.load, found.append)
    assert scorer.rows == [row.id for row in POOL[rows_allowed:]]
    assert sum(found) == rows_allowed
    for name in ("dots-1.npy", "dots-1.json"):
        assert (resumed / name).read_bytes() == (straight / name).read_bytes()


def test_only_the_missing_shard_is_done_again(tmp_path):
    interrupted_after(tmp_path, 6)
    (tmp_path / "dots-1-000000002.npy").unlink()
    scorer = Scorer()
    sharded_cosines(tmp_path, "dots-1", POOL, 2, scorer.load)
    assert scorer.rows == [row.id for row in [*POOL[2:4], *POOL[6:]]]


def test_finished_checkpoint_loads_no_model(tmp_path):
    first = sharded_cosines(tmp_path, "dots-1", POOL, 3, Scorer().load)
    scorer, found = Scorer(), []
    again = sharded_cosines(tmp_path, "dots-1", POOL, 3, scorer.load, found.append)
    assert scorer.loads == 0 and found == [len(POOL)]
    np.testing.assert_array_equal(first.values, again.values)
    assert (again.excluded, again.small_v_share) == (first.excluded, first.small_v_share)


def test_shards_of_another_size_are_not_mixed_in(tmp_path, whole):
    interrupted_after(tmp_path, 6)
    scores = sharded_cosines(tmp_path, "dots-1", POOL, 3, Scorer().load)
    np.testing.assert_allclose(scores.values, whole.values, atol=2e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dots-1.json", "dots-1.npy"]
