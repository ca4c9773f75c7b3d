"""What a nightly run is told beyond the run itself."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from train.settings import Settings

Require = Literal["not_worse", "better"]


class PromotionSettings(Settings):
    """Which adapter may go live and when (`equipoise nightly`)."""

    method: str | None = Field(None, description="selection whose adapter may go live; null: the first of the methods")
    require: Require = Field(
        "not_worse",
        description="not_worse: no capability is worse than what is live, beyond noise; better: the average of a "
        "metric is clearly better as well",
    )
    first: Literal["base", "none"] = Field(
        "base", description="what the first night is compared with, when nothing is live: the base model, or nothing"
    )
    never_below_base: bool = Field(
        False, description="also refuse what is worse than the base model on a capability, beyond noise"
    )
    rewarm_after: float = Field(
        0.5, ge=0, le=1, description="share of the pool that is new since the warmup, above which a new one is trained"
    )
