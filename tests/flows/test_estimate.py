"""The estimate before a run: counts come from file headers and are exact; only time and tokens are guesses."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from flows.config import validate
from flows.estimate import estimate, parameters_of, rows_and_tokens

TEXT = "naïve text of one turn, " * 4


@pytest.fixture
def config(tmp_path):
    def make(pool="pool.parquet", model="model", **source):
        return validate(
            {
                "name": "small",
                "model": str(tmp_path / model),
                "store": str(tmp_path / "store"),
                "max_length": 16,
                "data": {
                    "pool": [{"path": str(tmp_path / pool), **source}],
                    "targets": [{"path": str(tmp_path / "pool.parquet")}],
                },
                "selection": {"methods": ["bids", "random"], "budget": 0.1},
                "evaluation": {"items": [str(tmp_path / "pool.parquet")]},
            }
        )

    (tmp_path / "model").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "pool.jsonl").write_text("{}\n")
    pq.write_table(pa.table({"text": [f"{i} {TEXT}" for i in range(100)]}), tmp_path / "pool.parquet")
    save_file({"a": torch.zeros(3, 5), "b": torch.zeros(7)}, tmp_path / "model" / "one.safetensors")
    save_file({"c": torch.zeros(2, dtype=torch.bfloat16)}, tmp_path / "model" / "two.safetensors")
    return make


def test_parameters_are_counted_over_all_files(config, tmp_path):
    assert parameters_of(str(tmp_path / "model")) == 15 + 7 + 2


@pytest.mark.parametrize("model", ["empty", "some-owner/some-model"])
def test_a_model_that_is_not_here_has_no_count(config, tmp_path, model):
    assert parameters_of(str(tmp_path / model)) is None


def test_rows_are_exact_and_tokens_are_bounded_by_the_cut(config):
    rows, tokens = rows_and_tokens(config())
    assert rows == 100
    assert 0 < tokens <= 100 * 16


def test_a_limit_bounds_rows_and_tokens(config):
    whole, part = rows_and_tokens(config()), rows_and_tokens(config(limit=10))
    assert part[0] == 10
    assert part[1] == pytest.approx(whole[1] / 10)


def test_the_estimate_tells_what_will_be_selected(config, tmp_path):
    text = estimate(config())
    assert "pool: 100 rows" in text
    assert "model: 24 parameters" in text
    assert "selection: 10 rows by each of bids, random" in text
    assert str(tmp_path / "store") in text


@pytest.mark.parametrize("change", [{"pool": "pool.jsonl"}, {"model": "empty"}])
def test_what_cannot_be_known_cheaply_is_said(config, change):
    assert estimate(config(**change)).startswith("No estimate: ")
