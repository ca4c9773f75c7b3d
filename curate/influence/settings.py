"""What the influence engine is told: frozen, validated, part of the run configuration as it is."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from train.settings import Settings


class InfluenceSettings(Settings):
    mode: Literal["exact"] = Field("exact", description="exact dot products with every target gradient")
    adam_rule: Literal["less", "torch", "sgd"] = Field("less", description="how a pool gradient is preconditioned")
    tokens_per_batch: int = Field(4096, ge=16, description="padded tokens per gradient pass")
    shard_rows: int = Field(
        512, ge=1, description="pool rows per shard; a killed run goes on at the first missing shard"
    )
