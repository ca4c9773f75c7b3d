"""A whole run with its store in a bucket: what one machine has made, another finds."""

from __future__ import annotations

import os
import shutil

import pytest

from flows.store.opening import local_name
from tests.flows.bucket import bucket_behind_a_line
from tests.integration.small_run import STAGES, contents, outputs, record

pytestmark = pytest.mark.slow
URL = "s3://runs/store"


def test_a_machine_without_any_cache_finds_the_whole_run_in_the_bucket(finished, tmp_path, monkeypatch):
    pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    cache = tmp_path / "cache"
    config = finished.config | {"store": URL, "store_cache": str(cache)}
    with bucket_behind_a_line(monkeypatch, "runs") as (bucket, _):
        environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        code, log = finished.forker.run(config, environment=environment)
        assert code == 0, log
        root = cache / local_name(URL)
        before = {stage: contents(folder) for stage, folder in outputs(root).items()}
        shutil.rmtree(cache)
        code, log = finished.forker.run(config, environment=environment)
        assert code == 0, log
        told = record(root)
        assert told["number"] == 2
        assert [name for name, stage in told["stages"].items() if not stage["cached"]] == []
        assert list(told["stages"]) == list(STAGES)
        assert {stage: contents(folder) for stage, folder in outputs(root).items()} == before
        assert contents(outputs(root)["analysis"]) == contents(outputs(finished.store)["analysis"])
        # the gradients of another run: its stage is gone, the shards are not
        keys = [each["Key"] for each in bucket.list_objects_v2(Bucket="runs", Prefix="store/")["Contents"]]
        assert any("/features/" in key for key in keys) and any("/runs/" in key for key in keys)
        for key in keys:
            if key.startswith("store/gradients/"):
                bucket.delete_object(Bucket="runs", Key=key)
        shutil.rmtree(cache)
        code, log = finished.forker.run(config, environment=environment)
        assert code == 0, log
        assert [name for name, stage in record(root)["stages"].items() if not stage["cached"]] == ["gradients"]
        assert "shard begun" not in (outputs(root)["gradients"] / "gradients.log").read_text()
        assert contents(outputs(root)["gradients"]) == before["gradients"]
